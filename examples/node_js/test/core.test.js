// The session core against the double: rules that need a certain order of answers, which sockets do not give.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readMessage } from '../src/codec.js';
import { Player } from '../testbed/player.js';

const HELLO = { type: 'hello', version: 1, features: [], instance: 'a'.repeat(32), attempt: 1, producers: ['b'.repeat(32)], streams: [], outbound: [],
  credit: { messages: 100, bytes: 100000 }, max_message: 1000 };
const data = (stream, first, ...texts) => ({ type: 'data', stream, first, text: true, payloads: texts.map((text) => Buffer.from(text)) });

/** Say hello on connection 1; return the player and what connection 1 has said since. */
function welcomed(hello = {}, prepare = () => {}) {
  const play = new Player({});
  prepare(play.double);
  play.receive(1, { ...HELLO, ...hello });
  play.settle(1);
  return play;
}

/** Take what was said: frames, or {close}. */
function said(play) {
  return play.outputs(1).splice(0).map((output) => (output.close ? output : readMessage(output.data, output.isBinary, false)));
}

const typesOf = (frames) => frames.map(({ type, close }) => type ?? close);

test('no answer of the store is 1013, in the handshake and after it, and nothing is acked', () => {
  const play = new Player({});
  play.receive(1, HELLO);
  play.double.queue.shift().done(null);
  assert.deepEqual(typesOf(said(play)), [1013]);
  const open = welcomed();
  said(open);
  open.receive(1, data('a', 1, 'x'));
  open.core(1).turn();
  open.double.queue.shift().done(null);
  open.core(1).turn();
  assert.deepEqual(typesOf(said(open)), [1013]);
});

test('an append that finds a newer fence is 4409; a session that is gone is 1012', () => {
  for (const [answer, code] of [[{ kind: 'old', fence: { generation: 9, instance: 'c', attempt: 1 } }, 4409], [{ kind: 'unknown' }, 1012]]) {
    const play = welcomed();
    said(play);
    play.receive(1, data('a', 1, 'x'));
    play.core(1).turn();
    play.double.queue.shift().done(answer);
    assert.deepEqual(typesOf(said(play)), [code]);
  }
});

test('one append of a producer and stream is under way at a time; what arrives meanwhile gathers', () => {
  const play = welcomed();
  play.receive(1, data('a', 1, 'x'));
  play.core(1).turn();
  play.receive(1, data('a', 2, 'y'));
  play.receive(1, data('a', 3, 'z'));
  play.core(1).turn();
  assert.deepEqual(play.double.queue.map(({ args }) => args.entries.length), [1]);
  play.double.run();
  play.core(1).turn();
  assert.deepEqual(play.double.queue.map(({ args }) => [args.first, args.entries.length]), [[2, 2]]);
});

test('no ack goes beyond what was asked for, though the store has more', () => {
  const play = welcomed({}, (double) => {
    double.stream('a').producers.set('b'.repeat(32), 5);
    double.stream('a').tombstones.set(`${'b'.repeat(32)} 2`, 'gone').set(`${'b'.repeat(32)} 5`, 'gone');
  });
  said(play);
  play.receive(1, data('a', 1, 'x', 'y'));
  play.settle(1);
  const [reject, ack] = said(play);
  assert.deepEqual([reject.seq, reject.code, ack.committed], [2, 'gone', [[0, 'a', 2]]]);
});

test('a welcome tells what is committed, unknown and rejected', () => {
  const producer = HELLO.producers[0];
  const outbound = [{ producer: 0, stream: 'a', first: 2, next: 5 }, { producer: 0, stream: 'b', first: 4, next: 5 }];
  const play = welcomed({ outbound }, (double) => {
    double.stream('a').producers.set(producer, 3);
    double.stream('a').tombstones.set(`${producer} 1`, 'old').set(`${producer} 3`, 'gone');
  });
  const [{ committed }] = said(play);
  assert.deepEqual(committed.map(({ seq, known, rejected }) => [seq, known, rejected]), [[3, true, [[3, 'gone']]], [0, false, []]]);
  play.receive(1, { type: 'ping', echo: '', acked: [], sent_seqs: [[0, 'a', 3], [0, 'b', 3]] });
  assert.deepEqual(typesOf(said(play)), ['pong']);
});

