// The command line and the environment of a node. Wrong flags raise UsageError, with what to do instead.

import { fileURLToPath } from 'node:url';

export class UsageError extends Error {}

const DEFAULT_SCRIPTS = fileURLToPath(new URL('../../../docs/scripts', import.meta.url));

const text = (value) => value;
const list = (value) => value.split(',').filter((word) => word !== '');
function numeric(low, high, isWhole) {
  return (value, flag) => {
    const number = Number(value);
    if (value.trim() !== '' && number >= low && number <= high && (!isWhole || Number.isInteger(number))) return number;
    throw new UsageError(`--${flag} needs ${isWhole ? 'a whole number' : 'seconds'} from ${low} to ${high}`);
  };
}
const seconds = numeric(0, 1e9, false);
const positive = numeric(0.001, 1e9, false);

/** flag -> [name in the configuration, type, default] */
const FLAGS = {
  name: ['name', text, 'node-1'],
  host: ['host', text, '127.0.0.1'],
  port: ['port', numeric(0, 65535, true), 0],
  backplane: ['backplane', text, 'redis://127.0.0.1:6379/0'],
  scripts: ['scripts', text, DEFAULT_SCRIPTS],
  ttl: ['ttl', positive, 60],
  keepalive: ['interval', positive, 20],
  'keepalive-timeout': ['timeout', positive, 5],
  retention: ['retention', numeric(1, 1e9, true), 100000],
  'max-message': ['maxMessage', numeric(1, 256 * 1048576, true), 1048576],
  'producer-ttl': ['producerTtl', seconds, 604800],
  'hello-timeout': ['helloTimeout', positive, 10],
  poll: ['poll', positive, 5],
  'step-timeout': ['stepTimeout', positive, 2],
  drain: ['drain', seconds, 10],
  peers: ['peers', list, []],
  spread: ['spread', seconds, 0],
  // This node does not announce itself to the others (docs/backplane.md), so these say nothing here.
  url: ['url', text, ''],
  'accept-rate': ['acceptRate', numeric(1, 1e6, true), 100],
  announce: ['announce', positive, 2],
};

/** Read `--flag value` and `--flag=value`. */
export function readFlags(words) {
  const config = Object.fromEntries(Object.values(FLAGS).map(([name, , missing]) => [name, missing]));
  const rest = [...words];
  while (rest.length > 0) {
    const word = rest.shift();
    const [flag, ...after] = word.startsWith('--') ? word.slice(2).split('=') : [null];
    if (flag === null || !Object.hasOwn(FLAGS, flag)) {
      throw new UsageError(`unknown argument; the flags are ${Object.keys(FLAGS).map((known) => `--${known}`).join(' ')}`);
    }
    if (after.length === 0 && rest.length === 0) throw new UsageError(`--${flag} needs a value`);
    const [name, type] = FLAGS[flag];
    config[name] = type(after.length > 0 ? after.join('=') : rest.shift(), flag);
  }
  if (!/^[\x21-\x7e]{1,255}$/.test(config.name)) throw new UsageError('--name needs 1 to 255 visible ASCII characters');
  const { interval, timeout } = config;
  return { ...config, keepalive: { interval, timeout } };
}

function keyOf(hex, name) {
  if (/^(?:[0-9a-fA-F]{2}){1,}$/.test(hex)) return Buffer.from(hex, 'hex');
  throw new UsageError(`${name} must be hexadecimal digits, two for each byte`);
}

/** Return the keys of resume tokens, the present one first. */
export function readKeys(environment) {
  const present = environment.RESILIENT_WS_TOKEN_KEY;
  if (!present) throw new UsageError('RESILIENT_WS_TOKEN_KEY must hold the secret key of resume tokens in hex, the same on all nodes');
  const old = (environment.RESILIENT_WS_OLD_TOKEN_KEYS ?? '').split(',').map((word) => word.trim()).filter((word) => word !== '');
  return [keyOf(present.trim(), 'RESILIENT_WS_TOKEN_KEY'), ...old.map((word) => keyOf(word, 'RESILIENT_WS_OLD_TOKEN_KEYS'))];
}
