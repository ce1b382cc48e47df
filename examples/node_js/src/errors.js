// The one error that a peer can cause: something that the protocol does not allow. Its hint is our own words and never quotes the peer.

export class ProtocolError extends Error {
  /** @param {string} hint what is wrong, for people on the other side */
  constructor(hint) {
    super(hint);
    this.name = 'ProtocolError';
  }
}
