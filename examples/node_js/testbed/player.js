// Plays one golden transcript in the server's role: client lines go into session cores, server lines must come out of them, byte
// for byte. The store is the double; a step is answered when a line needs it, since the order of answers is the network's.

import assert from 'node:assert/strict';
import { readMessage, writeMessage } from '../src/codec.js';
import { Session } from '../src/session.js';
import { Tokens } from '../src/tokens.js';
import { ANYTHING } from '../src/policy.js';
import { Double } from './double.js';
import { SESSION } from './scenarios.js';

const CONFIG = { ttl: 60, keepalive: { interval: 1, timeout: 1 }, producerTtl: 604800, maxMessage: 1048576, peers: [], spread: 0,
  helloTimeout: 10, poll: 1000 };
const INCARNATION = '4a3d2c1b0f9e8d7c6b5a49382716f5e4';

/** Return the bytes of a line of a transcript. */
export function bytesOf(line) {
  return line.text === undefined ? Buffer.from(line.base64, 'base64') : Buffer.from(line.text);
}

function show({ data, isBinary, close, reason }) {
  if (close !== undefined) return `close ${close} ${reason}`;
  return isBinary ? `binary ${data.toString('latin1')}` : data.toString();
}

export class Player {
  constructor(scenario) {
    this.scenario = scenario;
    this.double = new Double({ incarnation: INCARNATION, epochs: [...(scenario.epochs ?? [])] });
    this.double.onStored = (name) => this.cores.forEach(({ core }) => core.woken(name));
    this.cores = new Map();
    this.clock = 0;
    scenario.state?.(this.double);
    scenario.prelude?.(this);
  }

  /** Return the session core of a connection, made when it is first named. */
  core(conn) {
    if (!this.cores.has(conn)) this.cores.set(conn, this.makeCore(conn));
    return this.cores.get(conn).core;
  }

  outputs(conn) {
    this.core(conn);
    return this.cores.get(conn).outputs;
  }

  makeCore(conn) {
    const { scenario } = this;
    const outputs = [];
    const io = {
      now: () => this.clock,
      randomHex: (bytes) => this.random(conn, bytes),
      send: (message) => outputs.push(message),
      close: (code, reason) => outputs.push({ close: code, reason }),
      call: (step, args, done) => this.double.call(conn, step, args, done),
      watch: () => {}, unwatch: () => {}, pause: () => {}, blocked: () => false, wantTurn: () => {}, log: () => {},
    };
    const config = { ...CONFIG, name: scenario.nodes?.[conn] ?? 'n1' };
    return { core: new Session(config, new Tokens([Buffer.from('transcripts')]), io, this.policy()), outputs };
  }

  policy() {
    const { forbidden = {}, limits = {} } = this.scenario;
    return {
      ...ANYTHING,
      subscribe: (stream) => (forbidden[stream] ? { code: 'forbidden', hint: forbidden[stream] } : null),
      message: (stream, payload) => (payload.length > (limits[stream]?.most ?? Infinity) ? { code: 'forbidden', hint: limits[stream].hint } : null),
    };
  }

  random(conn, bytes) {
    const fresh = this.scenario.freshOf?.[conn] ?? this.scenario.fresh ?? SESSION;
    return bytes === 1 ? fresh.slice(0, 2) : fresh.slice(2);
  }

  receive(conn, frame) {
    const { data, isBinary } = writeMessage(frame, true);
    this.core(conn).receive(data, isBinary);
  }

  /** Answer everything that waits. */
  settle(conn) {
    do this.core(conn).turn(); while (this.double.run(({ owner }) => owner === conn));
    this.core(conn).turn();
  }

  /** Take back an output that the network swallowed. */
  swallow(conn, text) {
    assert.equal(show(this.outputs(conn).shift()), text);
  }

  play(lines) {
    for (const line of this.ordered(lines)) {
      const name = String(line.at);
      this.scenario.before?.[name]?.(this);
      if (line.from === 'client') this.fromClient(line, name);
      else if (line.from === 'network') this.lost(line.conn);
      else if (!this.scenario.omitted?.includes(name)) this.expect(line, name);
    }
    for (const [conn, { outputs }] of this.cores) assert.deepEqual(outputs.map(show), [], `connection ${conn} says more than the transcript`);
  }

  /** Lines that reached the server after another one was written come after it. */
  ordered(lines) {
    const { after = {} } = this.scenario;
    const late = lines.filter((line) => after[line.at]);
    return lines.filter((line) => !after[line.at]).flatMap((line) => [line, ...late.filter(({ at }) => after[at] === String(line.at))]);
  }

  fromClient(line, name) {
    const core = this.core(line.conn);
    if (line.close !== undefined) return this.lost(line.conn);
    if (this.scenario.sameBurst?.includes(name)) this.double.run(({ owner, step }) => owner === line.conn && step === 'append');
    core.receive(bytesOf(line), line.text === undefined);
    this.double.run(({ step }) => step === 'confirm');
    if (core.state === 'entering') this.settleHello(line.conn);
    return undefined;
  }

  settleHello(conn) {
    while (this.core(conn).state === 'entering' && this.double.run(({ owner }) => owner === conn));
  }

  /** What the client does not read any more is lost. */
  lost(conn) {
    this.core(conn).gone();
    this.outputs(conn).length = 0;
  }

  expect(line, name) {
    const output = this.next(line);
    if (line.close !== undefined) {
      assert.equal(show(output), show(line), `line ${name}`);
      return;
    }
    assert.equal(show(output), show({ data: bytesOf(line), isBinary: line.text === undefined }), `line ${name}`);
  }

  /** Let things happen until the connection says something. */
  next(line) {
    const { conn } = line;
    const frame = line.close === undefined ? readMessage(bytesOf(line), line.text === undefined, false) : { type: 'close' };
    const outputs = this.outputs(conn);
    if (outputs.length === 0) this.core(conn).turn();
    if (outputs.length === 0 && frame.type === 'data') this.makeData(conn, frame);
    for (let round = 0; outputs.length === 0 && round < 40; round += 1) this.advance(conn, frame.type);
    assert.ok(outputs.length > 0, `connection ${conn} says nothing where the transcript has ${line.text ?? line.base64 ?? line.close}`);
    return outputs.shift();
  }

  /** Somebody appends what the data line shows and the log does not have yet. The content is the scenario's. */
  makeData(conn, frame) {
    const name = frame.stream === '~' ? `~${this.core(conn).id}` : frame.stream;
    const content = this.scenario.content?.[frame.stream] ?? ((n) => `{"n":${n}}`);
    const last = frame.first + frame.payloads.length - 1;
    const end = this.double.stream(name).last;
    const missing = Array.from({ length: Math.max(0, Math.min(100, last - end)) }, (_, i) => content(end + 1 + i));
    this.double.publish(name, ...missing);
    this.core(conn).turn();
  }

  advance(conn, type) {
    const wantsReads = type === 'data' || type === 'gap';
    const mine = ({ owner, step }) => owner === conn && (!wantsReads || step === 'read');
    if (type === 'close' && this.fenced(conn)) return;
    if (type === 'ping') this.pass();
    else if (!this.double.run(mine)) this.double.run(({ owner }) => owner === conn);
    this.core(conn).turn();
  }

  fenced(conn) {
    const raised = this.double.fences.splice(0);
    for (const { session, fence } of raised) this.core(conn).raised(session, fence);
    return raised.length > 0;
  }

  pass() {
    this.clock += 0.1;
    for (const { core } of this.cores.values()) core.tick();
  }
}
