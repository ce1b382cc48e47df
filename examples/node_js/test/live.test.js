// Two nodes, a store and clients that speak by hand: what only processes and sockets can show.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { crc32 } from 'node:zlib';
import { Client, hex, NodeProcess, runNode, sleep, stopAll, Store, until } from '../testbed/cluster.js';

let store;
let one;
let two;
let streams = 0;
const fresh = () => `stream-${streams += 1}`;
const follow = (stream, start = 'now', id = 1) => [{ stream, id, start }];

before(async () => {
  store = await Store.start();
  [one, two] = await Promise.all(['n1', 'n2'].map((name) => NodeProcess.start(name, store.url, ['--poll=1', '--retention=50'])));
});

after(stopAll);

test('a new client is welcomed, sends, is acked, and is given what others append', async () => {
  const stream = fresh();
  const client = await Client.hello(one.url, { streams: follow(stream) });
  assert.equal(client.node, 'n1');
  assert.equal(client.welcome.verdict, 'new');
  assert.deepEqual(client.welcome.keepalive, { interval: 0.5, timeout: 5 });
  client.send(stream, 1, 'a', 'b');
  assert.deepEqual((await client.get('ack')).committed, [[0, stream, 2]]);
  const { epoch, offset, status } = await two.publish(stream, 'c');
  assert.deepEqual([status, epoch, offset], [200, client.welcome.streams[0].epoch, 3]);
  assert.deepEqual(await client.messages(stream, 3), [[1, 'a'], [2, 'b'], [3, 'c']]);
  await two.publish(stream, Buffer.from([0, 255]), {});
  const { text, payloads } = await client.get('data');
  assert.deepEqual([text, [...payloads[0]]], [false, [0, 255]]);
});

test('on the other node the token resumes: what is missing is replayed, what was stored is not stored twice', async () => {
  const stream = fresh();
  const first = await Client.hello(one.url, { streams: follow(stream, 'earliest') });
  first.send(stream, 1, 'a', 'b');
  await first.get('ack');
  await first.messages(stream, 2);
  first.socket.terminate();
  await one.publish(stream, 'c');
  const { session, token } = first.welcome;
  const held = { epoch: first.welcome.streams[0].epoch, offset: 1, crc: crc32('a') };
  const second = await Client.hello(two.url, { attempt: 2, session, token, streams: [{ stream, id: 1, held }],
    outbound: [{ producer: 0, stream, first: 2, next: 4 }] });
  assert.equal(second.welcome.verdict, 'resumed');
  assert.equal(second.welcome.generation, 2);
  assert.deepEqual(second.welcome.committed, [{ producer: 0, stream, seq: 2, known: true, rejected: [] }]);
  assert.equal(second.welcome.streams[0].from, 2);
  second.send(stream, 2, 'b', 'd');
  assert.deepEqual((await second.get('ack')).committed, [[0, stream, 3]]);
  assert.deepEqual(await second.messages(stream, 3), [[2, 'b'], [3, 'c'], [4, 'd']]);
});

test('a newer hello closes the older connection with 4409 and names the new owner', async () => {
  const old = await Client.hello(one.url);
  const { session, token } = old.welcome;
  await Client.hello(two.url, { instance: hex(77), session, token });
  assert.deepEqual(await old.end(), { code: 4409, reason: `instance=${hex(77)}` });
});

test('an attempt that is not above the last one is closed 4410, a wrong token 4403', async () => {
  const { welcome } = await Client.hello(one.url);
  const { session, token } = welcome;
  const codeOf = async (hello) => {
    const client = new Client(two.url);
    await until(() => client.socket.readyState === 1, 'upgraded');
    client.say({ type: 'hello', version: 1, features: [], instance: hex(1), attempt: 1, producers: [hex(2)], streams: [], outbound: [],
      credit: { messages: 1, bytes: 1 }, max_message: 1, ...hello });
    return (await client.end()).code;
  };
  assert.equal(await codeOf({ session, token }), 4410);
  assert.equal(await codeOf({ attempt: 2, session, token: token.replace(/.$/, (c) => (c === '0' ? '1' : '0')) }), 4403);
  assert.equal(await codeOf({ attempt: 2, session: hex(5), token }), 4403);
});

