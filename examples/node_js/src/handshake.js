// A hello on the node (section 7): the token, (a) the step in the session's slot, (b) one step for each named stream, (c) the welcome.

import { conclude, wish } from './conclude.js';
import { ProtocolError } from './errors.js';
import { cleanHint } from './types.js';

/** One text for every wrong token and every wrong principal, the same on every node. */
export const WRONG_TOKEN = 'this token or principal may not resume here';
export const FEATURES = ['batch', 'void'];
const MOST_TOMBSTONES = 4096;
const MOST_HINT = 128;
const RESERVED = { code: 'forbidden', hint: "of the names that begin with '~' only '~' alone may be followed" };

/** Return why a subscription is refused, or null. */
export function refusal(policy, stream) {
  if (stream === '~') return null;
  return stream.startsWith('~') ? RESERVED : policy.subscribe(stream);
}

/** Return what is asked of each stream's slot: stream -> {subscription, outbound}. */
function namedStreams(hello, policy) {
  const named = new Map();
  const of = (stream) => {
    if (!named.has(stream)) named.set(stream, { outbound: [] });
    return named.get(stream);
  };
  for (const entry of hello.streams) {
    if (!refusal(policy, entry.stream)) of(entry.stream).subscription = entry;
  }
  for (const entry of hello.outbound) of(entry.stream).outbound.push(entry);
  return named;
}

export class Handshake {
  constructor(session, hello) {
    this.session = session;
    this.hello = hello;
    this.named = namedStreams(hello, session.policy);
    this.answers = new Map();
    this.room = MOST_TOMBSTONES;
    if (hello.outbound.some(({ stream }) => stream.startsWith('~') && stream !== '~')) {
      throw new ProtocolError("of the names that begin with '~' only '~' alone may be said");
    }
  }

  /** (a): one step in the session's slot. */
  begin() {
    const { hello, session } = this;
    let presented = null;
    if (hello.token !== undefined) {
      presented = session.tokens.check(hello.token, hello.session);
      if (presented === null) return session.shut(4403, WRONG_TOKEN);
    }
    if (hello.standby) return session.stand();
    session.state = 'entering';
    session.since = session.io.now();
    const bucket = hello.session?.slice(0, 2) ?? session.io.randomHex(1);
    session.call('enterSession', {
      session: hello.session ?? '',
      presented,
      fresh: bucket + session.io.randomHex(15),
      instance: hello.instance,
      attempt: hello.attempt,
      principal: session.principal,
    }, (answer) => this.entered(answer));
    return undefined;
  }

  entered(answer) {
    const { hello, session } = this;
    if (answer.kind === 'stale') return session.shut(4410, 'stale attempt');
    if (answer.kind === 'foreign') return session.shut(4403, WRONG_TOKEN);
    this.verdict = answer;
    session.own(answer, hello);
    this.steps();
    return undefined;
  }

  /** (b): the slots of the named streams, side by side, and the incarnation. */
  steps() {
    const { hello, session } = this;
    this.open = this.named.size + 1;
    session.call('readIncarnation', {}, ({ incarnation }) => {
      this.incarnation = incarnation;
      this.stepDone();
    });
    for (const [stream, { subscription, outbound }] of this.named) {
      const producers = outbound.map(({ producer, first }) => [hello.producers[producer], first]);
      const args = session.streamStep(session.fullName(stream), subscription ? wish(subscription) : {}, producers);
      session.call('enterStream', args, (facts) => {
        this.answers.set(stream, facts);
        this.stepDone();
      });
    }
  }

  stepDone() {
    this.open -= 1;
    if (this.open === 0) this.welcome();
  }

  /** (c): the welcome, then the acks of the hello; then reading begins. */
  welcome() {
    const { hello, session, verdict } = this;
    const { config } = session;
    const committed = hello.outbound.map((entry) => this.committed(entry));
    const streams = hello.streams.map((entry) => this.answer(entry));
    session.state = 'open';
    session.refreshed = session.io.now();
    session.prolonged = session.refreshed;
    session.write({
      type: 'welcome', version: 1, features: FEATURES, session: session.id, token: session.tokens.mint(session.id, verdict.generation),
      generation: verdict.generation, verdict: verdict.verdict, reason: verdict.reason || undefined, ttl: config.ttl, node: config.name,
      incarnation: this.incarnation, producer_ttl: config.producerTtl, max_message: config.maxMessage, committed,
      streams: streams.map(({ told }) => told), keepalive: config.keepalive, peers: config.peers, spread: session.spread,
    });
    for (const { subscription, conclusion } of streams) {
      if (subscription) session.reading.begin(subscription, conclusion);
    }
    for (const { stream, held, acked } of hello.streams) {
      if (held && acked <= held.offset) session.reading.acknowledge(stream, held.epoch, acked);
    }
  }

  committed({ producer, stream, first }) {
    const { session, hello } = this;
    const { seq, known, rejected } = this.fitting(this.answers.get(stream).producers.find(({ id }) => id === hello.producers[producer]));
    session.sending.settled(producer, stream, Math.max(seq, first - 1));
    return { producer, stream, seq, known, rejected };
  }

  /** Say less to be consumed where there are too many tombstones: who resends the rest gets their rejects. */
  fitting(facts) {
    const { room } = this;
    this.room -= Math.min(room, facts.rejected.length);
    if (facts.rejected.length <= room) return facts;
    return { ...facts, seq: facts.rejected[room][0] - 1, rejected: facts.rejected.slice(0, room) };
  }

  answer(entry) {
    const { session } = this;
    const { stream, id } = entry;
    const refused = refusal(session.policy, stream);
    if (refused) return { told: { stream, id, error: { ...refused, hint: cleanHint(refused.hint ?? '', MOST_HINT) } } };
    const subscription = session.reading.open(stream, id, true);
    const conclusion = conclude(wish(entry), this.answers.get(stream), stream === '~' && this.verdict.verdict === 'new');
    return { told: answerFrame(stream, id, conclusion), subscription, conclusion };
  }
}

/** Put a conclusion into the words of `subscribed`. */
export function answerFrame(stream, id, { epoch, position, crc, told, live, gap }) {
  return { stream, id, epoch, from: position + 1, crc: told ? Number(crc) : undefined, live, gap: gap ?? undefined };
}