test('while no hello was read or no welcome written, other frames are 4400', () => {
  const early = new Player({});
  early.receive(1, { type: 'ping', echo: '', acked: [], sent_seqs: [] });
  assert.deepEqual(typesOf(said(early)), ['error', 4400]);
  const entering = new Player({});
  entering.receive(1, HELLO);
  entering.receive(1, { type: 'ping', echo: '', acked: [], sent_seqs: [] });
  assert.deepEqual(typesOf(said(entering)), ['pong']);
  entering.receive(1, data('a', 1, 'x'));
  assert.deepEqual(typesOf(said(entering)), ['error', 4400]);
  assert.equal(entering.double.run(), true);
  assert.deepEqual(said(entering), []);
});

test('a second hello, a foreign generation in ready, and names that begin with ~ break the protocol', () => {
  for (const frame of [{ ...HELLO, attempt: 2 }, { type: 'ready', generation: 2 }, data('~x', 1, 'x')]) {
    const play = welcomed();
    said(play);
    play.receive(1, frame);
    assert.deepEqual(typesOf(said(play)), ['error', 4400], frame.type);
  }
  const named = new Player({});
  named.receive(1, { ...HELLO, outbound: [{ producer: 0, stream: '~x', first: 1, next: 2 }] });
  assert.deepEqual(typesOf(said(named)), ['error', 4400]);
});

test('skipped numbers before a message that is too large are in its gap, and the message after it follows the gap', () => {
  const play = welcomed({ streams: [{ stream: 'a', id: 1, start: 'earliest' }], max_message: 3 }, (double) => {
    double.publish('a', 'one', 'no', 'large', 'large', 'no', 'two');
    for (const offset of [2, 5]) double.stream('a').log.delete(offset);
  });
  const [, one, gap, two] = said(play);
  assert.deepEqual([one.first, gap.from, gap.to, gap.next, two.first, two.skip], [1, 2, 4, 5, 6, 4]);
});

test('an old subscription ends at once: what was read for it is not written', () => {
  const play = welcomed({ streams: [{ stream: 'a', id: 1, start: 'now' }] });
  play.settle(1);
  said(play);
  play.double.publish('a', 'x');
  play.core(1).turn();
  play.receive(1, { type: 'subscribe', stream: 'a', id: 2, start: 'now' });
  play.settle(1);
  const [answer, ...rest] = said(play);
  assert.deepEqual([answer.id, answer.from, rest], [2, 2, []]);
  play.receive(1, { type: 'subscribe', stream: 'a', id: 1, start: 'now' });
  play.receive(1, { type: 'unsubscribe', stream: 'a', id: 1 });
  play.settle(1);
  play.double.publish('a', 'y');
  play.settle(1);
  assert.deepEqual(said(play).map(({ first }) => first), [2]);
});

test('credit of a read that found nothing comes back, and no stream starves the others', () => {
  const streams = ['a', 'b', 'c'].map((stream, i) => ({ stream, id: i + 1, start: 'now' }));
  const play = welcomed({ streams, credit: { messages: 2, bytes: 1000 } });
  play.settle(1);
  said(play);
  play.double.publish('a', '1', '2', '3', '4');
  play.double.publish('c', '1');
  play.settle(1);
  assert.equal(said(play).flatMap(({ payloads }) => payloads).length, 2);
  play.receive(1, { type: 'credit', messages: 5, bytes: 1000 });
  play.settle(1);
  assert.deepEqual(said(play).map(({ stream, payloads }) => [stream, payloads.length]).sort(), [['a', 2], ['c', 1]]);
});

const ackOf = (offset, stream = 'a', epoch = 'epoch-0') => ({ type: 'ack', acked: [[stream, epoch, offset]] });
const offsetsOf = (frames) => frames.flatMap(({ first, payloads }) => payloads.map((_, i) => first + i));

/** Say hello with message 1 of `a` held, where the log has as many, and with credit for so many. */
function holdingFirst(messages, last, prepare = () => {}) {
  const streams = [{ stream: 'a', id: 1, held: { epoch: 'epoch-0', offset: 1 } }];
  return welcomed({ streams, credit: { messages, bytes: 1000 } }, (double) => {
    double.publish('a', ...Array.from({ length: last }, (_, i) => `${i + 1}`));
    prepare(double.stream('a'));
  });
}

