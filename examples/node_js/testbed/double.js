// A backplane in memory with the meaning of the scripts, for tests of the session core. Steps wait in `queue` until a test runs
// them, so a test decides in which order answers come. Content of streams, sessions and epochs is set by the test.

import { crc32 } from 'node:zlib';
import { fenceLess } from '../src/fence.js';

export function message(payload) {
  const isText = typeof payload === 'string';
  return { text: isText, payload: Buffer.from(payload) };
}

class Stream {
  constructor(epoch) {
    Object.assign(this, { epoch, last: 0, base: 0, log: new Map(), producers: new Map(), tombstones: new Map(), fences: new Map(), holes: [] });
  }

  first() {
    return this.log.size === 0 ? this.last + 1 : Math.min(...this.log.keys());
  }

  crcAt(offset) {
    return this.log.has(offset) ? String(crc32(this.log.get(offset).payload)) : '';
  }

  matches(offset, crc) {
    if (crc === '' || crc === undefined || offset === 0) return '';
    if (this.log.has(offset)) return this.crcAt(offset) === String(crc) ? '1' : '0';
    return this.holes.some(([from, to]) => offset >= from && offset <= to) ? '0' : '';
  }

  put(payload) {
    this.last += 1;
    this.log.set(this.last, message(payload));
  }
}

export class Double {
  constructor({ incarnation = 'incarnation-1', epochs = [] } = {}) {
    Object.assign(this, { incarnation, epochs, streams: new Map(), sessions: new Map(), queue: [], fences: [] });
    this.onStored = () => {};
  }

  /** Return the stream, created where it does not exist. */
  stream(name) {
    if (!this.streams.has(name)) this.streams.set(name, new Stream(this.epochs.shift() ?? `epoch-${this.streams.size}`));
    return this.streams.get(name);
  }

  publish(name, ...payloads) {
    for (const payload of payloads) this.stream(name).put(payload);
    this.onStored(name);
  }

  call(owner, step, args, done) {
    this.queue.push({ owner, step, args, done });
  }

  /** Run the first waiting step that fits; return whether there was one. */
  run(fits = () => true) {
    const at = this.queue.findIndex(fits);
    if (at < 0) return false;
    const [{ step, args, done }] = this.queue.splice(at, 1);
    done(this[step](args));
    return true;
  }

  isGone(name) {
    return name.startsWith('~') && !this.sessions.has(name.slice(1));
  }

  raise(stream, session, fence) {
    const stands = stream.fences.get(session) ?? fence;
    if (fenceLess(fence, stands)) return { kind: 'old', fence: stands };
    stream.fences.set(session, fence);
    return null;
  }

  enterSession({ session, presented, fresh, instance, attempt, principal }) {
    const record = this.sessions.get(session);
    let reason = session === '' ? '' : 'unknown';
    if (record) {
      if (attempt <= (record.attempts.get(instance) ?? 0)) return { kind: 'stale' };
      if (record.principal !== principal) return { kind: 'foreign' };
      record.attempts.set(instance, attempt);
      if (!record.isExpired && presented >= record.confirmed) return this.resume(session, record, { presented, instance, attempt });
      reason = record.isExpired ? 'expired' : 'superseded';
    }
    const fence = { generation: 1, instance, attempt };
    this.sessions.set(fresh, { principal, fence, confirmed: 0, attempts: new Map([[instance, attempt]]), isExpired: false });
    return { kind: 'session', session: fresh, generation: 1, verdict: 'new', reason };
  }

  resume(session, record, { presented, instance, attempt }) {
    const generation = Math.max(record.fence.generation, presented) + 1;
    record.fence = { generation, instance, attempt };
    this.fences.push({ session, fence: record.fence });
    return { kind: 'session', session, generation, verdict: 'resumed', reason: '' };
  }

  refresh({ session, fence }) {
    const record = this.sessions.get(session);
    if (!record) return { kind: 'unknown' };
    return fenceLess(fence, record.fence) ? { kind: 'old', fence: record.fence } : { kind: 'done' };
  }

