// What clients send: data frames gather for each (producer, stream), one append of each is under way at a time; its answer becomes
// rejects, then an ack. Never does an ack go beyond what was asked for.

import { crc32 } from 'node:zlib';
import { ProtocolError } from './errors.js';
import { cleanHint } from './types.js';

const MOST_MESSAGES = 1024;
const MOST_BYTES = 1048576;
const HIGH_MESSAGES = 4096;
const HIGH_BYTES = 4 * 1048576;
const ENTRY_COST = 64;
const MOST_MARKS = 8192;
const MOST_LANES = 16384;

const markOf = (lanes) => lanes.map((lane) => [lane.producer, lane.stream, lane.committed]);

/** Return the rejects among `rejected` that lie in the batch, each with our hint where it was we who refused just now. */
function told(batch, rejected) {
  const hints = new Map(batch.map(({ seq, entry }) => [seq, entry]));
  return rejected.map(([seq, code]) => {
    const entry = hints.get(seq);
    return { seq, code, hint: entry?.kind === 'r' && entry.payload === code ? entry.hint : '' };
  });
}

class Lane {
  constructor(producer, stream) {
    this.producer = producer;
    this.stream = stream;
    this.waiting = [];
    this.batch = null;
    this.received = 0;
    this.committed = 0;
  }

  /** Take from what waits: seqs without a hole, not too many at once. */
  take() {
    let bytes = 0;
    let count = 0;
    for (const { seq, entry } of this.waiting) {
      bytes += entry.payload.length;
      if (count === MOST_MESSAGES || (count > 0 && (bytes > MOST_BYTES || seq !== this.waiting[count - 1].seq + 1))) break;
      count += 1;
    }
    this.batch = this.waiting.splice(0, count);
    return this.batch;
  }
}

export class Sending {
  /** @param session what it needs of a session: config, policy, fence, producers, fullName(), call(), write(), shut(), io */
  constructor(session) {
    this.session = session;
    this.lanes = new Map();
    this.ready = new Set();
    this.toAck = new Set();
    this.messages = 0;
    this.bytes = 0;
  }

  lane(producer, stream) {
    const key = `${producer} ${stream}`;
    if (!this.lanes.has(key)) this.lanes.set(key, new Lane(producer, stream));
    return this.lanes.get(key);
  }

  /** The welcome told this: marks of the client may name it. */
  settled(producer, stream, seq) {
    this.lane(producer, stream).received = seq;
  }

  /** A data frame came. */
  receive(frame) {
    if (frame.producer >= this.session.producers.length) throw new ProtocolError("'p' names a producer that the hello does not list");
    if (frame.stream.startsWith('~') && frame.stream !== '~') throw new ProtocolError("of the names that begin with '~' only '~' alone may be said");
    if (this.lanes.size >= MOST_LANES) return this.session.shut(4429, 'data for too many streams on one connection');
    const lane = this.lane(frame.producer, frame.stream);
    const refusal = this.session.policy.publish(frame.stream);
    frame.payloads.forEach((payload, i) => {
      const entry = this.entry(frame, payload, refusal);
      lane.waiting.push({ seq: frame.first + i, entry });
      this.count(1, entry);
    });
    lane.received = Math.max(lane.received, frame.first + frame.payloads.length - 1);
    this.ready.add(lane);
    return undefined;
  }

  entry(frame, payload, refusal) {
    const { maxMessage } = this.session.config;
    const tombstone = (code, hint = '') => ({ kind: 'r', crc: 0, payload: code, hint });
    if (frame.code !== undefined) return tombstone(frame.code);
    if (frame.stream === '~') return tombstone('forbidden', "'~' is written by the server only");
    if (payload.length > maxMessage) return tombstone('too_large', `at most ${maxMessage} bytes`);
    const refused = refusal ?? this.session.policy.message(frame.stream, payload);
    if (refused) return tombstone(refused.code, cleanHint(refused.hint ?? ''));
    return { kind: frame.text ? '1' : '0', crc: crc32(payload), payload };
  }

  count(sign, entry) {
    this.messages += sign;
    this.bytes += sign * (entry.payload.length + ENTRY_COST);
  }

  /** Return whether more waits than the most that should, divided by `part`. */
  waits(part) {
    return this.messages > HIGH_MESSAGES / part || this.bytes > HIGH_BYTES / part;
  }

  /** Start every append that can start. */
  start() {
    for (const lane of this.ready) {
      if (lane.batch) continue;
      this.ready.delete(lane);
      const batch = lane.take();
      const args = {
        stream: this.session.fullName(lane.stream),
        session: this.session.id,
        fence: this.session.fence,
        producer: this.session.producers[lane.producer],
        first: batch[0].seq,
        entries: batch.map(({ entry }) => entry),
      };
      this.session.call('append', args, (answer) => this.appended(lane, answer));
    }
  }

  appended(lane, answer) {
    if (answer.kind === 'hole') return this.session.shut(1012, 'a message is missing');
    const { batch } = lane;
    lane.batch = null;
    for (const { entry } of batch) this.count(-1, entry);
    for (const { seq, code, hint } of told(batch, answer.rejected)) {
      this.session.write({ type: 'reject', producer: lane.producer, stream: lane.stream, seq, code, hint });
    }
    const end = Math.min(answer.seq, batch.at(-1).seq);
    if (end > lane.committed) lane.committed = end;
    this.toAck.add(lane);
    if (lane.waiting.length > 0) this.ready.add(lane);
  }

  /** Write what was committed since the last ack. */
  ack() {
    if (this.toAck.size === 0) return;
    const committed = markOf([...this.toAck].slice(0, MOST_MARKS));
    for (const lane of [...this.toAck].slice(0, MOST_MARKS)) this.toAck.delete(lane);
    this.session.write({ type: 'ack', committed });
    this.ack();
  }

  /** Return the marks of everything committed on this connection, which make an ack that is due needless. */
  marks() {
    const lanes = [...this.lanes.values()].filter((lane) => lane.committed > 0).slice(0, MOST_MARKS);
    for (const lane of lanes) this.toAck.delete(lane);
    return markOf(lanes);
  }

  /** Return whether the client wrote more than came. */
  swallowed(marks) {
    return marks.some(([producer, stream, seq]) => (this.lanes.get(`${producer} ${stream}`)?.received ?? 0) < seq);
  }

  get idle() {
    return this.messages === 0;
  }
}