test('after an ack above the position everything is given from the own position on, read by read, with its CRC', () => {
  const play = holdingFirst(0, 5);
  said(play);
  play.receive(1, ackOf(5));
  play.settle(1);
  assert.deepEqual(said(play), []);
  assert.deepEqual(play.core(1).reading.marks(), [['a', 1, 'epoch-0', 1]]);
  for (const [messages, offsets] of [[1, [2]], [3, [3, 4]], [10, [5]]]) {
    play.receive(1, { type: 'credit', messages, bytes: 1000 });
    play.settle(1);
    assert.deepEqual(offsetsOf(said(play)), offsets);
  }
  play.receive(1, ackOf(5));
  play.double.publish('a', '6');
  play.settle(1);
  assert.deepEqual(offsetsOf(said(play)), [6]);
});

test('a log that lost its tail and grew again gives its new messages, though an ack is above them', () => {
  const play = holdingFirst(0, 3, (stream) => {
    [2, 3].forEach((offset) => stream.log.delete(offset));
    stream.last = 1;
    ['other 2', 'other 3'].forEach((payload) => stream.put(payload));
  });
  said(play);
  play.receive(1, ackOf(3));
  play.receive(1, { type: 'credit', messages: 10, bytes: 1000 });
  play.settle(1);
  assert.deepEqual(said(play).flatMap(({ payloads }) => payloads.map(String)), ['other 2', 'other 3']);
});

test('an ack above the log\'s end is 1012, with and without credit, by a read that was made after the ack', () => {
  for (const messages of [0, 10]) {
    const play = holdingFirst(messages, 3);
    play.settle(1);
    said(play);
    play.receive(1, ackOf(4));
    play.settle(1);
    assert.deepEqual(typesOf(said(play)), [1012]);
  }
});

test('an ack that overtakes the answer of a read is not held against it', () => {
  const play = holdingFirst(10, 1);
  said(play);
  play.core(1).reading.poll(play.clock + 5, 5);
  play.core(1).turn();
  const [{ args, done }] = play.double.queue.splice(0);
  const before = play.double.read(args);
  play.double.publish('a', '2');
  play.receive(1, ackOf(2));
  done(before);
  play.settle(1);
  assert.deepEqual(offsetsOf(said(play)), [2]);
});

test('an ack of a number that is a hole at the log\'s end is 1012 when everything before it was given', () => {
  const lost = (stream) => [4, 5].forEach((offset) => stream.log.delete(offset));
  const play = holdingFirst(0, 5, lost);
  said(play);
  play.receive(1, ackOf(5));
  play.settle(1);
  for (const [messages, heard] of [[1, ['data']], [2, ['data']], [3, [1012]]]) {
    assert.equal(play.core(1).isOver, false);
    play.receive(1, { type: 'credit', messages, bytes: 1000 });
    play.settle(1);
    assert.deepEqual(typesOf(said(play)), heard);
  }
  const passed = holdingFirst(0, 5, (stream) => [3, 4].forEach((offset) => stream.log.delete(offset)));
  said(passed);
  passed.receive(1, ackOf(4));
  passed.receive(1, { type: 'credit', messages: 10, bytes: 1000 });
  passed.settle(1);
  assert.deepEqual(said(passed).map(({ first, skip, close }) => [first, skip, close]), [[2, undefined, undefined], [5, 2, undefined]]);
});

test('a doubt about an ack outlives a read without an answer', () => {
  const play = holdingFirst(10, 3, (stream) => stream.log.delete(3));
  play.settle(1);
  said(play);
  play.receive(1, ackOf(3));
  play.core(1).turn();
  play.double.queue.splice(0).forEach(({ done }) => done(null));
  assert.deepEqual(said(play), []);
  play.core(1).reading.poll(play.clock + 5, 5);
  play.settle(1);
  assert.deepEqual(typesOf(said(play)), [1012]);
});

