// Strict JSON for control frames: RFC 8259 with bounds. What JSON.parse lets pass is refused here: a field given twice, deep nesting,
// integers of more than 17 digits, numbers that overflow. `1.0` is kept apart from `1` (class Real), because types are exact.
// Nothing here knows a frame.

import { ProtocolError } from './errors.js';

export const MAX_DEPTH = 32;

/** A number that was written with a fraction or an exponent. */
export class Real {
  constructor(value) {
    this.value = value;
  }
}

const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const SPACE = /[ \t\n\r]*/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y;
const WORDS = [['true', true], ['false', false], ['null', null]];

class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found;
  }

  take(character) {
    this.match(SPACE);
    if (this.text[this.at] !== character) return false;
    this.at += 1;
    return true;
  }

  expect(character) {
    if (!this.take(character)) throw new ProtocolError('a control frame is not JSON');
  }

  value(depth) {
    if (depth > MAX_DEPTH) throw new ProtocolError('a control frame is nested too deeply');
    if (this.take('{')) return this.object(depth);
    if (this.take('[')) return this.array(depth);
    if (this.text[this.at] === '"') return this.string();
    for (const [word, meaning] of WORDS) {
      if (!this.text.startsWith(word, this.at)) continue;
      this.at += word.length;
      return meaning;
    }
    return this.number();
  }

  object(depth) {
    const result = Object.create(null);
    if (this.take('}')) return result;
    do {
      this.match(SPACE);
      const key = this.string();
      if (key in result) throw new ProtocolError('a control frame gives a field twice');
      this.expect(':');
      result[key] = this.value(depth + 1);
    } while (this.take(','));
    this.expect('}');
    return result;
  }

  array(depth) {
    const result = [];
    if (this.take(']')) return result;
    do {
      result.push(this.value(depth + 1));
    } while (this.take(','));
    this.expect(']');
    return result;
  }

  string() {
    const start = this.at;
    if (this.text[this.at] !== '"') throw new ProtocolError('a control frame is not JSON');
    this.at += 1;
    do {
      this.match(PLAIN);
    } while (this.match(ESCAPE));
    this.expectQuote();
    return JSON.parse(this.text.slice(start, this.at));
  }

  expectQuote() {
    if (this.text[this.at] !== '"') throw new ProtocolError('a control frame is not JSON');
    this.at += 1;
  }

  number() {
    const found = this.match(NUMBER);
    if (!found) throw new ProtocolError('a control frame is not JSON');
    if (found[1] === undefined && found[2] === undefined) return wholeNumber(found[0]);
    const value = Number(found[0]);
    if (!Number.isFinite(value)) throw new ProtocolError('a control frame has a number that is not finite');
    return new Real(value);
  }
}

function wholeNumber(digits) {
  if (digits.replace('-', '').length > 17) throw new ProtocolError('a control frame has an integer of more than 17 digits');
  return Number(digits);
}

/** Return the value that `text` stands for; throw ProtocolError where it is not one strict JSON value. */
export function parseStrict(text) {
  const reader = new Reader(text);
  const value = reader.value(1);
  reader.match(SPACE);
  if (reader.at !== text.length) throw new ProtocolError('a control frame has something after its object');
  return value;
}

/** Write canonically: no spaces, everything outside of ASCII escaped. */
export function writeCanonical(value) {
  return JSON.stringify(value).replace(/[\u0080-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
