// What each golden transcript implies and does not say: the state of the store before it, what happens beside it, and the lines that
// a server cannot be compared on, with the reason. Lines are named `<at>`; `<at>/<connection>` is not needed, no two lines share one.

export const SESSION = '0f6d1c2b3a49586776859403a1b2c3d4';
const NEW_SESSION = '0f1122334455667788990a1b2c3d4e5f';
const EPOCH = '5d1f0a9b7c3e4826b1d09c8f7e6a5b43';
const NEXT_EPOCH = '2c9a4f7e8b1d43c69e05f7a8b6c5d4e3';
const LAST_EPOCH = 'b7e23ec29af22b0b4e41da31e868d572';
const INSTANCE = '1a5e0c6f3b7d49c2a8e4f10b6c2d9e73';
const PRODUCER = '70bd3f6a9c1e4d5f8a2b7c6d5e4f3a21';
const EARLIER = 'e15f6a7b8c9d4e0f1a2b3c4d5e6f7a8b';

const counted = (n) => `{"n":${n}}`;

/** Put a log with the messages `from` to `last` into the store. */
function log(double, name, { epoch = EPOCH, from = 1, last, base = 0, without = [], content = counted }) {
  const stream = double.stream(name);
  Object.assign(stream, { epoch, last, base });
  for (let n = from; n <= last; n += 1) {
    if (!without.includes(n)) stream.log.set(n, { text: typeof content(n) === 'string', payload: Buffer.from(content(n)) });
  }
}

/** Put a session into the store whose newest token has this generation. */
function session(double, { generation = 1, attempt = 1, confirmed = 0, isExpired = false } = {}) {
  const fence = { generation, instance: INSTANCE, attempt };
  double.sessions.set(SESSION, { principal: 'anonymous', fence, confirmed, attempts: new Map([[INSTANCE, attempt]]), isExpired });
}

const ticker = (last) => (double) => log(double, 'ticker', { last });
const both = (last, of) => (double) => {
  log(double, 'ticker', { last });
  session(double, of);
};

const NEWS = { 7: 'seven', 8: 'eight', 9: 'nine, under id 2: dropped' };
const BATCHES = { 1: 'grün', 2: '', 3: 'rot', 4: Buffer.from([0, 1]), 5: Buffer.from([255]) };
const FIRST = { 101: counted(101), 102: 'grün', 103: Buffer.from([1, 2]) };
const tickerOf = (of) => ({ ticker: (n) => of[n] ?? counted(n) });

export const SCENARIOS = {
  auth: {
    before: {
      0.01: (play) => { play.core(1).pings = 8; },
      30.03: (play) => play.core(1).notice('token_expires', 'the access token is good for another 30 s'),
      91.24: (play) => play.core(1).revoke('revoked', 'this account was closed'),
    },
    policy: 'the operator decides when to say `token_expires` and whom to revoke; the test calls for both',
  },
  batches: {
    state: (double) => {
      log(double, 'ticker', { last: 4, content: (n) => BATCHES[n] });
      session(double, { generation: 4, attempt: 0 });
      double.stream('orders').producers.set(EARLIER, 6);
    },
    content: tickerOf(BATCHES),
    before: { 0.05: ({ double }) => double.publish('ticker', BATCHES[5]) },
  },
  compaction: { state: (double) => log(double, 'ticker', { last: 105, without: [103, 104] }) },
  drain: {
    state: ticker(100),
    nodes: { 2: 'n2' },
    before: { 0.05: (play) => play.core(1).drain({ within: 20, jitter: 2, spread: 1.5, peers: ['wss://n2.example.com/feed'] }) },
    policy: 'the operator decides when a node drains and with which advice',
  },
  epoch: {
    state: (double) => {
      log(double, 'ticker', { epoch: NEXT_EPOCH, base: 37, last: 39 });
      session(double);
    },
    before: { 1.14: ({ double }) => {
      Object.assign(double.stream('ticker'), { epoch: LAST_EPOCH, base: 39 });
      double.onStored('ticker');
    } },
  },
  first: { state: ticker(100), content: tickerOf(FIRST) },
  lost_welcome: { state: both(107, { generation: 3, attempt: 4, confirmed: 3 }), nodes: { 2: 'n2', 3: 'n3' } },
  ping: {
    state: ticker(100),
    sameBurst: ['1.05'],
    before: {
      2.06: (play) => {
        play.core(1).advise(0.25);
        play.double.publish('ticker', counted(103));
        play.settle(1);
        play.swallow(1, 'ticker:103:{"n":103}');
      },
      2.09: (play) => play.core(2).advise(0.25),
    },
  },
  reject: {
    limits: { orders: { most: 20, hint: "this principal may not send more than 20 bytes to 'orders'" } },
    policy: 'that `orders` takes 20 bytes is the policy of an operator; the test has such a policy',
  },
  resume: {
    state: (double) => {
      log(double, 'ticker', { last: 106, content: (n) => (n === 103 ? FIRST[103] : counted(n)) });
      session(double);
      double.stream('orders').producers.set(PRODUCER, 3);
    },
    nodes: { 1: 'n2' },
  },
  rewritten: { state: both(97) },
  session_lost: {
    state: (double) => {
      both(102, { generation: 9, confirmed: 9, isExpired: true })(double);
      double.stream('orders').producers.set(PRODUCER, 1);
      double.epochs = [NEXT_EPOCH];
    },
    fresh: NEW_SESSION,
    content: { '~': () => 'welcome back' },
  },
  standby: {
    state: ticker(100),
    nodes: { 2: 'n2' },
    before: { 1.09: ({ double }) => double.publish('ticker', counted(102)) },
  },
  subscribe: {
    state: (double) => {
      log(double, 'ticker', { last: 100 });
      log(double, 'news', { epoch: LAST_EPOCH, from: 7, last: 7, content: (n) => NEWS[n] });
    },
    content: { ticker: counted, news: (n) => NEWS[n] },
    forbidden: { secret: "ask for the role 'auditor'" },
    after: { 0.05: '0.07', 0.1: '0.12', 0.11: '0.12' },
    policy: '`secret` is forbidden by the policy of an operator; the test has such a policy. Its refusal needs no store and may come '
      + 'before the other answer; message 9 crosses the unsubscribe on its way',
  },
  taken_over: {
    nodes: { 2: 'n2' },
    prelude: (play) => {
      play.receive(1, { type: 'hello', version: 1, features: [], instance: INSTANCE, attempt: 1, producers: [PRODUCER], streams: [],
        outbound: [], credit: { messages: 0, bytes: 0 }, max_message: 1048576 });
      play.settle(1);
      play.outputs(1).length = 0;
    },
    freshOf: { 3: NEW_SESSION },
  },
  trimmed: {
    state: (double) => {
      log(double, 'ticker', { from: 61, last: 62 });
      session(double);
    },
  },
  violation: {
    state: ticker(100),
    notCompared: { 0.05: 'the server of this transcript is at fault: no right one writes a message twice; not written' },
    omitted: ['0.05'],
  },
};