test('the private stream is trimmed up to the ack, but not above the own position', () => {
  const play = welcomed({ streams: [{ stream: '~', id: 1, start: 'earliest' }], credit: { messages: 0, bytes: 1000 } });
  const [{ streams: [{ epoch }] }] = said(play);
  const name = `~${play.core(1).id}`;
  const kept = () => [...play.double.stream(name).log.keys()];
  play.double.publish(name, 'x', 'y', 'z');
  play.receive(1, ackOf(2, '~', epoch));
  play.settle(1);
  assert.deepEqual(kept(), [1, 2, 3]);
  for (const [messages, left] of [[1, [2, 3]], [2, [3]], [3, [3]]]) {
    play.receive(1, { type: 'credit', messages, bytes: 1000 });
    play.settle(1);
    assert.deepEqual(offsetsOf(said(play)), [messages]);
    assert.deepEqual(kept(), left);
  }
});

test('an ack above what was given is 4400 on a subscription that began here; one of another epoch or stream is void', () => {
  const fresh = welcomed({}, (double) => double.publish('a', 'x', 'y', 'z'));
  fresh.receive(1, { type: 'subscribe', stream: 'a', id: 1, start: 'now' });
  fresh.settle(1);
  said(fresh);
  fresh.receive(1, { type: 'ack', acked: [['a', 'other', 9], ['b', 'other', 9]] });
  assert.deepEqual(said(fresh), []);
  fresh.receive(1, ackOf(4));
  assert.deepEqual(typesOf(said(fresh)), ['error', 4400]);
});

test('a log that is cut while it is read becomes a gap with the own position as held', () => {
  const play = welcomed({ streams: [{ stream: 'a', id: 1, start: 'earliest' }] }, (double) => double.publish('a', 'x', 'y', 'z'));
  said(play);
  const stream = play.double.stream('a');
  stream.last = 1;
  [2, 3].forEach((offset) => stream.log.delete(offset));
  play.core(1).woken('a');
  play.settle(1);
  play.double.publish('a', 'new');
  play.settle(1);
  const [gap, message] = said(play);
  assert.deepEqual([gap.from, gap.to, gap.next, gap.reason, message.first, message.skip], [1, 3, 4, 'rewritten', 4, undefined]);
});

test('leaving: what was read is committed and acked before 1012; a bye is obeyed after the acks', () => {
  for (const [leave, code] of [[(play) => play.core(1).leave(), 1012], [(play) => play.receive(1, { type: 'bye', code: 'closed' }), 1000]]) {
    const play = welcomed();
    said(play);
    play.receive(1, data('a', 1, 'x'));
    leave(play);
    play.receive(1, data('a', 2, 'after'));
    play.settle(1);
    const frames = said(play);
    assert.deepEqual(typesOf(frames), ['ack', code]);
    assert.deepEqual(frames[0].committed, [[0, 'a', 1]]);
  }
});

test('the session is refreshed every third of its ttl, and a fence of its own is no end', () => {
  const play = welcomed();
  for (let i = 0; i < 205; i += 1) {
    play.pass();
    play.core(1).lifeSign(false);
  }
  assert.equal(play.double.queue.filter(({ step }) => step === 'refresh').length, 1);
  said(play);
  play.core(1).raised(play.core(1).id, play.core(1).fence);
  play.core(1).raised('other', { generation: 9, instance: 'z', attempt: 1 });
  assert.deepEqual(said(play), []);
  play.core(1).raised(play.core(1).id, { generation: 9, instance: 'z', attempt: 1 });
  assert.deepEqual(said(play), [{ close: 4409, reason: 'instance=z' }]);
});

test('a flood of steps and of messages is held back until the store has answered', () => {
  const play = welcomed();
  const pauses = [];
  play.core(1).io.pause = (yes) => pauses.push(yes);
  for (let i = 1; i <= 5000; i += 1) play.receive(1, data('a', i, 'x'));
  assert.deepEqual(pauses, [true]);
  play.settle(1);
  assert.deepEqual(pauses, [true, false]);
  for (let i = 1; i <= 300; i += 1) play.receive(1, { type: 'subscribe', stream: `s${i}`, id: i, start: 'now' });
  assert.deepEqual(pauses, [true, false, true]);
});

test('to a client that does not read go no data and only the newest pong', () => {
  const play = welcomed({ streams: [{ stream: 'a', id: 1, start: 'now' }] });
  play.settle(1);
  said(play);
  let isBlocked = true;
  play.core(1).io.blocked = () => isBlocked;
  for (const echo of ['1', '2', '3']) play.receive(1, { type: 'ping', echo, acked: [], sent_seqs: [] });
  play.double.publish('a', 'x');
  play.settle(1);
  assert.deepEqual(said(play), []);
  isBlocked = false;
  play.settle(1);
  assert.deepEqual(said(play).map(({ type, echo }) => [type, echo]), [['pong', '3'], ['data', undefined]]);
});

