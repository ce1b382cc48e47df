// Resume tokens: v1.<session id>.<generation>.<HMAC-SHA256>. Written under the first key, good under any of the keys.

import { createHmac, timingSafeEqual } from 'node:crypto';

const TOKEN = /^v1\.([A-Za-z0-9_-]{1,64})\.([1-9][0-9]{0,15})\.([0-9a-f]{64})$/;

function mac(key, session, generation) {
  return createHmac('sha256', key).update(`resilient.v1 resume token:${session}.${generation}`).digest();
}

export class Tokens {
  /** @param {Buffer[]} keys the present key first, then those that are being rotated out */
  constructor(keys) {
    this.keys = keys;
  }

  /** Return the token of a generation of a session. */
  mint(session, generation) {
    return `v1.${session}.${generation}.${mac(this.keys[0], session, generation).toString('hex')}`;
  }

  /** Return the generation of a good token of this session, or null. The MAC is checked in constant time. */
  check(token, session) {
    const found = TOKEN.exec(token);
    if (!found || Number(found[2]) > Number.MAX_SAFE_INTEGER) return null;
    const given = Buffer.from(found[3], 'hex');
    const good = this.keys.map((key) => timingSafeEqual(given, mac(key, found[1], found[2])));
    return good.includes(true) && found[1] === session ? Number(found[2]) : null;
  }
}
