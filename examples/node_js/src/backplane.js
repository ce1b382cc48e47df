// The Redis backplane: keys, scripts, replies (docs/backplane.md). One request is one script; none is ever sent twice, and a step
// without an answer in time has an unknown outcome (null). Wakes and fences come over a second connection; they are hints.

import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import Redis from 'ioredis';
import { fenceOf, fenceText } from './fence.js';

const SCRIPTS = ['enter_session', 'refresh', 'confirm', 'end_session', 'trim_private', 'tick', 'enter_stream', 'append', 'publish', 'read'];
const BUCKETS = 16;
const FENCES = 'resilient:fence';
const INCARNATION = 'resilient:{meta}:incarnation';
const INCARNATION_AGE = 1000;
const DEAD = 10;

function bucketPrefix(session) {
  const bucket = Number.parseInt(session.slice(0, 2), 16) % BUCKETS;
  return `resilient:{s${String(bucket).padStart(2, '0')}}:`;
}

/** Return the keys log, meta, rejected, used; of a private stream also its bucket's clock and its owner's record. */
export function streamKeys(stream) {
  const isPrivate = stream.startsWith('~');
  const prefix = isPrivate ? `${bucketPrefix(stream.slice(1))}${stream}:` : `resilient:{${stream}}:`;
  const keys = ['log', 'meta', 'rejected', 'used'].map((name) => prefix + name);
  return isPrivate ? [...keys, ...clockAndRecord(stream.slice(1))] : keys;
}

function clockAndRecord(session) {
  return [`${bucketPrefix(session)}clock`, `${bucketPrefix(session)}session:${session}`];
}

function sessionKeys(session) {
  const [clock, record] = clockAndRecord(session);
  return [clock, `${bucketPrefix(session)}index`, record];
}

const wakeChannel = (stream) => `resilient:wake:${stream}`;
const text = (value) => value.toString();
const count = (value) => Number(text(value));

function pairs(flat) {
  const result = [];
  for (let i = 0; i < flat.length; i += 2) result.push([count(flat[i]), text(flat[i + 1])]);
  return result;
}

function producersOf(list) {
  return list.map(([id, seq, known, rejected]) => ({ id: text(id), seq: count(seq), known: text(known) === '1', rejected: pairs(rejected) }));
}

/** What the first element of a reply names, as an object. */
const REPLIES = {
  session: ([id, generation, verdict, reason]) => ({
    session: text(id), generation: count(generation), verdict: text(verdict), reason: text(reason),
  }),
  old: ([fence]) => ({ fence: fenceOf(text(fence)) }),
  stream: ([epoch, first, last, lifted, matches, position, crc, producers]) => ({
    epoch: text(epoch), first: count(first), last: count(last), lifted: text(lifted) === '1', matches: text(matches),
    position: count(position), crc: text(crc), producers: producersOf(producers),
  }),
  appended: ([seq, rejected]) => ({ seq: count(seq), rejected: pairs(rejected) }),
  hole: ([last]) => ({ last: count(last) }),
  published: ([epoch, last]) => ({ epoch: text(epoch), last: count(last) }),
  slice: ([epoch, first, last, matches, entries]) => ({
    epoch: text(epoch), first: count(first), last: count(last), matches: text(matches),
    entries: entries.map(([offset, isText, payload]) => ({ offset: count(offset), text: text(isText) === '1', payload })),
  }),
};

function readReply([kind, ...rest]) {
  const name = text(kind);
  return { kind: name, ...(REPLIES[name]?.(rest) ?? {}) };
}

/** Return the options of ioredis for redis://host:port/db or unix:///path?db=0. */
export function redisOptions(address) {
  const url = new URL(address);
  const common = {
    protocol: 2, lazyConnect: true, enableOfflineQueue: false, autoResendUnfulfilledCommands: false, autoResubscribe: false,
    maxRetriesPerRequest: 0, connectTimeout: 2000, retryStrategy: (times) => Math.min(50 * times, 500),
    username: decodeURIComponent(url.username) || undefined, password: decodeURIComponent(url.password) || undefined,
  };
  if (url.protocol === 'unix:') return { ...common, path: decodeURIComponent(url.pathname), db: Number(url.searchParams.get('db') ?? 0) };
  if (url.protocol !== 'redis:') throw new Error('the address of the backplane must begin with redis:// or unix://');
  return { ...common, host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port || 6379), db: Number(url.pathname.slice(1) || 0) };
}