test('an unknown outcome of a step that owes the client nothing ends nothing, and the step is asked for again when it is due', () => {
  const play = welcomed({ streams: [{ stream: '~', id: 1, start: 'earliest' }, { stream: 'a', id: 2, start: 'now' }] });
  const [{ generation, streams }] = said(play);
  const name = `~${play.core(1).id}`;
  const fail = (step) => {
    play.core(1).turn();
    const at = play.double.queue.findIndex((one) => one.step === step);
    assert.ok(at >= 0, step);
    play.double.queue.splice(at, 1)[0].done(null);
    assert.deepEqual(said(play), [], step);
  };
  play.receive(1, { type: 'ready', generation });
  fail('confirm');
  play.double.publish(name, 'x', 'y');
  play.core(1).woken(name);
  fail('read');
  play.core(1).reading.poll(play.clock + 5, 5);
  play.settle(1);
  assert.deepEqual(said(play).map(({ stream, first }) => [stream, first]), [['~', 1]]);
  const ack = { type: 'ack', acked: [['~', streams[0].epoch, 1]] };
  play.receive(1, ack);
  fail('trimPrivate');
  play.receive(1, ack);
  play.settle(1);
  assert.deepEqual([...play.double.stream(name).log.keys()], [2]);
  const isRefresh = ({ step }) => step === 'refresh';
  const live = (until) => {
    while (play.clock < until) {
      play.core(1).lifeSign(false);
      play.pass();
      if (play.double.queue.some(isRefresh)) return true;
    }
    return false;
  };
  assert.equal(live(20.5), true);
  fail('refresh');
  assert.equal(live(play.clock + 0.8), false);
  assert.equal(live(play.clock + 0.4), true);
  fail('refresh');
  while (play.clock < 44.9) if (live(44.9)) fail('refresh');
  assert.equal(live(play.clock + 1.2), true);
  play.double.queue.splice(play.double.queue.findIndex(isRefresh), 1)[0].done(null);
  assert.deepEqual(typesOf(said(play)), [1013]);
});

test('a node that leaves says drain to those who are welcomed; everybody else is closed 1012 at once', () => {
  const advice = { within: 1, jitter: 0, spread: 0, peers: [] };
  const open = welcomed();
  said(open);
  open.core(1).drain(advice);
  assert.deepEqual(typesOf(said(open)), ['drain']);
  const waiting = new Player({});
  const standing = new Player({});
  standing.receive(1, { ...HELLO, standby: true });
  said(standing);
  const entering = new Player({});
  entering.receive(1, HELLO);
  for (const play of [waiting, standing, entering]) {
    play.core(1).drain(advice);
    assert.deepEqual(typesOf(said(play)), [1012]);
  }
});

test('a welcome names 4096 tombstones at most and says that less is consumed; the rest are told with the append that asks again', () => {
  const producer = HELLO.producers[0];
  const most = 4096;
  const outbound = ['a', 'b'].map((stream) => ({ producer: 0, stream, first: 1, next: most + 10 }));
  const play = welcomed({ outbound }, (double) => {
    for (const stream of ['a', 'b']) {
      double.stream(stream).producers.set(producer, most + 1);
      for (let seq = 1; seq <= most + 1; seq += 1) double.stream(stream).tombstones.set(`${producer} ${seq}`, 'gone');
    }
  });
  const [{ committed }] = said(play);
  assert.deepEqual(committed.map(({ seq, rejected }) => [seq, rejected.length]), [[most, most], [0, 0]]);
  play.receive(1, data('a', most + 1, 'x'));
  play.settle(1);
  const [reject, ack] = said(play);
  assert.deepEqual([reject.seq, reject.code, ack.committed], [most + 1, 'gone', [[0, 'a', most + 1]]]);
});

test('a stream that is refused in a welcome has a short hint', () => {
  const play = new Player({ forbidden: { a: 'x'.repeat(1000) } });
  play.receive(1, { ...HELLO, streams: [{ stream: 'a', id: 1, start: 'now' }] });
  play.settle(1);
  assert.equal(said(play)[0].streams[0].error.hint.length, 128);
});
