// The server's half of one connection of a session, without sockets and without a store. Inputs: messages, answers of the backplane,
// wakes, fences, time (`tick`) and the end of a burst of inputs (`turn`). Outputs, all through `io`: messages, steps of the
// backplane, a close. Whatever it does is done inside of one of the inputs.
//
// io: now() in seconds; randomHex(bytes); send({isBinary, data}); close(code, reason); call(step, args, done), done(null) where the
// outcome is unknown; watch(name), unwatch(name); pause(yes): stop reading the socket; blocked(): the peer does not read;
// wantTurn(): call turn() soon; log(text).

import { writeMessage, readMessage } from './codec.js';
import { conclude, wish } from './conclude.js';
import { ProtocolError } from './errors.js';
import { fenceLess } from './fence.js';
import { answerFrame, Handshake, refusal } from './handshake.js';
import { Keepalive } from './keepalive.js';
import { ANYTHING } from './policy.js';
import { Reading } from './reading.js';
import { Sending } from './sending.js';
import { cleanHint } from './types.js';

const WELCOME_TIMEOUT = 10;
const MOST_STREAMS = 4096;
const MOST_STEPS = 256;
const UNREFRESHED = 0.75;
const OPEN = ['data', 'ready', 'subscribe', 'unsubscribe', 'ack', 'credit', 'ping', 'pong', 'auth', 'error', 'bye'];
const ALLOWED = {
  waiting: ['hello', 'error'],
  standing: ['hello', 'auth', 'ping', 'pong', 'error'],
  entering: ['ping', 'pong', 'error'],
  open: OPEN,
};

export class Session {
  /** @param config {name, ttl, keepalive, producerTtl, maxMessage, peers, spread, helloTimeout, poll} */
  constructor(config, tokens, io, policy = ANYTHING, principal = 'anonymous') {
    Object.assign(this, { config, tokens, io, policy, principal });
    this.state = 'waiting';
    this.since = io.now();
    this.id = null;
    this.fence = null;
    this.producers = [];
    this.clientMaxMessage = 0;
    this.spread = config.spread;
    this.newSpread = undefined;
    this.pings = 0;
    this.unansweredEcho = undefined;
    this.parting = null;
    this.trimming = null;
    this.steps = 0;
    this.isPaused = false;
    this.keepalive = new Keepalive(config.keepalive, io.now());
    this.sending = new Sending(this);
    this.reading = new Reading(this);
  }

  get isOver() {
    return this.state === 'closed';
  }

  // ---- inputs

  /** One WebSocket message came. */
  receive(data, isBinary) {
    if (this.isOver || this.state === 'leaving') return;
    try {
      const frame = readMessage(data, isBinary);
      this.keepalive.heard(this.io.now(), frame.type === 'ping');
      if (!ALLOWED[this.state].includes(frame.type)) {
        throw new ProtocolError(`${frame.type} is not allowed while the connection is ${this.state}`);
      }
      this.handle(frame);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.violated(error.message);
    }
    this.pressure();
    this.io.wantTurn();
  }

  /** A ping of RFC 6455 or the answer to one. */
  lifeSign(isPing) {
    this.keepalive.heard(this.io.now(), isPing);
  }

  /** A burst of inputs has ended: write what gathered, start what can start. */
  turn() {
    if (this.isOver) return;
    this.sending.ack();
    this.pressure();
    if (!this.io.blocked()) {
      if (this.unansweredEcho !== undefined) this.pong(this.unansweredEcho);
      if (this.state === 'open' || this.state === 'leaving') this.sending.start();
      if (this.state === 'open') this.reading.start();
    }
    if (this.state === 'leaving' && this.sending.idle) this.part();
  }

  /** Time passes. */
  tick() {
    if (this.isOver) return;
    const now = this.io.now();
    if (this.isPaused && !this.io.blocked()) this.keepalive.restart(now);
    if (this.state === 'waiting') {
      if (now - this.since >= this.config.helloTimeout) this.shut(4408, 'no hello in time');
      return;
    }
    if (this.state === 'entering' && now - this.since >= WELCOME_TIMEOUT) return void this.shut(1013, 'no welcome in time');
    const sign = this.keepalive.look(now);
    if (sign === 'lost') return void this.shut(1011, 'nothing was heard in time');
    if (sign === 'ping' && !this.io.blocked()) this.ping();
    if (this.state === 'open') this.tend(now);
  }

  /** Something was stored in the stream with this full name, or its wakes may have been missed. */
  woken(name) {
    this.reading.woken(name);
  }

  /** A fence of some session was raised somewhere. */
  raised(session, fence) {
    if (!this.isOver && this.id === session && fenceLess(this.fence, fence)) this.outranked(fence);
  }

