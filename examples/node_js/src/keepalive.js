// When to ping a silent peer and when to give it up (section 10). Times are in seconds; who calls `look` decides how often.

const OWN_STANDSTILL = 1;

export class Keepalive {
  constructor({ interval, timeout }, now) {
    this.interval = interval;
    this.timeout = timeout;
    this.restart(now);
    this.looked = now;
  }

  /** Give the peer all of its time again. */
  restart(now) {
    this.life = now;
    this.other = now;
    this.pinged = false;
  }

  /** A frame came. The peer's pings are life only for a while after its last other frame: it may not hear us. */
  heard(now, isPing) {
    if (!isPing) this.other = now;
    else if (now - this.other > this.interval + this.timeout) return;
    this.life = now;
    this.pinged = false;
  }

  /** Return 'ping', 'lost' or null. A look that comes late means that we stood still. */
  look(now) {
    const late = now - this.looked > OWN_STANDSTILL;
    this.looked = now;
    if (late) this.restart(now);
    if (now - this.life >= this.interval + this.timeout) return 'lost';
    if (this.pinged || now - this.life < this.interval) return null;
    this.pinged = true;
    return 'ping';
  }
}
