// The golden transcripts: every line is read and written again by the codec; every server line is compared with what the core says.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { readMessage, writeMessage } from '../src/codec.js';
import { bytesOf, Player } from '../testbed/player.js';
import { SCENARIOS } from '../testbed/scenarios.js';

const FOLDER = new URL('../../../docs/transcripts/', import.meta.url);
const NAMES = readdirSync(FOLDER).filter((name) => name.endsWith('.jsonl')).map((name) => name.slice(0, -'.jsonl'.length));

function linesOf(name) {
  const [, ...lines] = readFileSync(new URL(`${name}.jsonl`, FOLDER), 'utf8').trim().split('\n').map((line) => JSON.parse(line));
  return lines;
}

/** Change the last digit of a server's line; return null where it has none. */
function spoiled(line) {
  const text = line.close === undefined ? bytesOf(line).toString('latin1') : String(line.close);
  const at = text.search(/[0-9][^0-9]*$/);
  if (at < 0) return null;
  const changed = text.slice(0, at) + ((Number(text[at]) + 1) % 10) + text.slice(at + 1);
  if (line.close !== undefined) return { ...line, close: Number(changed) };
  const data = Buffer.from(changed, 'latin1');
  return line.text === undefined ? { ...line, base64: data.toString('base64') } : { ...line, text: data.toString() };
}

test('every transcript has a scenario and every scenario a transcript', () => {
  assert.deepEqual(Object.keys(SCENARIOS).sort(), NAMES.sort());
});

for (const name of NAMES) {
  test(`${name}: every line is read and written again to the same bytes`, () => {
    for (const line of linesOf(name).filter(({ close }) => close === undefined)) {
      const isFromClient = line.from === 'client';
      const frame = readMessage(bytesOf(line), line.text === undefined, isFromClient);
      const { data, isBinary } = writeMessage(frame, isFromClient);
      assert.deepEqual({ text: data.toString('latin1'), isBinary }, { text: bytesOf(line).toString('latin1'), isBinary: line.text === undefined });
    }
  });

  test(`${name}: the server says what the transcript says`, () => {
    new Player(SCENARIOS[name]).play(linesOf(name));
  });

  test(`${name}: a changed number in any server line is noticed`, () => {
    const lines = linesOf(name);
    const omitted = SCENARIOS[name].omitted ?? [];
    const compared = lines.filter((line) => line.from === 'server' && !omitted.includes(String(line.at)) && spoiled(line));
    assert.ok(compared.length > 0);
    for (const line of compared) {
      const changed = lines.map((other) => (other === line ? spoiled(line) : other));
      assert.throws(() => new Player(SCENARIOS[name]).play(changed), `line ${line.at}`);
    }
  });
}
