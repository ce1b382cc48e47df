// The node's HTTP side: health check, the server's own API (append to a stream), refusals, and the upgrade.

import { createServer } from 'node:http';
import { isUtf8 } from 'node:buffer';
import { crc32 } from 'node:zlib';
import { WebSocketServer } from 'ws';
import { STREAM } from './types.js';

const SUBPROTOCOL = 'resilient.v1';
const PRIVATE = /^~[0-9a-fA-F]{2}[A-Za-z0-9_-]{1,62}$/;
const RETRY_AFTER = { 'Retry-After': '1' };

/** Return a server that answers for `node`: {config, backplane, status(), sessions(), accept(socket), log}. */
export function makeServer(node) {
  const { config } = node;
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: largestMessage(config.maxMessage),
    handleProtocols: () => SUBPROTOCOL });
  sockets.on('headers', (headers) => headers.push(`Resilient-Node: ${config.name}`));
  sockets.on('wsClientError', (error, socket) => refuse(node, socket, 400, error.message, {}));
  const server = createServer((request, response) => {
    response.setHeader('Resilient-Node', config.name);
    answer(node, request, response).catch((error) => {
      node.log(`a request: ${error.message}`);
      if (!response.headersSent) reply(response, 500, { error: 'an internal error' });
    });
  });
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => socket.destroy());
    const refused = refusalOf(node, request);
    if (refused) return void refuse(node, socket, ...refused);
    sockets.handleUpgrade(request, socket, head, (webSocket) => node.accept(webSocket));
  });
  return server;
}

/** Well above what is stored, so that a larger payload is rejected alone; and never below a control frame. */
function largestMessage(maxMessage) {
  return Math.max(2 * maxMessage + 4096, 4 * 1048576);
}

function refusalOf(node, request) {
  const status = node.status();
  if (status !== 'ok') return [503, status, RETRY_AFTER];
  if (request.method !== 'GET') return [405, 'an upgrade is a GET', {}];
  const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((word) => word.trim());
  return offered.includes(SUBPROTOCOL) ? null : [400, `offer the subprotocol ${SUBPROTOCOL}`, {}];
}

function refuse(node, socket, code, why, headers) {
  const reasons = { 400: 'Bad Request', 405: 'Method Not Allowed', 503: 'Service Unavailable' };
  const body = JSON.stringify({ error: why });
  const lines = [`HTTP/1.1 ${code} ${reasons[code]}`, `Resilient-Node: ${node.config.name}`, 'Connection: close',
    'Content-Type: application/json', `Content-Length: ${Buffer.byteLength(body)}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)];
  socket.end(`${lines.join('\r\n')}\r\n\r\n${body}`);
}

function reply(response, code, value, headers = {}) {
  response.writeHead(code, { 'Content-Type': 'application/json', ...headers });
  response.end(JSON.stringify(value));
}

async function answer(node, request, response) {
  const path = request.url.split('?')[0];
  if (path === '/healthz' && ['GET', 'HEAD'].includes(request.method)) return health(node, response);
  if (path.startsWith('/streams/') && request.method === 'POST') return append(node, path, request, response);
  if (request.method === 'GET') return reply(response, 426, { error: `this is a WebSocket of ${SUBPROTOCOL}` }, { Upgrade: 'websocket' });
  return reply(response, 404, { error: 'there is nothing here' });
}

function health(node, response) {
  const status = node.status();
  reply(response, status === 'ok' ? 200 : 503, { node: node.config.name, status, sessions: node.sessions() }, status === 'ok' ? {} : RETRY_AFTER);
}

function streamOf(path) {
  try {
    const name = decodeURIComponent(path.slice('/streams/'.length));
    return STREAM.test(name) && (!name.startsWith('~') || PRIVATE.test(name)) ? name : null;
  } catch {
    return null;
  }
}

async function append(node, path, request, response) {
  const stream = streamOf(path);
  if (stream === null) return reply(response, 400, { error: 'this is not the name of a stream' });
  const payload = await body(request, node.config.maxMessage);
  if (payload === null) return reply(response, 413, { error: `at most ${node.config.maxMessage} bytes` }, { Connection: 'close' });
  const isText = (request.headers['content-type'] ?? '').split(';')[0].trim().toLowerCase() === 'text/plain';
  if (isText && !isUtf8(payload)) return reply(response, 400, { error: 'a text must be UTF-8' });
  const result = await node.backplane.step('publish', { stream, entries: [{ kind: isText ? '1' : '0', crc: crc32(payload), payload }] });
  if (result === null) return reply(response, 503, { error: 'whether the message was stored is unknown' }, RETRY_AFTER);
  if (result.kind === 'unknown') return reply(response, 404, { error: 'there is no such session' });
  return reply(response, 200, { epoch: result.epoch, offset: result.last });
}

async function body(request, most) {
  const parts = [];
  let length = 0;
  for await (const part of request) {
    length += part.length;
    if (length > most) return null;
    parts.push(part);
  }
  return Buffer.concat(parts);
}
