// The types of fields: each is a function that returns the checked value or throws ProtocolError. Objects know the order of their
// fields and their defaults, so the same table reads a frame and writes it in canonical form. No frame is described here.

import { ProtocolError } from './errors.js';
import { Real } from './json.js';

export const MAX_NUMBER = Number.MAX_SAFE_INTEGER;
export const STREAM = /^[A-Za-z0-9_~][A-Za-z0-9._~/-]{0,127}$/;

function whole(low, high, what) {
  return (value) => {
    if (Number.isInteger(value) && value >= low && value <= high) return value;
    throw new ProtocolError(`a field must be ${what}`);
  };
}

function matching(pattern, what) {
  return (value) => {
    if (typeof value === 'string' && pattern.test(value)) return value;
    throw new ProtocolError(`a field must be ${what}`);
  };
}

export const number = whole(1, MAX_NUMBER, 'a number from 1 to 2^53 - 1');
export const offset = whole(0, MAX_NUMBER, 'a number from 0 to 2^53 - 1');
export const crc = whole(0, 0xffffffff, 'a number from 0 to 2^32 - 1');
export const index = whole(0, 1023, 'an index from 0 to 1023');
export const stream = matching(STREAM, 'the name of a stream');
export const id = matching(/^[A-Za-z0-9._-]{1,64}$/, 'an id of 1 to 64 characters');
export const hex32 = matching(/^[0-9a-f]{32}$/, '32 hexadecimal digits in lower case');
export const token = matching(/^[\x21-\x7e]{1,1024}$/, '1 to 1024 visible ASCII characters');
export const nodeName = matching(/^[\x21-\x7e]{1,255}$/, '1 to 255 visible ASCII characters');
export const echo = matching(/^[\x20-\x7e]{0,128}$/, 'at most 128 printable ASCII characters');
export const secret = matching(/^[\x20-\x7e]{1,16384}$/, '1 to 16384 printable ASCII characters');
export const url = matching(/^[\x21-\x7e]{1,2048}$/, 'a URL');
export const version = whole(1, 1, '1, the only version');

export function boolean(value) {
  if (typeof value === 'boolean') return value;
  throw new ProtocolError('a field must be true or false');
}

export function seconds(value) {
  const given = value instanceof Real ? value.value : value;
  if (typeof given === 'number' && given >= 0 && given <= 1e9) return given;
  throw new ProtocolError('a field must be seconds, from 0 to 10^9');
}

export function hint(value) {
  if (typeof value === 'string' && value.length <= 2048 && [...value].length <= 1024 && value.isWellFormed()
      && !/\p{Cc}/u.test(value)) return value;
  throw new ProtocolError('a hint must have at most 1024 characters and no control characters');
}

/** Cut and clean our own words, so that they are a legal hint. */
export function cleanHint(text, most = 1024) {
  return [...text.toWellFormed().replace(/\p{Cc}/gu, ' ')].slice(0, most).join('');
}

export function oneOf(...words) {
  return (value) => {
    if (words.includes(value)) return value;
    throw new ProtocolError('a field must be one of its defined words');
  };
}

export function list(type, most) {
  return (value) => {
    if (!Array.isArray(value)) throw new ProtocolError('a field must be a list');
    if (value.length > most) throw new ProtocolError(`a list must have at most ${most} entries`);
    return value.map(type);
  };
}

export function tuple(...types) {
  return (value) => {
    if (!Array.isArray(value) || value.length !== types.length) throw new ProtocolError(`a mark must have ${types.length} parts`);
    return types.map((type, i) => type(value[i]));
  };
}

/**
 * Describe an object. Each field is [name, type, options]; options: `required`, `missing` (the default), `always` (written even
 * where it has its default). `check` looks at the whole object.
 */
export function object(fields, check = () => {}) {
  const read = (value) => {
    if (value === null || typeof value !== 'object' || Array.isArray(value) || value instanceof Real) {
      throw new ProtocolError('a field must be an object');
    }
    const result = {};
    for (const [name, type, options = {}] of fields) {
      const given = value[name] ?? undefined;
      if (given !== undefined) result[name] = type(given);
      else if (options.required) throw new ProtocolError(`the field '${name}' is missing`);
      else if (options.missing !== undefined) result[name] = structuredClone(options.missing);
    }
    check(result);
    return result;
  };
  read.fields = fields;
  return read;
}

function isDefault(value, options) {
  if (value === undefined) return true;
  if (options.always || options.missing === undefined) return false;
  if (Array.isArray(value)) return value.length === 0;
  return value === options.missing;
}

/** Put the fields of `value` in the order of `type`'s table and leave out what has its default. */
export function arrange(type, value) {
  const result = {};
  for (const [name, , options = {}] of type.fields) {
    if (isDefault(value[name], options)) continue;
    const inner = options.entries ?? options.inside;
    if (!inner || value[name] === null) result[name] = value[name];
    else if (options.entries) result[name] = value[name].map((entry) => arrange(inner, entry));
    else result[name] = typeof value[name] === 'object' ? arrange(inner, value[name]) : value[name];
  }
  return result;
}
