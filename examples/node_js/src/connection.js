// One WebSocket and the session core behind it: bytes in, bytes out, one turn of the core after each burst of inputs.
// No rule of the protocol is here.

import { randomBytes } from 'node:crypto';
import { Session } from './session.js';

const HIGH_WATER = 1048576;
const HOPELESS = 64 * 1048576;
const CLOSE_TIMEOUT = 2000;

export class Connection {
  /** @param node {config, tokens, backplane, log, leave(connection)} */
  constructor(socket, node) {
    this.socket = socket;
    this.node = node;
    this.isTurnDue = false;
    this.isBlocked = false;
    this.session = new Session(node.config, node.tokens, this.io());
    socket.on('message', (data, isBinary) => this.tell((session) => session.receive(data, isBinary)));
    socket.on('ping', () => this.session.lifeSign(true));
    socket.on('pong', () => this.session.lifeSign(false));
    socket.on('error', (error) => node.log(`a connection: ${error.code ?? error.message}`));
    socket.on('close', () => this.gone());
  }

  io() {
    return {
      now: () => performance.now() / 1000,
      randomHex: (bytes) => randomBytes(bytes).toString('hex'),
      send: ({ isBinary, data }) => this.send(data, isBinary),
      close: (code, reason) => this.close(code, reason),
      call: (step, args, done) => { this.node.backplane.step(step, args).then(done).catch((error) => this.broken(error)); },
      watch: (stream) => this.node.backplane.hints.watch(stream, this),
      unwatch: (stream) => this.node.backplane.hints.unwatch(stream, this),
      pause: (yes) => (yes ? this.socket.pause() : this.socket.resume()),
      blocked: () => this.isBlocked,
      wantTurn: () => this.wantTurn(),
      log: (text) => this.node.log(text),
    };
  }

  /** Give the core an input. A fault in it is the end of this connection, not of the node. */
  tell(input) {
    try {
      input(this.session);
    } catch (error) {
      this.broken(error);
    }
  }

  /** Our own fault: this connection ends, the client resumes on another. */
  broken(error) {
    this.node.log(`a fault in a session: ${error.stack}`);
    this.session.gone();
    this.close(1011, 'an internal error');
  }

  wantTurn() {
    if (this.isTurnDue) return;
    this.isTurnDue = true;
    setImmediate(() => {
      this.isTurnDue = false;
      this.tell((session) => session.turn());
    });
  }

  woken(stream) {
    this.tell((session) => session.woken(stream));
  }

  /** Write; where the peer does not read, the core is told to hold back until the buffer is empty again. */
  send(data, isBinary) {
    if (this.socket.readyState !== this.socket.OPEN) return;
    this.socket.send(data, { binary: isBinary }, () => this.written());
    this.isBlocked ||= this.socket.bufferedAmount > HIGH_WATER;
    if (this.socket.bufferedAmount > HOPELESS) this.socket.terminate();
  }

  written() {
    if (!this.isBlocked || this.socket.bufferedAmount > HIGH_WATER / 2) return;
    this.isBlocked = false;
    this.wantTurn();
  }

  close(code, reason) {
    if (this.socket.readyState !== this.socket.OPEN) return;
    this.socket.resume();
    this.socket.close(code, reason);
    setTimeout(() => this.socket.terminate(), CLOSE_TIMEOUT).unref();
  }

  gone() {
    this.session.gone();
    this.node.left(this);
  }
}
