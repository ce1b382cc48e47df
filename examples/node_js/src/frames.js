// Control frames: one table for each direction, read strictly and written canonically. What a frame makes the server do is not here.

import { ProtocolError } from './errors.js';
import { parseStrict, writeCanonical } from './json.js';
import * as t from './types.js';

export const MAX_CONTROL = 4 * 1048576;

const required = { required: true };
const empty = { missing: [] };
const features = ['features', t.list(t.id, 64), empty];
const hint = ['hint', t.hint, { missing: '' }];
const acked = ['acked', t.list(t.tuple(t.stream, t.id, t.offset), 8192), empty];
const seqMarks = t.list(t.tuple(t.index, t.stream, t.offset), 8192);
const peers = ['peers', t.list(t.url, 64), empty];

const position = t.object([['epoch', t.id, required], ['offset', t.offset, required]]);
const held = t.object([['epoch', t.id, required], ['offset', t.offset, required], ['crc', t.crc]]);
const credit = t.object([['messages', t.offset, required], ['bytes', t.offset, required]]);
const keepalive = t.object([['interval', t.seconds, required], ['timeout', t.seconds, required]]);
const refusal = t.object([['code', t.id, required], hint]);
const start = (value) => (typeof value === 'string' ? t.oneOf('now', 'earliest')(value) : position(value));

function oneStart(entry) {
  if ((entry.held === undefined) === (entry.start === undefined)) throw new ProtocolError("exactly one of 'held' and 'start' is needed");
}

const wanted = [['stream', t.stream, required], ['id', t.number, required], ['held', held, { inside: held }],
  ['start', start, { inside: position }]];
const subscription = t.object([...wanted, ['acked', t.offset]], oneStart);
const outbound = t.object([['producer', t.index, required], ['stream', t.stream, required], ['first', t.number, required],
  ['next', t.number, required]], (entry) => {
  if (entry.first > entry.next) throw new ProtocolError("'first' of an outbound entry is above its 'next'");
});

const unknownEnd = (value) => (value === null ? null : t.number(value));
const gapFields = [['from', t.number, required], ['to', unknownEnd, { missing: null, always: true }], ['next', t.number, required],
  ['reason', t.id, required]];
const gap = t.object(gapFields);

function answered(answer) {
  if (answer.error) {
    for (const name of ['epoch', 'from', 'crc', 'gap']) {
      if (answer[name] !== undefined) throw new ProtocolError("an answer has 'error' alone or everything else");
    }
  } else if (answer.epoch === undefined || answer.from === undefined) {
    throw new ProtocolError("an answer needs 'epoch' and 'from'");
  }
}
const answerFields = [['stream', t.stream, required], ['id', t.number, required], ['epoch', t.id], ['from', t.number], ['crc', t.crc],
  ['live', t.offset, { missing: 0 }], ['gap', gap, { inside: gap }], ['error', refusal, { inside: refusal }]];
const answer = t.object(answerFields, answered);
const committed = t.object([['producer', t.index, required], ['stream', t.stream, required], ['seq', t.offset, required],
  ['known', t.boolean, { missing: true }], ['rejected', t.list(t.tuple(t.number, t.id), 8192), empty]]);

function distinct(keys, what) {
  if (new Set(keys).size !== keys.length) throw new ProtocolError(`a hello names ${what} twice`);
}

function helloChecks(frame) {
  if ((frame.session === undefined) !== (frame.token === undefined)) throw new ProtocolError("'session' and 'token' go together");
  distinct(frame.producers, 'a producer');
  distinct(frame.streams.map((entry) => entry.stream), 'a stream');
  distinct(frame.outbound.map((entry) => `${entry.producer} ${entry.stream}`), 'an outbound entry');
  if (frame.outbound.some((entry) => entry.producer >= frame.producers.length)) {
    throw new ProtocolError('an outbound entry names a producer that the hello does not list');
  }
}

