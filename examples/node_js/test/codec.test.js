// The codec: limits, exact types, what is refused and what is ignored.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readMessage, writeMessage } from '../src/codec.js';
import { ProtocolError } from '../src/errors.js';
import { conclude } from '../src/conclude.js';
import { fenceLess, fenceOf, fenceText } from '../src/fence.js';
import { Keepalive } from '../src/keepalive.js';
import { Tokens } from '../src/tokens.js';

const text = (message, fromClient = true) => readMessage(Buffer.from(message), false, fromClient);
const binary = (message, fromClient = true) => readMessage(Buffer.from(message, 'latin1'), true, fromClient);
const refuses = (read, message) => assert.throws(() => read(message), ProtocolError, JSON.stringify(message).slice(0, 80));

test('control frames: what is no strict JSON is refused', () => {
  for (const message of ['{', '{}', '{"type":1}', '{"type":"ack",}', '{"type":"ack"}{}', "{'type':'ack'}", '{"type":"ack","acked":NaN}',
    '{"type":"ack","x":01}', '{"type":"ack","x":1e999}', '{"type":"ack","x":"\n"}', '{"type":"ack","x":"\\x"}', '{"type":"ack","x":tru}',
    '{"type":"ack","type":"ack"}', '{"type":"ack","x":{"a":1,"a":2}}', '{"type":"__proto__"}', '{"type":"toString"}', '\ufeff{"type":"ack"}',
    `{"type":"ack","x":${'['.repeat(1e5)}`, '{"type":"ack","x":100000000000000000}']) refuses(text, message);
});

test('control frames: more than 4,194,304 characters are refused, as many are read; characters are code points', () => {
  const frame = (n, filler) => `{"type":"ack","x":"${filler.repeat(n - 21)}"}`;
  assert.equal(text(frame(4194304, 'x')).type, 'ack');
  assert.equal(text(frame(4194304, '😀')).type, 'ack');
  refuses(text, frame(4194305, 'x'));
  refuses(text, frame(4194305, '😀'));
});

test('control frames: unknown fields and null are as if they were absent, space is allowed', () => {
  assert.deepEqual(text(' {"type":"ack"}'.trim()), { type: 'ack', acked: [] });
  assert.deepEqual(text('{ "type" : "ping", "echo": "\\u0041", "credit": null, "more": {"a": [1.5, "\\ud800"]} }'),
    { type: 'ping', echo: 'A', acked: [], sent_seqs: [] });
});

test('control frames: types are exact', () => {
  for (const message of ['{"type":"ready","generation":0}', '{"type":"ready","generation":1.0}', '{"type":"ready","generation":"1"}',
    '{"type":"ready","generation":true}', '{"type":"ready","generation":9007199254740992}', '{"type":"ready","generation":1e0}',
    '{"type":"ready","generation":-1}', '{"type":"ready"}', '{"type":"ready","generation":[1]}', '{"type":"bye","code":"no space"}',
    '{"type":"bye","hint":"a\\u0007"}', '{"type":"bye","hint":"\\ud800"}', '{"type":"error","code":"x","fatal":1}',
    '{"type":"subscribe","stream":"a","id":1}', '{"type":"subscribe","stream":"a","id":1,"start":"later"}',
    '{"type":"subscribe","stream":"a","id":1,"start":"now","held":{"epoch":"e","offset":0}}',
    '{"type":"subscribe","stream":"-a","id":1,"start":"now"}',
    '{"type":"ping"}', '{"type":"ping","echo":"é"}', '{"type":"auth","access_token":""}']) refuses(text, message);
  assert.equal(text(`{"type":"bye","hint":"${'é'.repeat(1024)}"}`).hint.length, 1024);
  refuses(text, `{"type":"bye","hint":"${'é'.repeat(1025)}"}`);
});

test('hello: its lists agree with each other', () => {
  const hello = (fields) => JSON.stringify({ type: 'hello', version: 1, instance: 'a'.repeat(32), attempt: 1, producers: ['b'.repeat(32)],
    credit: { messages: 0, bytes: 0 }, max_message: 1, ...fields });
  assert.equal(text(hello({})).standby, false);
  assert.deepEqual(text(hello({ producers: [] })).producers, []);
  assert.equal(text(hello({ streams: [{ stream: 'a', id: 1, start: 'now', acked: 1 }] })).streams[0].acked, 1);
  const outbound = (producer, first, next) => ({ producer, stream: 'a', first, next });
  for (const fields of [{ version: 2 }, { producers: ['b'.repeat(32), 'b'.repeat(32)] }, { producers: ['B'.repeat(32)] },
    { session: 'x' }, { token: 'x' }, { outbound: [outbound(1, 1, 2)] }, { outbound: [outbound(0, 3, 2)] },
    { outbound: [outbound(0, 1, 2), outbound(0, 1, 2)] },
    { streams: [{ stream: 'a', id: 1, start: 'now' }, { stream: 'a', id: 2, start: 'now' }] }, { features: Array(65).fill('a') },
    { credit: { messages: -1, bytes: 0 } }, { max_message: 0 }]) refuses(text, hello(fields));
});

test('data frames: payloads are verbatim, attributes have a direction, unknown ones are ignored', () => {
  assert.equal(text('a:1:b:c\n{').payloads[0].toString(), 'b:c\n{');
  assert.deepEqual([...binary('a:1:').payloads[0]], []);
  assert.equal(binary('a:1;text;later=x;p=3:x').producer, 3);
  assert.equal(text('a:1;p=zzz;void=gone:x', false).code, undefined);
  assert.equal(text('a:5-0:x', false).skip, 0);
  const { first, payloads } = binary('a:7*2:0,3:abc');
  assert.deepEqual([first, payloads.map(String)], [7, ['', 'abc']]);
});

