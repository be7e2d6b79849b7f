/** A socket of the client's own: its address, the token that it carries, and why there is none. */

import { address, Failure } from './address.js';
import { TOKEN_REFUSED } from './rules.js';
import { Tokens } from './tokens.js';

export class OwnLine {
  tokens;
  #options;
  #path;
  #token = null;
  #unwatch = null;
  #isBlocked = false;

  constructor(options, path, clock, tell) {
    this.#options = options;
    this.#path = path;
    this.tokens = new Tokens(options, clock, tell);
  }

  /** Get a token to open a socket with; returns the end where there is none. Throws without an answer. */
  async ready() {
    this.#token = await this.tokens.toUse();
    return this.#token === null ? { code: TOKEN_REFUSED, reason: this.tokens.problem } : null;
  }

  /** A socket that is connecting. Throws a Failure. */
  open(cursor) {
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    if (!Socket) throw new Failure('no_websocket', 'This runtime has no WebSocket');
    const isInProtocol = this.#options.tokenIn !== 'query';
    const url = address(this.#options.url, this.#path, this.#query(cursor, isInProtocol));
    this.#watchPolicy(url);
    try {
      return isInProtocol ? new Socket(url, ['bearer', this.#token]) : new Socket(url);
    } catch (cause) {
      // Older browsers throw where a policy forbids the connection, or a page of https wants ws.
      const failure = cause?.name === 'SecurityError' ? 'blocked' : 'bad_address';
      throw new Failure(failure, `No connection can be made to ${url.split('?')[0]}`, cause);
    }
  }

  #query(cursor, isInProtocol) {
    const { parameters, presence } = this.#options;
    const query = Object.entries(parameters ?? {});
    if (presence) query.push(['presence', 'true']);
    // Sent when empty, too: it tells the server that this client understands `resync`.
    query.push(['cursor', cursor ?? '']);
    if (!isInProtocol) query.push(['token', this.#token]);
    return query;
  }

  /** Browsers do not tell a socket why it failed, but they tell the page what its policy forbade. */
  #watchPolicy(url) {
    this.#isBlocked = false;
    const page = globalThis.document ?? globalThis;
    const origin = url.split('/', 3).join('/');
    const onViolation = ({ blockedURI, disposition }) => {
      const isOurs = disposition !== 'report' && blockedURI?.startsWith(origin);
      if (isOurs) this.#isBlocked = true;
    };
    page.addEventListener?.('securitypolicyviolation', onViolation);
    this.#unwatch = () => page.removeEventListener?.('securitypolicyviolation', onViolation);
  }

  /** Why the socket that ended was never open. */
  get failure() {
    return this.#isBlocked ? 'blocked' : 'unreachable';
  }

  /** The client was told to be quick. */
  woken() {}

  /** There is no token, for now. */
  failed() {}

  /** The connection is over, for now or, where `final`, for good. */
  closed({ final }) {
    if (final) this.tokens.end();
  }

  /** The socket is gone. */
  disconnected() {
    this.#unwatch?.();
    this.tokens.disconnected();
  }
}
