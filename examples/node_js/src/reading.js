// What clients read: subscriptions, credit, and one read of each at a time, in turns. A read that shows that the position is not
// what the log has leads to a new step of the stream and to a gap. Data goes out only as far as both totals of credit cover it.

import { crc32 } from 'node:zlib';
import { conclude } from './conclude.js';
import { ProtocolError } from './errors.js';

const READ_MESSAGES = 64;
const READ_BYTES = 262144;
const READS_AT_ONCE = 8;
const FRAME_MESSAGES = 64;
const FRAME_BYTES = 65536;

class Subscription {
  constructor(stream, id, isOfHello) {
    this.stream = stream;
    this.id = id;
    this.isOfHello = isOfHello;
    this.answered = false;
    this.busy = false;
    this.wanted = false;
    this.isInRow = false;
    this.needs = 0;
    this.acked = -1;
    this.trimmed = -1;
  }

  begin({ epoch, position, crc, live }) {
    if (epoch !== this.epoch) Object.assign(this, { acked: -1, trimmed: -1 });
    Object.assign(this, { epoch, position, crc, last: live, answered: true, wanted: true, needs: 0 });
  }

  pass(offset, crc) {
    this.position = offset;
    this.crc = crc;
  }
}

export class Reading {
  /** @param session what it needs of a session: config, fence, id, credit of the hello, fullName(), call(), write(), shut(), io */
  constructor(session) {
    this.session = session;
    this.subscriptions = new Map();
    this.turns = [];
    this.granted = { messages: 0, bytes: 0 };
    this.used = { messages: 0, bytes: 0 };
    this.reading = 0;
  }

  /** New totals. A total never goes down, so a lower one says nothing. */
  grant(credit) {
    this.granted.messages = Math.max(this.granted.messages, credit.messages);
    this.granted.bytes = Math.max(this.granted.bytes, credit.bytes);
    this.session.io.wantTurn();
  }

  /** Begin a subscription that has no answer yet; return it, or null where a later one of the stream is known. */
  open(stream, id, isOfHello) {
    const present = this.subscriptions.get(stream);
    if (present && present.id >= id) return null;
    if (present) this.drop(present);
    const subscription = new Subscription(stream, id, isOfHello);
    this.subscriptions.set(stream, subscription);
    return subscription;
  }

  close(stream, id) {
    const present = this.subscriptions.get(stream);
    if (present && present.id <= id) this.drop(present);
  }

  drop(subscription) {
    this.subscriptions.delete(subscription.stream);
    this.turns = this.turns.filter((other) => other !== subscription);
    if (subscription.answered) this.session.io.unwatch(this.session.fullName(subscription.stream));
    subscription.answered = false;
  }

  isPresent(subscription) {
    return this.subscriptions.get(subscription.stream) === subscription;
  }

  /** The answer goes out with this; from now on the stream is read. */
  begin(subscription, conclusion) {
    subscription.begin(conclusion);
    this.session.io.watch(this.session.fullName(subscription.stream));
    this.want(subscription);
  }

  want(subscription) {
    subscription.wanted = true;
    if (!subscription.answered || subscription.busy || subscription.isInRow) return;
    subscription.isInRow = true;
    this.turns.push(subscription);
    this.session.io.wantTurn();
  }

  /** Something may be new in the stream with this full name. */
  woken(name) {
    const subscription = this.subscriptions.get(name.startsWith('~') ? '~' : name);
    if (subscription) this.want(subscription);
  }

  free(kind) {
    return this.granted[kind] - this.used[kind];
  }

  /** Start reads in turns while credit lasts. The first in the row waits for the credit that its next message needs. */
  start() {
    while (this.turns.length > 0 && this.reading < READS_AT_ONCE) {
      const [subscription] = this.turns;
      if (this.free('messages') < 1 || this.free('bytes') < subscription.needs) return;
      this.turns.shift();
      subscription.isInRow = false;
      this.read(subscription);
    }
  }

  read(subscription) {
    const reserved = { messages: Math.min(READ_MESSAGES, this.free('messages')),
      bytes: Math.max(subscription.needs, Math.min(READ_BYTES, this.free('bytes'))) };
    this.spend(reserved, 1);
    Object.assign(subscription, { busy: true, wanted: false, looked: this.session.io.now() });
    this.reading += 1;
    const { epoch, position, crc, stream, acked } = subscription;
    const args = { stream: this.session.fullName(stream), epoch, after: position, crc, ...reserved };
    const home = () => {
      this.reading -= 1;
      this.spend(reserved, -1);
      this.session.io.wantTurn();
      subscription.busy = false;
    };
    // A read without an answer can be done again at the next poll; whether the store is away for good is the node's to say.
    this.session.call('read', args, (answer) => {
      home();
      if (this.isPresent(subscription)) this.came(subscription, answer, acked);
    }, home);
  }

  spend(amount, sign) {
    this.used.messages += sign * amount.messages;
    this.used.bytes += sign * amount.bytes;
  }

  /** Only acks that came before the read was made are held against it: a later one may be of what the log got since. */
  came(subscription, slice, acked) {
    const { epoch, position } = subscription;
    if (slice.epoch !== epoch || slice.matches === '0' || position > slice.last || position < slice.first - 1) {
      return this.enterAgain(subscription);
    }
    subscription.last = slice.last;
    if (acked > slice.last) return this.lostTail();
    const isMore = !this.deliver(subscription, slice.entries) || (slice.entries.length > 0 && subscription.position < slice.last);
    this.trim(subscription);
    if (acked > subscription.position && !isMore) return this.lostTail();
    if (isMore || subscription.wanted) this.want(subscription);
    return undefined;
  }