  /** The node wants its clients to leave; who has no welcome goes at once. */
  drain(advice) {
    if (this.isOver || this.state === 'leaving') return;
    if (this.state === 'open') this.write({ type: 'drain', ...advice });
    else this.shut(1012, 'the node is leaving');
  }

  /** Commit and ack what was read, then close. */
  leave(code = 1012, reason = 'the node is leaving') {
    if (this.isOver || this.state === 'leaving') return;
    if (this.state !== 'open') return void this.shut(code, reason);
    this.state = 'leaving';
    this.parting = () => this.shut(code, reason);
    this.io.wantTurn();
  }

  /** The store has been silent for too long. */
  storeSilent() {
    this.shut(1013, 'the store does not answer');
  }

  /** The connection is gone. Nothing is written at the backplane. */
  gone() {
    this.state = 'closed';
    this.reading.end();
  }

  /** Say something to the client that ends nothing. */
  notice(code, hint) {
    if (!this.isOver) this.write({ type: 'error', code, hint: cleanHint(hint) });
  }

  /** End the session for the client: do not come back. */
  revoke(code, hint) {
    if (this.isOver) return;
    const bye = { type: 'bye', code, hint: cleanHint(hint) };
    if (this.state !== 'open') {
      this.write(bye);
      return void this.shut(1000, '');
    }
    this.state = 'leaving';
    this.parting = () => {
      this.write(bye);
      this.endSession();
    };
    this.io.wantTurn();
  }

  /** The advice for the time after a loss of this node has changed. */
  advise(spread) {
    this.newSpread = spread;
    this.spread = spread;
  }

  // ---- frames

  handle(frame) {
    switch (frame.type) {
      case 'data': return this.sending.receive(frame);
      case 'hello': return new Handshake(this, frame).begin();
      case 'ready': return this.ready(frame);
      case 'subscribe': return this.subscribe(frame);
      case 'unsubscribe': return this.reading.close(frame.stream, frame.id);
      case 'ack': return this.acknowledge(frame.acked);
      case 'credit': return this.reading.grant(frame);
      case 'ping': return this.answerPing(frame);
      case 'pong': return this.marks(frame);
      case 'auth': return this.authenticate(frame);
      case 'error': return this.io.log('a client reports an error');
      default: return this.farewell();
    }
  }

  stand() {
    this.state = 'standing';
    this.write({ type: 'standing', node: this.config.name });
  }

  /** This connection owns the session under a new fence. */
  own({ session, generation, verdict }, hello) {
    this.verdict = verdict;
    this.id = session;
    this.fence = { generation, instance: hello.instance, attempt: hello.attempt };
    this.producers = hello.producers;
    this.clientMaxMessage = hello.max_message;
    this.reading.grant(hello.credit);
  }

  ready({ generation }) {
    if (generation !== this.fence.generation) throw new ProtocolError('ready must name the generation of the welcome on this connection');
    this.call('confirm', { session: this.id, generation }, () => {}, () => {});
  }

  subscribe(frame) {
    const { stream, id } = frame;
    const present = this.reading.subscriptions.get(stream);
    if (present && present.id >= id) return undefined;
    const isMore = !present && this.reading.subscriptions.size >= MOST_STREAMS;
    const refused = isMore ? { code: 'too_many_streams', hint: `at most ${MOST_STREAMS}` } : refusal(this.policy, stream);
    if (refused) return this.refuse(stream, id, refused);
    const subscription = this.reading.open(stream, id, false);
    const wanted = wish(frame);
    this.call('enterStream', this.streamStep(this.fullName(stream), wanted, []), (facts) => {
      if (!this.reading.isPresent(subscription)) return;
      const conclusion = conclude(wanted, facts, stream === '~' && this.verdict === 'new');
      this.write({ type: 'subscribed', ...answerFrame(stream, id, conclusion) });
      this.reading.begin(subscription, conclusion);
    });
    return undefined;
  }

  refuse(stream, id, error) {
    this.reading.close(stream, id);
    this.write({ type: 'subscribed', stream, id, error });
  }

  acknowledge(marks) {
    for (const [stream, epoch, offset] of marks) this.reading.acknowledge(stream, epoch, offset);
  }

  /** Take what rides along in a ping or pong. */
  marks(frame) {
    if (this.state !== 'open') return;
    if (this.sending.swallowed(frame.sent_seqs)) return void this.shut(1012, 'a message was swallowed');
    this.acknowledge(frame.acked);
    if (frame.credit) this.reading.grant(frame.credit);
  }