export class Backplane {
  /** @param config {backplane, scripts, stepTimeout, ttl, producerTtl, retention}; seconds */
  constructor(config, log) {
    this.config = config;
    this.log = log;
    this.scripts = new Map(SCRIPTS.map((name) => {
      const source = readFileSync(join(config.scripts, `${name}.lua`));
      return [name, { source, sha: createHash('sha1').update(source).digest('hex') }];
    }));
    this.ttl = String(Math.round(config.ttl * 1000));
    this.producerTtl = String(Math.round(config.producerTtl * 1000));
    this.answered = performance.now();
    this.incarnation = null;
    this.redis = new Redis(redisOptions(config.backplane));
    this.hints = new Hints(redisOptions(config.backplane), log);
    logOutages(this.redis, 'the store', log);
    this.redis.on('close', () => { this.incarnation = null; });
    this.redis.on('ready', () => this.greet());
  }

  /** Connect; a store that is not there yet is tried again in the background. */
  async open() {
    await Promise.allSettled([this.redis.connect(), this.hints.open()]);
  }

  close() {
    this.redis.disconnect();
    this.hints.close();
  }

  /** After each connect: scripts are loaded before the first step, so that steps keep their order, and the incarnation is read. */
  greet() {
    for (const { source } of this.scripts.values()) this.command('SCRIPT', 'LOAD', source).catch(() => {});
    this.readIncarnation().catch(() => {});
  }

  /** Return how long, in seconds, the store has not answered anything. */
  silence() {
    return (performance.now() - this.answered) / 1000;
  }