test('what a spare is told raises no fence, and an ordinary hello on it takes over', async () => {
  const primary = await Client.hello(one.url);
  const { session, token } = primary.welcome;
  const spare = new Client(two.url);
  await until(() => spare.socket.readyState === 1, 'upgraded');
  const hello = { type: 'hello', version: 1, features: [], instance: hex(1), attempt: 2, session, token, producers: [hex(2)], streams: [],
    outbound: [], credit: { messages: 0, bytes: 0 }, max_message: 1 };
  spare.say({ ...hello, standby: true });
  assert.equal((await spare.get('standing')).node, 'n2');
  spare.say({ type: 'ping', echo: 'x', acked: [], sent_seqs: [] });
  assert.equal((await spare.get('pong')).echo, 'x');
  assert.equal(primary.closed, null);
  spare.say({ ...hello, attempt: 3 });
  assert.equal((await spare.get('welcome')).verdict, 'resumed');
  assert.equal((await primary.end()).code, 4409);
});

test('frames that the protocol does not allow are closed 4400 after an error', async () => {
  const bad = ['{"type":"hello"}', '{"type":"unknown"}', '{"type":"welcome"}', '{"type":"credit","messages":1,"messages":1,"bytes":1}',
    '{"type":"credit","messages":1.0,"bytes":1}', '{"type":"credit","messages":true,"bytes":1}', `${'['.repeat(100000)}`,
    `{"type":"ping","echo":"1","x":${'{"a":'.repeat(50)}1${'}'.repeat(50)}}`, '{"type":"ping","echo":"1","x":123456789012345678}',
    '{"type":"ack","acked":[["a","b"]]}', 'no data', ':1:x', 'a:01:x', 'a:1-0:x', 'a:1*2:1,1:ab', 'a:1;p=9:x', 'a:1;void=gone:x',
    `${'n'.repeat(129)}:1:x`, '~other:1:x', '{"type":"ready","generation":7}', Buffer.from('a:1*2;text:1,1:\xff\xff', 'latin1'),
    Buffer.from('a:1*2:1,9:ab'), Buffer.from('a:1*1025:1:a')];
  for (const message of bad) {
    const client = await Client.hello(one.url);
    client.socket.send(message);
    const { code } = await client.end();
    const error = client.frames.find(({ type }) => type === 'error');
    assert.deepEqual([code, error?.code, error?.fatal], [4400, 'protocol_error', true], String(message).slice(0, 60));
  }
});

test('a message that is too large and one for the private stream are rejected before the ack that covers them', async () => {
  const small = await NodeProcess.start('n3', store.url, ['--max-message=10']);
  const client = await Client.hello(small.url);
  const stream = fresh();
  client.send(stream, 1, 'x'.repeat(11), 'y');
  const { seq, code } = await client.get('reject');
  assert.deepEqual([seq, code], [1, 'too_large']);
  assert.deepEqual((await client.get('ack')).committed, [[0, stream, 2]]);
  client.send('~', 1, 'mine');
  assert.equal((await client.get('reject')).code, 'forbidden');
  assert.equal((await small.publish(fresh(), 'x'.repeat(11))).status, 413);
  await small.stop();
});

test('a client is given no more than its credit, in messages and in bytes', async () => {
  const stream = fresh();
  for (const text of ['aa', 'bb', 'cc', 'dddddddddd', 'e']) await one.publish(stream, text);
  const client = await Client.hello(two.url, { streams: follow(stream, 'earliest'), credit: { messages: 2, bytes: 100 } });
  assert.equal((await client.messages(stream, 2)).length, 2);
  await sleep(300);
  assert.deepEqual(client.frames.filter(({ type }) => type === 'data'), []);
  client.say({ type: 'credit', messages: 10, bytes: 15 });
  client.live();
  assert.equal((await client.messages(stream, 3))[0][1], 'cc');
  const tight = await Client.hello(two.url, { streams: follow(stream, 'earliest'), credit: { messages: 10, bytes: 8 } });
  assert.deepEqual((await tight.messages(stream, 3)).map(([offset]) => offset), [1, 2, 3]);
  await sleep(300);
  assert.deepEqual(tight.frames.filter(({ type }) => type === 'data'), []);
  tight.say({ type: 'credit', messages: 10, bytes: 17 });
  assert.deepEqual((await tight.messages(stream, 2)).map(([offset]) => offset), [4, 5]);
});

test('what is too large for a client becomes one gap, what is trimmed another', async () => {
  const stream = fresh();
  for (const text of ['a', 'b'.repeat(50), 'c'.repeat(50), 'd']) await one.publish(stream, text);
  const client = await Client.hello(one.url, { streams: follow(stream, 'earliest'), max_message: 10 });
  const { from, to, next, reason } = await client.get('gap');
  assert.deepEqual([from, to, next, reason], [2, 3, 4, 'too_large']);
  assert.deepEqual(await client.messages(stream, 2), [[1, 'a'], [4, 'd']]);
  for (let i = 0; i < 50; i += 1) await one.publish(stream, `${i}`);
  const { epoch } = client.welcome.streams[0];
  const late = await Client.hello(two.url, { streams: [{ stream, id: 1, held: { epoch, offset: 2 } }] });
  assert.deepEqual(late.welcome.streams[0].gap, { from: 3, to: 4, next: 5, reason: 'trimmed' });
});