  /** Write what credit covers; return whether everything went out. */
  deliver(subscription, entries) {
    const out = new Frames(this.session, subscription);
    for (const { offset, text, payload } of entries) {
      if (offset <= subscription.position) continue;
      if (payload.length > this.session.clientMaxMessage) {
        out.tooLarge(offset);
      } else if (this.free('messages') < 1 || this.free('bytes') < payload.length) {
        subscription.needs = payload.length;
        out.flush();
        return false;
      } else {
        this.spend({ messages: 1, bytes: payload.length }, 1);
        out.add(offset, text, payload);
      }
      subscription.pass(offset, `${crc32(payload)}`);
    }
    out.flush();
    subscription.needs = 0;
    return true;
  }

  /** The log is not what this connection was given: enter the stream again with the own position as held. */
  enterAgain(subscription) {
    const { stream, epoch, position, crc } = subscription;
    const wanted = { held: { epoch, offset: position, crc: crc === '' ? undefined : Number(crc) } };
    subscription.busy = true;
    const args = this.session.streamStep(this.session.fullName(stream), wanted, []);
    this.session.call('enterStream', args, (facts) => {
      if (!this.isPresent(subscription)) return;
      subscription.busy = false;
      const conclusion = conclude(wanted, facts);
      subscription.begin(conclusion);
      if (conclusion.gap) this.session.write({ type: 'gap', stream, id: subscription.id, epoch: facts.epoch, ...conclusion.gap });
      this.want(subscription);
    });
  }

  /**
   * The user handled everything up to here. Above our position an older connection may have delivered it: we go on from our own
   * position, since the log may have other messages there by now, and read until we are there or there is nothing more.
   */
  acknowledge(stream, epoch, offset) {
    const subscription = this.subscriptions.get(stream);
    if (!subscription?.answered || subscription.epoch !== epoch) return;
    if (offset > subscription.position && !subscription.isOfHello) throw new ProtocolError('an ack is above what this connection was given');
    subscription.acked = Math.max(subscription.acked, offset);
    if (offset > subscription.position) this.want(subscription);
    if (offset > subscription.last) this.lookAtEnd(subscription);
    this.trim(subscription);
  }

  /** Only the private stream is trimmed by acks, and never above our position. */
  trim(subscription) {
    const upto = Math.min(subscription.acked, subscription.position);
    if (subscription.stream !== '~' || upto <= subscription.trimmed) return;
    subscription.trimmed = upto;
    this.session.trim(subscription.epoch, upto);
  }

  /** An ack is above the log's end as we know it: ask for the end, which takes no credit. */
  lookAtEnd(subscription) {
    const { stream, epoch, position, acked } = subscription;
    const args = { stream: this.session.fullName(stream), epoch, after: position, crc: '', messages: 0, bytes: 0 };
    this.session.call('read', args, (slice) => {
      if (!this.isPresent(subscription) || slice.epoch !== epoch || subscription.epoch !== epoch) return;
      if (acked > slice.last) this.lostTail();
      else subscription.last = Math.max(subscription.last, slice.last);
    }, () => {});
  }

  /** A trim may not have happened: it is asked for again with the next ack. */
  forgetTrim(stream) {
    const subscription = this.subscriptions.get(stream);
    if (subscription) subscription.trimmed = -1;
  }

  /** An ack is of what the log does not have, or has no more. */
  lostTail() {
    this.session.shut(1012, 'the log has lost its end');
  }

  /** Return the marks of what was written or passed by a gap. */
  marks() {
    const answered = [...this.subscriptions.values()].filter((one) => one.answered).slice(0, 8192);
    return answered.map(({ stream, id, epoch, position }) => [stream, id, epoch, position]);
  }

  /** Look at every stream that was not looked at for `poll` seconds: wakes may be lost. */
  poll(now, poll) {
    for (const subscription of this.subscriptions.values()) {
      if (subscription.answered && now - (subscription.looked ?? 0) >= poll) this.want(subscription);
    }
  }

  end() {
    for (const subscription of [...this.subscriptions.values()]) this.drop(subscription);
  }
}

/** Groups messages of one slice into frames: one type and numbers without a hole in each. */
class Frames {
  constructor(session, subscription) {
    this.session = session;
    this.subscription = subscription;
    this.reset();
  }

  reset() {
    this.run = null;
    this.gap = null;
  }

  add(offset, text, payload) {
    if (this.gap || !this.continues(offset, text, payload)) this.flush();
    if (this.run) {
      this.run.payloads.push(payload);
      this.run.bytes += payload.length;
      return;
    }
    const { stream, position } = this.subscription;
    const skip = position === offset - 1 ? undefined : position;
    this.run = { type: 'data', stream, first: offset, skip, text, payloads: [payload], bytes: payload.length };
  }

  continues(offset, text, payload) {
    const { run } = this;
    return run && run.skip === undefined && run.text === text && run.first + run.payloads.length === offset
      && run.payloads.length < FRAME_MESSAGES && run.bytes + payload.length <= FRAME_BYTES;
  }

  /** The gap begins after the position, so that numbers which the log skips before it are no hole; adjacent ones merge. */
  tooLarge(offset) {
    if (this.run) this.flush();
    const { stream, id, epoch, position } = this.subscription;
    this.gap ??= { type: 'gap', stream, id, epoch, from: position + 1, reason: 'too_large' };
    Object.assign(this.gap, { to: offset, next: offset + 1 });
  }

  flush() {
    if (this.gap) this.session.write(this.gap);
    if (this.run) this.session.write(this.run);
    this.reset();
  }
}
