// What crosses the wire as WebSocket messages: data frames are read and written here, control frames through frames.js.
// Limits are looked at before content. No state, no sockets.

import { isUtf8 } from 'node:buffer';
import { ProtocolError } from './errors.js';
import { readFrame, writeFrame, CLIENT, SERVER } from './frames.js';
import { MAX_NUMBER, STREAM } from './types.js';

export const MAX_BATCH = 1024;
const MAX_NAME = 128;
const MAX_FIELD = 256;
const COLON = 0x3a;
const BRACE = 0x7b;
const HEAD = /^([1-9][0-9]{0,15})(?:-(0|[1-9][0-9]{0,15})|\*([1-9][0-9]{0,3}))?$/;
const ATTRIBUTE = /^([a-z][a-z0-9_]{0,15})(?:=([A-Za-z0-9._~-]{0,64}))?$/;
const LENGTH = /^(?:0|[1-9][0-9]{0,9})$/;
const INDEX = /^(?:0|[1-9][0-9]{0,3})$/;
const CODE = /^[A-Za-z0-9._-]{1,64}$/;

function part(data, from, most, what) {
  const end = data.subarray(from, from + most + 1).indexOf(COLON);
  if (end < 0) throw new ProtocolError(`a data frame has no ${what}, or one that is too long`);
  return data.toString('latin1', from, from + end);
}

function attributesOf(words) {
  const attributes = new Map();
  for (const word of words) {
    const found = ATTRIBUTE.exec(word);
    if (!found) throw new ProtocolError('a data frame has a malformed attribute');
    if (attributes.has(found[1])) throw new ProtocolError('a data frame gives an attribute twice');
    attributes.set(found[1], found[2]);
  }
  return attributes;
}

function producerOf(attributes) {
  if (!attributes.has('p')) return 0;
  const value = attributes.get('p');
  if (value === undefined || !INDEX.test(value) || Number(value) > 1023) throw new ProtocolError("'p' must be an index from 0 to 1023");
  return Number(value);
}

function voidOf(attributes) {
  if (!attributes.has('void')) return undefined;
  const code = attributes.get('void');
  if (code === undefined || !CODE.test(code)) throw new ProtocolError("'void' needs a code");
  return code;
}

function lengthsOf(text, count) {
  const words = text.split(',');
  if (words.length !== count) throw new ProtocolError('a batch frame does not have as many lengths as messages');
  if (!words.every((word) => LENGTH.test(word))) throw new ProtocolError('a batch frame has a malformed length');
  return words.map(Number);
}

function payloadsOf(data, at, count) {
  if (count === undefined) return [data.subarray(at)];
  const lengths = part(data, at, count * 11, 'list of lengths');
  let from = at + lengths.length + 1;
  const payloads = [];
  for (const length of lengthsOf(lengths, count)) {
    if (from + length > data.length) throw new ProtocolError('a batch frame is shorter than its lengths');
    payloads.push(data.subarray(from, from + length));
    from += length;
  }
  if (from !== data.length) throw new ProtocolError('a batch frame is longer than its lengths');
  return payloads;
}

function headOf(word, isBinary, fromClient) {
  const found = HEAD.exec(word);
  if (!found) throw new ProtocolError('a data frame has a malformed number');
  const first = Number(found[1]);
  const skip = found[2] === undefined ? undefined : Number(found[2]);
  const count = found[3] === undefined ? undefined : Number(found[3]);
  if (first > MAX_NUMBER - ((count ?? 1) - 1)) throw new ProtocolError('a data frame has a number above 2^53 - 1');
  if (skip !== undefined && fromClient) throw new ProtocolError('a client sends no skip');
  if (skip !== undefined && skip >= first) throw new ProtocolError('a skip must be below its number');
  if (count > MAX_BATCH) throw new ProtocolError(`a batch frame has more than ${MAX_BATCH} messages`);
  if (count !== undefined && !isBinary) throw new ProtocolError('a batch frame must be a binary message');
  return { first, skip, count };
}

/** Read one data frame: {type: 'data', stream, first, skip, text, producer, code, payloads, isBinary}. */
export function readData(data, isBinary, fromClient) {
  const stream = part(data, 0, MAX_NAME, 'name');
  if (!STREAM.test(stream)) throw new ProtocolError('a data frame has a malformed name');
  const field = part(data, stream.length + 1, MAX_FIELD, 'number');
  const [word, ...words] = field.split(';');
  const { first, skip, count } = headOf(word, isBinary, fromClient);
  const attributes = attributesOf(words);
  if (attributes.has('text') && attributes.get('text') !== undefined) throw new ProtocolError("'text' has no value");
  const payloads = payloadsOf(data, stream.length + field.length + 2, count);
  const text = !isBinary || attributes.has('text');
  if (isBinary && text && !payloads.every(isUtf8)) throw new ProtocolError('a text payload is not UTF-8');
  const producer = fromClient ? producerOf(attributes) : 0;
  const code = fromClient ? voidOf(attributes) : undefined;
  if (code !== undefined && payloads.some((payload) => payload.length > 0)) throw new ProtocolError('a withdrawn message has a payload');
  return { type: 'data', stream, first, skip, text, producer, code, payloads, isBinary };
}

/** Write one data frame; the result is {isBinary, data}. One message takes the short form. */
export function writeData({ stream, first, skip, text = false, producer = 0, code, payloads }) {
  const attributes = (producer ? `;p=${producer}` : '') + (text && payloads.length > 1 ? ';text' : '') + (code ? `;void=${code}` : '');
  if (payloads.length === 1) {
    const number = skip === undefined ? `${first}` : `${first}-${skip}`;
    return { isBinary: !text, data: Buffer.concat([Buffer.from(`${stream}:${number}${attributes}:`), payloads[0]]) };
  }
  const lengths = payloads.map((payload) => payload.length).join(',');
  const header = `${stream}:${first}*${payloads.length}${attributes}:${lengths}:`;
  return { isBinary: true, data: Buffer.concat([Buffer.from(header), ...payloads]) };
}

/** Read one WebSocket message: a control frame, or a data frame (type 'data'). */
export function readMessage(data, isBinary, fromClient = true) {
  if (data.length > 0 && !isBinary && data[0] === BRACE) {
    return readFrame(data.toString('utf8'), fromClient ? CLIENT : SERVER);
  }
  return readData(data, isBinary, fromClient);
}

/** Write one frame of either kind; the result is {isBinary, data}. */
export function writeMessage(frame, fromClient = false) {
  if (frame.type === 'data') return writeData(frame);
  return { isBinary: false, data: Buffer.from(writeFrame(frame, fromClient ? CLIENT : SERVER)) };
}