  answerPing(frame) {
    this.marks(frame);
    if (this.isOver) return;
    if (this.io.blocked()) this.unansweredEcho = frame.echo;
    else this.pong(frame.echo);
  }

  pong(echo) {
    this.unansweredEcho = undefined;
    this.write({ type: 'pong', echo, ...this.ownMarks() });
  }

  ping() {
    this.pings += 1;
    this.write({ type: 'ping', echo: `${this.config.name}-${this.pings}`.slice(-128), ...this.ownMarks() });
  }

  ownMarks() {
    if (this.state !== 'open' && this.state !== 'leaving') return {};
    const spread = this.newSpread;
    this.newSpread = undefined;
    return { committed: this.sending.marks(), sent_offsets: this.reading.marks(), spread };
  }

  authenticate({ access_token: token }) {
    const refused = this.policy.authenticate(token);
    if (refused) this.shut(refused.code, refused.hint);
  }

  /** The client says bye: what it wrote is committed and acked, then the session's record goes. */
  farewell() {
    this.state = 'leaving';
    this.parting = () => this.endSession();
  }

  // ---- the backplane

  /**
   * Ask for a step. An old fence and a session that is gone have one answer everywhere; so has an unknown outcome, unless the step
   * owes the client nothing and `failed` says how it is made good.
   */
  call(step, args, done, failed) {
    this.steps += 1;
    this.io.call(step, args, (answer) => {
      this.steps -= 1;
      if (this.isOver) return;
      if (answer === null && failed) failed();
      else if (answer === null) this.shut(1013, 'the outcome at the store is unknown');
      else if (answer.kind === 'old') this.outranked(answer.fence);
      else if (answer.kind === 'unknown') this.shut(1012, 'the session is gone');
      else done(answer);
      this.io.wantTurn();
    });
  }

  /** Read no more from the socket while too much waits for the store. */
  pressure() {
    const isHigh = this.sending.waits(1) || this.steps > MOST_STEPS;
    const isLow = !this.sending.waits(2) && this.steps <= MOST_STEPS / 2;
    if (this.isPaused ? !isLow : !isHigh) return;
    this.isPaused = !this.isPaused;
    this.io.pause(this.isPaused);
  }

  streamStep(stream, wanted, producers) {
    return { stream, session: this.id, fence: this.fence, held: wanted.held ?? null, at: wanted.start ?? '', producers };
  }

  /** Return the name at the backplane of a stream of the wire. */
  fullName(stream) {
    return stream === '~' ? `~${this.id}` : stream;
  }

  tend(now) {
    this.reading.poll(now, this.config.poll);
    if (now - this.refreshed < this.config.ttl / 3) return;
    this.refreshed = now;
    this.call('refresh', { session: this.id, fence: this.fence }, () => { this.prolonged = now; }, () => this.refreshAgain());
  }

  /** No answer to a refresh: ask again soon, but not until the session has expired under a client that is here. */
  refreshAgain() {
    const { ttl } = this.config;
    const now = this.io.now();
    if (now - this.prolonged >= UNREFRESHED * ttl) this.storeSilent();
    this.refreshed = Math.min(this.refreshed, now - ttl / 3 + Math.min(1, ttl / 10));
  }

  /** Trim the private stream, one step at a time, always to the newest ack. */
  trim(epoch, offset) {
    if (this.trimming) return void (this.trimming.next = { epoch, offset });
    this.trimming = {};
    const ended = () => {
      const { next } = this.trimming;
      this.trimming = null;
      if (next) this.trim(next.epoch, next.offset);
    };
    this.call('trimPrivate', { session: this.id, fence: this.fence, epoch, offset }, ended, () => {
      this.reading.forgetTrim('~');
      ended();
    });
  }

  endSession() {
    this.io.call('endSession', { session: this.id, fence: this.fence }, (answer) => {
      if (this.isOver) return;
      if (answer === null) this.shut(1013, 'the outcome at the store is unknown');
      else if (answer.kind === 'old') this.outranked(answer.fence);
      else this.shut(1000, '');
    });
  }

  // ---- the ends

  part() {
    const { parting } = this;
    this.parting = null;
    if (parting) parting();
  }

  outranked(fence) {
    this.shut(4409, `instance=${fence.instance}`);
  }

  violated(hint) {
    this.write({ type: 'error', code: 'protocol_error', hint: cleanHint(hint), fatal: true });
    this.shut(4400, 'protocol error');
  }

  shut(code, reason) {
    if (this.isOver) return;
    this.gone();
    this.io.close(code, reason);
  }

  write(frame) {
    if (!this.isOver) this.io.send(writeMessage(frame));
  }
}
