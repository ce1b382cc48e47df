// What a node concludes from a stream's step for one subscription (section 7): where reading begins, and what the client misses.

function gapOf(wanted, facts, isPrivateOfNewSession) {
  const { held } = wanted;
  if (held.epoch !== facts.epoch) {
    return { from: held.offset + 1, to: null, next: facts.position + 1, reason: isPrivateOfNewSession ? 'session' : 'epoch' };
  }
  if (facts.lifted || facts.matches === '0') return { from: 1, to: held.offset, next: held.offset + 1, reason: 'rewritten' };
  if (held.offset < facts.first - 1) return { from: held.offset + 1, to: facts.first - 1, next: facts.first, reason: 'trimmed' };
  return null;
}

/**
 * Compare what a client holds with what the slot said.
 * @param wanted {held} with an epoch and an offset, or {start: 'now' | 'earliest'}
 * @param facts the answer of the stream's step: {epoch, first, last, lifted, matches, position, crc}
 * @returns {epoch, position, crc, told, live, gap}: crc ('' where unknown) is for our own reads, told says whether the client gets it
 */
export function conclude(wanted, facts, isPrivateOfNewSession = false) {
  const gap = wanted.held ? gapOf(wanted, facts, isPrivateOfNewSession) : null;
  const position = gap ? gap.next - 1 : wanted.held ? wanted.held.offset : facts.position;
  const crc = position === facts.position ? facts.crc : '';
  return { epoch: facts.epoch, position, crc, told: crc !== '' && gap?.reason !== 'rewritten', live: facts.last, gap };
}

/** Return what a subscription asks for in one form: a start at a position is like held without a CRC. */
export function wish(entry) {
  if (entry.held) return { held: entry.held };
  if (typeof entry.start === 'string') return { start: entry.start };
  return { held: { epoch: entry.start.epoch, offset: entry.start.offset } };
}
