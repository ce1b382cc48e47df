// What live tests need: a store, nodes as processes, and a client that speaks the protocol by hand.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, mkdtempSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import WebSocket from 'ws';
import { readMessage, writeMessage } from '../src/codec.js';

const NODE = fileURLToPath(new URL('../src/node.js', import.meta.url));
const KEY = '7365637265742d6f662d74657374732d';
const PATIENCE = 8000;

export const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
export const hex = (n) => n.toString(16).padStart(32, '0');

/** Wait until `ask` gives something true; fail after a while. */
export async function until(ask, what) {
  const end = performance.now() + PATIENCE;
  while (performance.now() < end) {
    const answer = await ask();
    if (answer) return answer;
    await sleep(20);
  }
  throw new assert.AssertionError({ message: `in vain: ${what}` });
}

function storeBinary() {
  const given = process.env.RESILIENT_WS_REDIS_SERVER;
  const folders = process.env.PATH.split(delimiter);
  const candidates = given ? [given] : folders.flatMap((folder) => ['valkey-server', 'redis-server'].map((name) => join(folder, name)));
  for (const candidate of candidates) {
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch { /* the next one */ }
  }
  throw new Error('no store: name a redis-server or valkey-server in RESILIENT_WS_REDIS_SERVER, or put one into the PATH');
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

const children = new Set();

/** Stop every process that a test started, also where it failed before its end. */
export async function stopAll() {
  await Promise.all([...children].map((child) => child.stop()));
}

/** A process that ends with the test. */
class Child {
  start(command, words, environment, stdio) {
    children.add(this);
    this.process = spawn(command, words, { env: { ...process.env, ...environment }, stdio });
    this.ended = once(this.process, 'exit').then(([code]) => code);
  }

  signal(name) {
    this.process.kill(name);
  }

  async stop() {
    if (this.process.exitCode === null && this.process.signalCode === null) this.process.kill('SIGKILL');
    await this.ended;
  }
}

export class Store extends Child {
  static async start() {
    const store = new Store();
    store.port = await freePort();
    store.socket = join(mkdtempSync(join(tmpdir(), 'resilient-')), 'store.sock');
    store.launch();
    await until(() => store.isUp(), 'the store starts');
    return store;
  }

  launch() {
    const words = ['--port', this.port, '--bind', '127.0.0.1', '--unixsocket', this.socket, '--save', '', '--appendonly', 'no'];
    this.start(storeBinary(), words.map(String), {}, 'ignore');
  }

  async isUp() {
    const socket = (await import('node:net')).connect(this.port, '127.0.0.1');
    const up = await Promise.race([once(socket, 'connect').then(() => true), once(socket, 'error').then(() => false)]).catch(() => false);
    socket.destroy();
    return up;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}/0`;
  }
}

export class NodeProcess extends Child {
  /** Start a node and wait for its READY line. */
  static async start(name, backplane, flags = [], leash = undefined) {
    const node = new NodeProcess();
    node.errors = '';
    const words = [NODE, '--name', name, '--port', '0', `--backplane=${backplane}`, '--ttl=60.0', '--keepalive=0.5', ...flags];
    const environment = { RESILIENT_WS_TOKEN_KEY: KEY, ...(leash ? { RESILIENT_WS_LEASH: '3' } : {}) };
    node.start(process.execPath, words, environment, ['ignore', 'pipe', 'pipe', ...(leash ? ['pipe'] : [])]);
    node.process.stderr.on('data', (data) => { node.errors += data; });
    for await (const line of createInterface({ input: node.process.stdout })) {
      if (!line.startsWith('READY ')) continue;
      Object.assign(node, JSON.parse(line.slice(6)));
      return node;
    }
    throw new Error(`the node did not start: ${node.errors}`);
  }

  request(path, options) {
    return fetch(`http://127.0.0.1:${this.port}${path}`, options);
  }

  async publish(stream, payload, headers = { 'Content-Type': 'text/plain' }) {
    const response = await this.request(`/streams/${stream}`, { method: 'POST', body: payload, headers });
    return { status: response.status, ...(await response.json()) };
  }
}

/** Run a node that is expected to end by itself; return its exit code and what it wrote to stderr. */
export async function runNode(words, environment = { RESILIENT_WS_TOKEN_KEY: KEY }) {
  const child = spawn(process.execPath, [NODE, ...words], { env: { ...process.env, ...environment }, stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (data) => { errors += data; });
  const [code] = await once(child, 'exit');
  return { code, errors };
}

export class Client {
  constructor(url, offered = ['resilient.v1']) {
    this.frames = [];
    this.closed = null;
    this.socket = new WebSocket(url, offered, { perMessageDeflate: false });
    this.socket.on('upgrade', ({ headers }) => { this.node = headers['resilient-node']; });
    this.socket.on('message', (data, isBinary) => this.frames.push(readMessage(data, isBinary, false)));
    this.socket.on('close', (code, reason) => { this.closed = { code, reason: reason.toString() }; });
    this.socket.on('error', () => {});
  }

  /** Connect and say hello; return the client once it was welcomed. `hello` overrides fields of the hello. */
  static async hello(url, hello = {}) {
    const client = new Client(url);
    await once(client.socket, 'open');
    client.say({ type: 'hello', version: 1, features: [], instance: hex(1), attempt: 1, producers: [hex(2)], streams: [], outbound: [],
      credit: { messages: 1000, bytes: 1000000 }, max_message: 100000, ...hello });
    client.welcome = await client.get('welcome');
    client.say({ type: 'ready', generation: client.welcome.generation });
    return client;
  }

  say(frame) {
    const { data, isBinary } = writeMessage(frame, true);
    this.socket.send(data, { binary: isBinary });
  }

  send(stream, first, ...texts) {
    this.say({ type: 'data', stream, first, text: true, payloads: texts.map((text) => Buffer.from(text)) });
  }

  /** Wait for the first frame of a type (that fits) and take it, leaving the others. */
  async get(type, fits = () => true) {
    const find = () => this.frames.findIndex((frame) => frame.type === type && fits(frame));
    await until(() => find() >= 0 || this.closed, `a frame '${type}'`);
    const at = find();
    if (at < 0) throw new assert.AssertionError({ message: `closed ${JSON.stringify(this.closed)} instead of '${type}'` });
    return this.frames.splice(at, 1)[0];
  }

  /** Wait for so many messages of a stream; return [offset, text] of each. */
  async messages(stream, count) {
    const got = [];
    while (got.length < count) {
      const { first, payloads } = await this.get('data', (frame) => frame.stream === stream);
      payloads.forEach((payload, i) => got.push([first + i, payload.toString()]));
    }
    return got;
  }

  async end() {
    await until(() => this.closed, 'the connection closes');
    return this.closed;
  }

  /** Answer pings, as a client that lives. */
  live() {
    this.socket.on('message', () => {
      const at = this.frames.findIndex(({ type }) => type === 'ping');
      if (at >= 0) this.say({ type: 'pong', echo: this.frames.splice(at, 1)[0].echo });
    });
    return this;
  }
}