  confirm({ session, generation }) {
    const record = this.sessions.get(session);
    if (!record) return { kind: 'unknown' };
    record.confirmed = Math.max(record.confirmed, generation);
    return { kind: 'done' };
  }

  endSession({ session }) {
    this.streams.delete(`~${session}`);
    return { kind: this.sessions.delete(session) ? 'done' : 'unknown' };
  }

  trimPrivate({ session, epoch, offset }) {
    const stream = this.stream(`~${session}`);
    if (stream.epoch === epoch) for (const at of [...stream.log.keys()]) if (at <= offset) stream.log.delete(at);
    return { kind: 'done' };
  }

  readIncarnation() {
    return { kind: 'incarnation', incarnation: this.incarnation };
  }

  enterStream({ stream: name, session, fence, held, at, producers }) {
    if (this.isGone(name)) return { kind: 'unknown' };
    const stream = this.stream(name);
    const newer = this.raise(stream, session, fence);
    if (newer) return newer;
    const settled = producers.map(([id, first]) => settle(stream, id, first));
    let lifted = false;
    let matches = '';
    let position = Math.max(stream.base, stream.first() - 1);
    if (held && held.epoch === stream.epoch) {
      lifted = held.offset > stream.last;
      if (lifted) lift(stream, held.offset);
      else matches = stream.matches(held.offset, held.crc);
      position = Math.max(held.offset, stream.first() - 1);
    } else if (!held) {
      position = at === 'earliest' ? stream.first() - 1 : stream.last;
    }
    return { kind: 'stream', epoch: stream.epoch, first: stream.first(), last: stream.last, lifted, matches, position,
      crc: stream.crcAt(position), producers: settled };
  }

  append({ stream: name, session, fence, producer, first, entries }) {
    if (this.isGone(name)) return { kind: 'unknown' };
    const stream = this.stream(name);
    const newer = this.raise(stream, session, fence);
    if (newer) return newer;
    let last = stream.producers.get(producer) ?? 0;
    if (first > last + 1) return { kind: 'hole', last };
    const before = stream.last;
    for (const { kind, payload } of entries.slice(last + 1 - first)) {
      last += 1;
      if (kind === 'r') stream.tombstones.set(`${producer} ${last}`, payload);
      else stream.put(kind === '1' ? payload.toString() : payload);
    }
    stream.producers.set(producer, last);
    if (stream.last > before) this.onStored(name);
    const codes = entries.map((_, i) => [first + i, stream.tombstones.get(`${producer} ${first + i}`)]);
    return { kind: 'appended', seq: last, rejected: codes.filter(([, code]) => code !== undefined) };
  }

  read({ stream: name, epoch, after, crc, messages, bytes }) {
    if (this.isGone(name)) return { kind: 'unknown' };
    const stream = this.streams.get(name) ?? new Stream('');
    const answer = { kind: 'slice', epoch: stream.epoch, first: stream.first(), last: stream.last, matches: '', entries: [] };
    if (stream.epoch !== epoch) return answer;
    answer.matches = stream.matches(after, crc);
    if (answer.matches === '0' || after < answer.first - 1) return answer;
    let size = 0;
    for (const offset of [...stream.log.keys()].filter((at) => at > after).sort((a, b) => a - b).slice(0, messages)) {
      size += stream.log.get(offset).payload.length;
      if (answer.entries.length > 0 && size > bytes) break;
      answer.entries.push({ offset, ...stream.log.get(offset) });
    }
    return answer;
  }
}

function settle(stream, id, first) {
  const known = stream.producers.has(id);
  if (!known && first === 1) return { id, seq: 0, known: false, rejected: [] };
  const seq = stream.producers.get(id) ?? 0;
  stream.producers.set(id, Math.max(seq, first - 1));
  const rejected = [...stream.tombstones].map(([key, code]) => [...key.split(' '), code]).filter(([of, at]) => of === id && Number(at) >= first);
  return { id, seq, known, rejected: rejected.map(([, at, code]) => [Number(at), code]) };
}

function lift(stream, held) {
  stream.holes.unshift([stream.last + 1, held]);
  stream.last = held;
}