test('data frames: what is malformed is refused', () => {
  for (const message of ['', 'a', 'a:1', 'a:0:x', 'a:+1:x', 'a:1 :x', 'a:9007199254740992:x', 'a:5-4:x', 'a:1*2:1,1:ab', 'a:1;P=1:x',
    'a:1;p=1;p=1:x', 'a:1;p=1024:x', 'a:1;p=:x', 'a:1;p:x', 'a:1;void=a:x', 'a:1;void=~:', 'a:1;text=1:x', 'a b:1:x', 'é:1:x',
    `${'a'.repeat(129)}:1:x`, `a:1;${'x'.repeat(17)}:x`, `a:1;x=${'y'.repeat(65)}:x`, `a:1${';abcdefgh=1'.repeat(26)}:x`]) refuses(text, message);
  for (const message of ['a:1*2:1,1:a', 'a:1*2:1,1:abc', 'a:1*2:1:ab', 'a:1*2:01,1:ab', 'a:1*0::', 'a:1*1025:1:x', 'a:1*2;void=x:0,1:a',
    'a:9007199254740991*2:1,1:ab', 'a:1*2;text:1,1:\xc3\xa9', 'a:1;text:\xff']) refuses(binary, message);
  refuses((message) => text(message, false), 'a:5-5:x');
});

test('data frames: one message takes the short form', () => {
  const write = (frame) => writeMessage({ type: 'data', stream: 'a', first: 5, ...frame });
  assert.deepEqual(write({ text: true, payloads: [Buffer.from('x')] }), { isBinary: false, data: Buffer.from('a:5:x') });
  assert.deepEqual(write({ skip: 0, payloads: [Buffer.from('x')] }), { isBinary: true, data: Buffer.from('a:5-0:x') });
  assert.equal(write({ text: true, payloads: [Buffer.from('x'), Buffer.from('yy')] }).data.toString(), 'a:5*2;text:1,2:xyy');
});

test('what a node concludes follows the table of section 7', () => {
  const facts = { epoch: 'e', first: 5, last: 20, lifted: false, matches: '', position: 10, crc: '7' };
  const held = (offset, epoch = 'e') => ({ held: { epoch, offset } });
  assert.equal(conclude({ start: 'now' }, facts).position, 10);
  assert.equal(conclude(held(10), facts).gap, null);
  assert.deepEqual(conclude(held(30, 'old'), facts).gap, { from: 31, to: null, next: 11, reason: 'epoch' });
  assert.equal(conclude(held(30, 'old'), facts, true).gap.reason, 'session');
  const rewritten = conclude(held(10), { ...facts, matches: '0' });
  assert.deepEqual([rewritten.gap, rewritten.told], [{ from: 1, to: 10, next: 11, reason: 'rewritten' }, false]);
  const trimmed = conclude(held(0), { ...facts, position: 4, crc: '' });
  assert.deepEqual([trimmed.gap, trimmed.position, trimmed.told], [{ from: 1, to: 4, next: 5, reason: 'trimmed' }, 4, false]);
  assert.equal(conclude(held(4), { ...facts, position: 4, crc: '' }).gap, null);
});

test('fences are compared by generation, instance, attempt', () => {
  const fence = (generation, instance, attempt) => ({ generation, instance, attempt });
  assert.ok(fenceLess(fence(9, 'f', 9), fence(10, 'a', 1)));
  assert.ok(fenceLess(fence(1, 'a', 9), fence(1, 'b', 1)));
  assert.ok(fenceLess(fence(1, 'a', 9), fence(1, 'a', 10)));
  assert.ok(!fenceLess(fence(1, 'a', 1), fence(1, 'a', 1)));
  assert.deepEqual(fenceOf(fenceText(fence(3, 'ab', 2))), fence(3, 'ab', 2));
});

test('tokens: an old key is good for reading, another session or a changed byte is not', () => {
  const [old, now] = [Buffer.from('old'), Buffer.from('now')];
  const token = new Tokens([old]).mint('ab12', 3);
  assert.equal(new Tokens([now, old]).check(token, 'ab12'), 3);
  assert.equal(new Tokens([now]).check(token, 'ab12'), null);
  assert.equal(new Tokens([old]).check(token, 'ab13'), null);
  assert.equal(new Tokens([old]).check(token.replace('.3.', '.4.'), 'ab12'), null);
  assert.equal(new Tokens([old]).check('nonsense', 'ab12'), null);
});

test('keepalive: silence brings a ping, then the end; pings alone are life for a while; a late look gives all the time again', () => {
  const watch = () => new Keepalive({ interval: 1, timeout: 2 }, 0);
  const look = (keepalive, from, to) => {
    const signs = [];
    for (let t = from; t <= to; t += 0.5) signs.push(keepalive.look(t));
    return signs.filter((sign) => sign);
  };
  assert.deepEqual(look(watch(), 0, 3), ['ping', 'lost']);
  const pinging = watch();
  for (let t = 0; t <= 10; t += 0.5) pinging.heard(t, true);
  assert.equal(pinging.life, 3);
  const late = watch();
  assert.equal(late.look(50), null);
  assert.deepEqual(look(late, 50.5, 51), ['ping']);
});