test('the private stream is written by the API, read under the name ~, trimmed by acks, and gone after bye', async () => {
  const client = await Client.hello(one.url, { streams: follow('~', 'earliest') });
  const { session, token } = client.welcome;
  assert.equal((await two.publish(`~${session}`, 'psst')).status, 200);
  await two.publish(`~${session}`, 'again');
  assert.deepEqual(await client.messages('~', 2), [[1, 'psst'], [2, 'again']]);
  const { epoch } = client.welcome.streams[0];
  client.say({ type: 'ack', acked: [['~', epoch, 1]] });
  client.say({ type: 'subscribe', stream: '~', id: 2, start: 'earliest' });
  assert.equal((await client.get('subscribed')).from, 2);
  client.say({ type: 'bye', code: 'closed' });
  assert.deepEqual(await client.end(), { code: 1000, reason: '' });
  assert.equal((await two.publish(`~${session}`, 'gone')).status, 404);
  const next = await Client.hello(one.url, { attempt: 2, session, token, streams: [{ stream: '~', id: 3, held: { epoch, offset: 2 } }] });
  assert.deepEqual([next.welcome.verdict, next.welcome.reason], ['new', 'unknown']);
  assert.equal(next.welcome.streams[0].gap.reason, 'session');
});

test('streams are subscribed and unsubscribed on the way; reserved names are refused alone', async () => {
  const [stream, client] = [fresh(), await Client.hello(one.url)];
  client.say({ type: 'subscribe', stream, id: 1, start: 'now' });
  client.say({ type: 'subscribe', stream: '~somebody', id: 2, start: 'now' });
  assert.equal((await client.get('subscribed', ({ id }) => id === 2)).error.code, 'forbidden');
  assert.equal((await client.get('subscribed')).from, 1);
  await one.publish(stream, 'a');
  await client.messages(stream, 1);
  client.say({ type: 'unsubscribe', stream, id: 1 });
  client.say({ type: 'ping', echo: 'after', acked: [], sent_seqs: [] });
  assert.deepEqual((await client.get('pong')).sent_offsets, []);
  await one.publish(stream, 'b');
  await sleep(200);
  assert.deepEqual(client.frames.filter(({ type }) => type === 'data'), []);
});

test('a hole is closed 1012, and so are marks above what came', async () => {
  const hole = await Client.hello(one.url);
  hole.send(fresh(), 2, 'x');
  assert.equal((await hole.end()).code, 1012);
  const swallowed = await Client.hello(one.url);
  swallowed.say({ type: 'ping', echo: '', acked: [], sent_seqs: [[0, fresh(), 1]] });
  assert.equal((await swallowed.end()).code, 1012);
});

test('a silent client is pinged and given up with 1011; one that answers stays; without a hello it is 4408', async () => {
  const strict = await NodeProcess.start('n4', store.url, ['--keepalive=0.3', '--keepalive-timeout=0.5', '--hello-timeout=0.4']);
  const silent = await Client.hello(strict.url);
  const alive = (await Client.hello(strict.url, { instance: hex(9) })).live();
  const mute = new Client(strict.url);
  assert.equal((await mute.end()).code, 4408);
  assert.equal((await silent.end()).code, 1011);
  await sleep(1000);
  assert.equal(alive.closed, null);
  await strict.stop();
});

test('an upgrade needs the subprotocol; wrong names are 400; other paths are told what this is', async () => {
  const client = new Client(one.url, ['other.v1']);
  await client.end();
  assert.equal(client.node, undefined);
  assert.equal((await one.publish('-bad', 'x')).status, 400);
  assert.equal((await one.publish('~', 'x')).status, 400);
  const plain = await one.request('/feed');
  assert.deepEqual([plain.status, plain.headers.get('resilient-node')], [426, 'n1']);
});

test('health says how many sessions there are', async () => {
  const response = await two.request('/healthz');
  const { node, status, sessions } = await response.json();
  assert.deepEqual([response.status, node, status, typeof sessions], [200, 'n2', 'ok', 'number']);
});