const error = t.object([['code', t.id, required], hint, ['fatal', t.boolean, { missing: false }]]);
const bye = t.object([['code', t.id, { missing: 'closed', always: true }], hint]);
const clientPing = t.object([['echo', t.echo, required], acked, ['sent_seqs', seqMarks, empty], ['credit', credit, { inside: credit }]]);
const serverPing = t.object([['echo', t.echo, required], ['committed', seqMarks, empty],
  ['sent_offsets', t.list(t.tuple(t.stream, t.number, t.id, t.offset), 8192), empty], ['spread', t.seconds]]);

export const CLIENT = {
  hello: t.object([['version', t.version, required], features, ['instance', t.hex32, required], ['attempt', t.number, required],
    ['session', t.id], ['token', t.token], ['producers', t.list(t.hex32, 1024), { required: true, always: true }],
    ['streams', t.list(subscription, 4096), { missing: [], entries: subscription }],
    ['outbound', t.list(outbound, 8192), { missing: [], entries: outbound }], ['credit', credit, { required: true, inside: credit }],
    ['max_message', t.number, required], ['standby', t.boolean, { missing: false }]], helloChecks),
  ready: t.object([['generation', t.number, required]]),
  subscribe: t.object(wanted, oneStart),
  unsubscribe: t.object([['stream', t.stream, required], ['id', t.number, required]]),
  ack: t.object([acked]),
  credit,
  ping: clientPing,
  pong: clientPing,
  auth: t.object([['access_token', t.secret, required]]),
  error,
  bye,
};

export const SERVER = {
  welcome: t.object([['version', t.version, required], features, ['session', t.id, required], ['token', t.token, required],
    ['generation', t.number, required], ['verdict', t.oneOf('resumed', 'new'), required], ['reason', t.id], ['ttl', t.seconds, required],
    ['node', t.nodeName, required], ['incarnation', t.id, required], ['producer_ttl', t.seconds, required],
    ['max_message', t.number, required], ['committed', t.list(committed, 8192), { missing: [], entries: committed }],
    ['streams', t.list(answer, 4096), { missing: [], entries: answer }], ['keepalive', keepalive, { inside: keepalive }], peers,
    ['spread', t.seconds, { missing: 0 }]]),
  standing: t.object([['node', t.nodeName, required]]),
  subscribed: answer,
  ack: t.object([['committed', seqMarks, empty]]),
  gap: t.object([['stream', t.stream, required], ['id', t.number, required], ['epoch', t.id, required], ...gapFields]),
  reject: t.object([['producer', t.index, required], ['stream', t.stream, required], ['seq', t.number, required],
    ['code', t.id, required], hint]),
  ping: serverPing,
  pong: serverPing,
  drain: t.object([['within', t.seconds, required], ['jitter', t.seconds, { missing: 0 }], ['spread', t.seconds, { missing: 0 }], peers]),
  error,
  bye,
};

function tooLong(text) {
  if (text.length <= MAX_CONTROL) return false;
  if (text.length > 2 * MAX_CONTROL) return true;
  let characters = 0;
  for (const character of text) characters += character ? 1 : 0;
  return characters > MAX_CONTROL;
}

/** Read one control frame of `table` (CLIENT or SERVER); the result has `type` and every field that is present or has a default. */
export function readFrame(text, table) {
  if (tooLong(text)) throw new ProtocolError(`a control frame must have at most ${MAX_CONTROL} characters`);
  const value = parseStrict(text);
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw new ProtocolError('a control frame must be an object');
  if (typeof value.type !== 'string' || !Object.hasOwn(table, value.type)) {
    throw new ProtocolError('a control frame has a type that is unknown or that only the other side may send');
  }
  return { type: value.type, ...table[value.type](value) };
}

/** Write one control frame of `table` in canonical form. */
export function writeFrame(frame, table) {
  return writeCanonical({ type: frame.type, ...arrangeFrame(frame, table) });
}

function arrangeFrame(frame, table) {
  return t.arrange(table[frame.type], frame);
}
