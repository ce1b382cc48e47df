// The process: flags, environment, the store, the listening socket, signals. `ResilientNode` is the node itself, without signals.

import { once } from 'node:events';
import { realpathSync } from 'node:fs';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Backplane } from './backplane.js';
import { Connection } from './connection.js';
import { readFlags, readKeys, UsageError } from './flags.js';
import { makeServer } from './http.js';
import { Tokens } from './tokens.js';

const LOOK = 100;
const TICK = 1000;
const REBIND = 10000;
const SILENT_PART = 0.4;
const LAST_STEPS = 3000;

const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

export class ResilientNode {
  constructor(config, keys, log) {
    Object.assign(this, { config, log });
    this.tokens = new Tokens(keys);
    this.backplane = new Backplane(config, log);
    this.backplane.hints.onFence = (session, fence) => this.each((core) => core.raised(session, fence));
    this.connections = new Set();
    this.isDraining = false;
    this.server = makeServer(this);
  }

  /** Serve; return the port. */
  async open() {
    await this.backplane.open();
    const port = await this.listen();
    this.timers = [setInterval(() => this.look(), LOOK), setInterval(() => this.backplane.tick(), TICK)];
    return port;
  }

  /** Bind; a given port that is still in use is tried again for a while. */
  async listen() {
    const until = performance.now() + REBIND;
    for (;;) {
      this.server.listen(this.config.port, this.config.host);
      try {
        await once(this.server, 'listening');
        return this.server.address().port;
      } catch (error) {
        if (error.code !== 'EADDRINUSE' || this.config.port === 0 || performance.now() > until) throw error;
        await sleep(100);
      }
    }
  }

  /** Give an input to the core of every connection. */
  each(input) {
    for (const connection of [...this.connections]) connection.tell(input);
  }

  look() {
    const isSilent = this.isStoreSilent();
    this.each((core) => (isSilent ? core.storeSilent() : core.tick()));
  }

  isStoreSilent() {
    return this.backplane.silence() >= SILENT_PART * this.config.ttl;
  }

  status() {
    if (this.isDraining) return 'draining';
    return this.isStoreSilent() || this.backplane.redis.status !== 'ready' ? 'the backplane does not answer' : 'ok';
  }

  sessions() {
    return [...this.connections].filter(({ session }) => session.state === 'open').length;
  }

  accept(socket) {
    const connection = new Connection(socket, this);
    this.connections.add(connection);
    if (this.isDraining) connection.tell((core) => core.drain(this.advice()));
  }

  left(connection) {
    this.connections.delete(connection);
  }

  /** Ask the clients to leave, then commit and ack what was read, and close. Resolves when nobody is left or the time is over. */
  async drain() {
    this.isDraining = true;
    this.each((core) => core.drain(this.advice()));
    await this.empty(this.config.drain * 1000);
    this.each((core) => core.leave());
    await this.empty(LAST_STEPS);
  }

  advice() {
    const { drain, peers, spread } = this.config;
    return { within: drain, jitter: Math.min(2, drain / 5), spread, peers };
  }

  async empty(ms) {
    const until = performance.now() + ms;
    while (this.connections.size > 0 && performance.now() < until) await sleep(20);
  }

  close() {
    this.timers?.forEach(clearInterval);
    for (const { socket } of this.connections) socket.terminate();
    this.server.close();
    this.server.closeAllConnections();
    this.backplane.close();
  }
}

/** Exit as soon as the other end of the inherited pipe is closed: the parent is gone. */
function watchLeash(descriptor) {
  if (!descriptor) return;
  if (!/^[0-9]+$/.test(descriptor)) throw new UsageError('RESILIENT_WS_LEASH must be the number of a file descriptor');
  const leash = new Socket({ fd: Number(descriptor), readable: true, writable: false });
  leash.on('error', () => process.exit(0));
  leash.on('close', () => process.exit(0));
  leash.on('end', () => process.exit(0));
  leash.resume();
}

async function main() {
  const log = (text) => process.stderr.write(`${new Date().toISOString()} ${text}\n`);
  const config = readFlags(process.argv.slice(2));
  watchLeash(process.env.RESILIENT_WS_LEASH);
  const node = new ResilientNode(config, readKeys(process.env), log);
  process.on('SIGINT', () => process.exit(130));
  process.once('SIGTERM', async () => {
    log('draining');
    await node.drain();
    node.close();
    process.exit(0);
  });
  const port = await node.open();
  process.stdout.write(`READY ${JSON.stringify({ port, url: `ws://${config.host}:${port}/`, name: config.name })}\n`);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main().catch((error) => {
    process.stderr.write(`${error instanceof UsageError ? `usage: ${error.message}` : error.stack}\n`);
    process.exit(error instanceof UsageError ? 2 : 1);
  });
}