  /** Run a command; reject where no answer came in time. */
  async command(...words) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('no answer in time')), this.config.stepTimeout * 1000);
    });
    const sent = this.redis.callBuffer(...words);
    sent.then(() => this.answer(), (error) => (error.name === 'ReplyError' ? this.answer() : undefined));
    try {
      return await Promise.race([sent, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  answer() {
    this.answered = performance.now();
  }

  async script(name, keys, args) {
    const { source, sha } = this.scripts.get(name);
    try {
      return readReply(await this.command('EVALSHA', sha, keys.length, ...keys, ...args));
    } catch (error) {
      if (!error.message.startsWith('NOSCRIPT')) throw error;
      return readReply(await this.command('EVAL', source, keys.length, ...keys, ...args));
    }
  }

  /** Run a step; the answer is null where its outcome is unknown. */
  async step(name, args) {
    try {
      return await this[name](args);
    } catch (error) {
      this.log(`${name}: outcome unknown (${error.message})`);
      return null;
    }
  }

  enterSession({ session, presented, fresh, instance, attempt, principal }) {
    const [clock, index, record] = sessionKeys(fresh);
    const old = session === '' ? record : sessionKeys(session)[2];
    return this.script('enter_session', [clock, index, old, record],
      [session, presented ?? '', fresh, instance, attempt, principal, this.ttl]);
  }

  refresh({ session, fence }) {
    return this.script('refresh', sessionKeys(session), [session, fenceText(fence), this.ttl]);
  }

  confirm({ session, generation }) {
    return this.script('confirm', clockAndRecord(session), [generation]);
  }

  endSession({ session, fence }) {
    return this.script('end_session', [...sessionKeys(session), ...streamKeys(`~${session}`).slice(0, 4)], [session, fenceText(fence)]);
  }

  trimPrivate({ session, fence, epoch, offset }) {
    return this.script('trim_private', streamKeys(`~${session}`), [fenceText(fence), epoch, offset]);
  }

  enterStream({ stream, session, fence, held, at, producers }) {
    return this.script('enter_stream', streamKeys(stream), [randomId(), session, fenceText(fence), held?.epoch ?? '', held?.offset ?? '',
      held?.crc ?? '', at, this.producerTtl, ...producers.flat()]);
  }

  append({ stream, session, fence, producer, first, entries }) {
    return this.script('append', streamKeys(stream), [randomId(), session, fenceText(fence), producer, first, this.config.retention,
      this.producerTtl, wakeChannel(stream), ...entries.flatMap(({ kind, crc, payload }) => [kind, crc, payload])]);
  }

  publish({ stream, entries }) {
    return this.script('publish', streamKeys(stream), [randomId(), this.config.retention, wakeChannel(stream),
      ...entries.flatMap(({ kind, crc, payload }) => [kind, crc, payload])]);
  }

  read({ stream, epoch, after, crc, messages, bytes }) {
    return this.script('read', streamKeys(stream), [epoch, after, crc, messages, bytes]);
  }

  /** Move the clock of every bucket forward, remove what expired long ago, and give up connections on which nothing comes any more. */
  async tick() {
    if (this.silence() > DEAD && this.redis.status === 'ready') this.redis.disconnect(true);
    this.hints.check();
    const steps = Array.from({ length: BUCKETS }, (_, bucket) => {
      const prefix = bucketPrefix(bucket.toString(16).padStart(2, '0'));
      return this.script('tick', [`${prefix}clock`, `${prefix}index`], [prefix]);
    });
    await Promise.allSettled(steps);
  }

  /** Return the incarnation, read at most a second ago. */
  async readIncarnation() {
    const { incarnation } = this;
    if (incarnation && performance.now() - incarnation.at < INCARNATION_AGE) return { kind: 'incarnation', incarnation: incarnation.id };
    const at = performance.now();
    await this.command('SET', INCARNATION, randomId(), 'NX');
    const id = text(await this.command('GET', INCARNATION));
    this.incarnation = { id, at };
    return { kind: 'incarnation', incarnation: id };
  }
}

/** Say once that a connection is lost and once that it is back, however often it is tried. */
function logOutages(redis, what, log) {
  let isLost = false;
  redis.on('error', (error) => {
    if (!isLost) log(`${what}: ${error.code ?? error.message}`);
    isLost = true;
  });
  redis.on('ready', () => {
    if (isLost) log(`${what}: connected again`);
    isLost = false;
  });
}

function randomId() {
  return randomBytes(16).toString('hex');
}

/** The channels: wakes of the streams that somebody follows, and raised fences. */
class Hints {
  constructor(options, log) {
    this.redis = new Redis(options);
    this.wakes = new Map();
    this.onFence = () => {};
    this.asked = null;
    logOutages(this.redis, "the store's channels", log);
    this.redis.on('close', () => { this.asked = null; });
    this.redis.on('ready', () => this.subscribe([FENCES, ...[...this.wakes.keys()].map(wakeChannel)]));
    this.redis.on('message', (channel, message) => this.came(channel, message));
  }

  open() {
    return this.redis.connect();
  }

  close() {
    this.redis.disconnect();
  }

  /** Ask whether the connection still lives, since nothing else is written on it. */
  check() {
    if (this.redis.status !== 'ready') return;
    const now = performance.now() / 1000;
    this.asked ??= this.ask(now);
    if (now - this.asked > DEAD) this.redis.disconnect(true);
  }

  ask(now) {
    const done = () => { this.asked = null; };
    this.redis.ping().then(done, done);
    return now;
  }

  /** Subscribe; once it is confirmed every stream among the channels counts as woken. */
  subscribe(channels) {
    if (this.redis.status !== 'ready') return;
    this.redis.subscribe(...channels).then(() => {
      for (const channel of channels) this.came(channel, '');
    }, () => {});
  }

  came(channel, message) {
    if (channel === FENCES) {
      const [session, fence] = message.split(' ');
      if (fence) this.onFence(session, fenceOf(fence));
      return;
    }
    const followers = this.wakes.get(channel.slice(wakeChannel('').length));
    if (followers) for (const follower of [...followers]) follower.woken(channel.slice(wakeChannel('').length));
  }

  /** Wake `follower` (woken(stream)) when something is stored in the stream. */
  watch(stream, follower) {
    if (!this.wakes.has(stream)) {
      this.wakes.set(stream, new Set());
      this.subscribe([wakeChannel(stream)]);
    }
    this.wakes.get(stream).add(follower);
  }

  unwatch(stream, follower) {
    const followers = this.wakes.get(stream);
    if (!followers?.delete(follower) || followers.size > 0) return;
    this.wakes.delete(stream);
    if (this.redis.status === 'ready') this.redis.unsubscribe(wakeChannel(stream)).catch(() => {});
  }
}