test('SIGTERM: clients are asked to leave, upgrades refused, what was read is acked, then 1012 and exit 0', async () => {
  const node = await NodeProcess.start('n5', store.url, ['--drain=1', '--peers=ws://127.0.0.1:1/']);
  const client = (await Client.hello(node.url)).live();
  node.signal('SIGTERM');
  const { within, peers } = await client.get('drain');
  assert.deepEqual([within, peers], [1, ['ws://127.0.0.1:1/']]);
  const health = await node.request('/healthz');
  assert.deepEqual([health.status, (await health.json()).status], [503, 'draining']);
  const refused = await new Promise((resolve) => { new Client(node.url).socket.on('unexpected-response', (_, response) => resolve(response)); });
  assert.deepEqual([refused.statusCode, refused.headers['retry-after'], refused.headers['resilient-node']], [503, '1', 'n5']);
  client.send(fresh(), 1, 'late');
  await client.get('ack');
  assert.equal((await client.end()).code, 1012);
  assert.equal(await node.ended, 0);
});

test('a drain ends as soon as the last client has left; SIGINT ends at once', async () => {
  const [left, stopped] = await Promise.all(['n6', 'n7'].map((name) => NodeProcess.start(name, store.url, ['--drain=60'])));
  const client = await Client.hello(left.url);
  left.signal('SIGTERM');
  await client.get('drain');
  client.socket.close(1000);
  assert.equal(await left.ended, 0);
  await Client.hello(stopped.url);
  stopped.signal('SIGINT');
  assert.equal(await stopped.ended, 130);
});

test('a node whose parent is gone exits', async () => {
  const node = await NodeProcess.start('n8', store.url, [], true);
  await sleep(100);
  assert.equal(node.process.exitCode, null);
  node.process.stdio[3].destroy();
  assert.equal(await node.ended, 0);
});

test('wrong flags and a missing key are usage errors', async () => {
  for (const words of [['--nonsense=1'], ['--port', 'many'], ['--ttl'], ['word']]) {
    const { code, errors } = await runNode(words);
    assert.deepEqual([code, errors.startsWith('usage: ')], [2, true], words.join(' '));
  }
  assert.equal((await runNode([], { RESILIENT_WS_TOKEN_KEY: '' })).code, 2);
});

test('a given port that is in use is tried again until it is free', async () => {
  const first = await NodeProcess.start('n9', store.url);
  const second = NodeProcess.start('n10', store.url, [`--port=${first.port}`]);
  await sleep(500);
  await first.stop();
  assert.equal((await second).port, first.port);
  await (await second).stop();
});

test('the store may be named by its socket', async () => {
  const node = await NodeProcess.start('n11', `unix://${store.socket}?db=0`);
  const stream = fresh();
  const client = await Client.hello(node.url, { streams: follow(stream) });
  await one.publish(stream, 'across');
  assert.deepEqual(await client.messages(stream, 1), [[1, 'across']]);
  await node.stop();
});

test('a store that does not answer: 1013, 503, and everything goes on when it is back', async () => {
  const own = await Store.start();
  const node = await NodeProcess.start('n12', own.url, ['--step-timeout=0.5', '--ttl=4', '--poll=60']);
  const stream = fresh();
  const [idle, sender] = await Promise.all([1, 2].map((n) => Client.hello(node.url, { instance: hex(n), producers: [hex(n)] })));
  [idle, sender].forEach((client) => client.live());
  own.signal('SIGSTOP');
  sender.send(stream, 1, 'x');
  assert.equal((await sender.end()).code, 1013);
  assert.equal((await node.publish(stream, 'y')).status, 503);
  assert.equal((await idle.end()).code, 1013);
  await until(async () => (await node.request('/healthz')).status === 503, 'the node notices that the store is silent');
  own.signal('SIGCONT');
  await until(async () => (await node.request('/healthz')).status === 200, 'the node is healthy again');
  const { session, token } = sender.welcome;
  const again = await Client.hello(node.url, { instance: hex(2), producers: [hex(2)], attempt: 2, session, token,
    outbound: [{ producer: 0, stream, first: 1, next: 2 }] });
  assert.equal(again.welcome.verdict, 'resumed');
  await own.stop();
  await until(async () => (await node.request('/healthz')).status === 503, 'the node notices that the store is gone');
  own.launch();
  await until(async () => (await node.request('/healthz')).status === 200, 'the node notices that the store is back');
  const last = await Client.hello(node.url, { attempt: 3, session, token });
  assert.deepEqual([last.welcome.verdict, last.welcome.reason], ['new', 'unknown']);
  assert.notEqual(last.welcome.incarnation, again.welcome.incarnation);
  await Promise.all([own.stop(), node.stop()]);
});

test('neither tokens nor payloads are logged', () => {
  for (const node of [one, two]) assert.doesNotMatch(node.errors, /v1\.[0-9a-f]{32}|psst|across/);
});
