/**
 * Which token to connect with, when to ask for another, and when to stop trying.
 *
 * The issuer is asked at most once in a token's life, and again after a bad answer: there is one
 * question at a time, one good answer for each token, and no answer counts that `refresh` overtook.
 * An answer that comes too late counts, too, unless there is a newer token by then.
 */

import { backOff, MOST_REFUSALS, OTHER_USER } from './rules.js';
import { Question, Stopped } from './timers.js';

/** What may stand in a list of subprotocols, as JSON Web Tokens do. The page of a proxy may not. */
const SENDABLE = /^[\w.~+-]+$/;
const MOST_REMEMBERED = 10;

export class Tokens {
  #getToken;
  #issuer; // who is asked
  #timers;
  #timings;
  #random;
  #tell;

  #token; // the newest one
  #inUse = null; // the one that the server took, or is being shown in a handshake
  #offered = []; // sent by `authenticate`, and not answered yet
  #refused = new Set();
  #doubted = null; // refused by `authenticate` alone
  #refusals = 0;

  #fresh = null; // the newest one that is known to be new
  #isOpen = false;
  #isAnswered = false; // whether the issuer has given another one for the one in use
  #isDue = false; // an `authenticate` was refused, so another token is wanted
  #askAt = 0; // not before this a warning asks
  #asking = null;
  #generation = 0; // moves with each `refresh`
  #overtake = null; // ends the wait for an answer that counts no more
  #failures = 0;
  #timer = null;

  /**
   * @param tell `renewed()`: the newest token may be offered. `failed(cause)`: the issuer gave none.
   */
  constructor({ token, getToken }, { timers, timings, random }, tell) {
    this.#token = token ?? null;
    this.#getToken = getToken;
    this.#timers = timers;
    this.#timings = timings;
    this.#random = random;
    this.#tell = tell;
    this.#issuer = new Question(timers, timings.connectWithin);
  }

  /** A new life: old refusals count no more. */
  begin() {
    this.#refusals = 0;
  }

  /** The page has closed the client: where there is an issuer, whoever comes next is asked for. */
  forget() {
    if (!this.#getToken) return;
    this.#token = this.#inUse = this.#fresh = this.#doubted = null;
    this.#asking = null; // whom it was about is not known
    this.#generation += 1;
    this.#isDue = false;
    this.#failures = 0;
    this.#refused.clear();
  }

  /** A newer one, from the page. */
  put(token) {
    this.#generation += 1;
    this.#token = token;
    this.#isAnswered = token !== this.#inUse;
    this.#isDue = false;
    if (this.#isAnswered) this.#stopAsking();
    this.#overtake?.();
  }

  /** The token to connect with; null where there is none. Throws where the issuer gives no answer. */
  async toUse() {
    const token = this.#isGood(this.#token) ? this.#token : await this.#another();
    if (token !== null) this.#token = this.#inUse = token;
    return token;
  }

  async #another() {
    if (this.#isGood(this.#inUse)) return this.#inUse;
    try {
      if (this.#getToken) await Promise.race([this.#ask(), this.#overtaken()]);
    } catch (cause) {
      if (this.#doubted === null) throw cause;
    }
    if (this.#isGood(this.#token)) return this.#token;
    const last = this.#doubted;
    this.#doubted = null;
    return last;
  }

  /** Why there is none. */
  get problem() {
    return this.#token && !isSendable(this.#token) ? 'the token is malformed' : 'no new token';
  }

  #overtaken() {
    return new Promise((resolve) => {
      this.#overtake = resolve;
    });
  }

  #isGood(token) {
    return isSendable(token) && token !== this.#doubted && !this.#refused.has(token);
  }

  // What the server says -----------------------------------------------------------------------

  /** The server accepted the handshake. */
  opened(expiresAt) {
    this.#refusals = 0;
    this.#isOpen = true;
    this.#taken(expiresAt);
    // Each answer that is refused costs a connection: the waits grow until the server takes one.
    if (this.#isDue) this.#renewLater();
    else this.#failures = 0;
  }

  /** The newest token, if the connection does not have it yet: to be sent now. */
  offer() {
    const hasIt = this.#token === (this.#offered.at(-1) ?? this.#inUse);
    if (hasIt || !this.#isGood(this.#token)) return null;
    this.#offered.push(this.#token);
    return this.#token;
  }

  /** The server accepted an `authenticate`. */
  authenticated(expiresAt) {
    this.#inUse = this.#offered.shift() ?? this.#inUse;
    this.#fresh = this.#inUse;
    this.#failures = 0;
    this.#taken(expiresAt);
  }

  #taken(expiresAt) {
    this.#isAnswered = this.#token !== this.#inUse;
    const life = Date.parse(expiresAt) - (this.#timers.wallClock?.() ?? Date.now());
    const half = life > 0 ? Math.min(life / 2, this.#timings.askEvery) : this.#timings.askEvery;
    this.#askAt = this.#inUse === this.#fresh ? this.#timers.now() + half : 0;
  }

  /** The token in use expires soon. An old server says so at once, of each token that lives a minute. */
  warned() {
    if (!this.#getToken || this.#isAnswered || this.#timer !== null || this.#asking) return;
    const wait = this.#askAt - this.#timers.now();
    if (wait > 0) this.#renewIn(wait);
    else void this.#renew();
  }

  /** The connection was closed with 4001: whether it makes sense to come back. */
  mayReturn(reason) {
    if (this.#offered.length > 0 && reason === OTHER_USER) {
      // It is not refused: it is the old one that belongs to nobody here any more.
      this.#inUse = this.#doubted = null;
      this.#isDue = false;
      return true;
    }
    if (this.#offered.length > 0) {
      // What the connection was opened with may be good yet, and what was offered too: see #another.
      [this.#doubted] = this.#offered;
      if (this.#token === this.#doubted) this.#token = this.#inUse;
      this.#isDue = Boolean(this.#getToken);
      return true;
    }
    this.#refuse(this.#inUse);
    this.#refusals += 1;
    const hasAnother = this.#isGood(this.#token) || this.#doubted || this.#getToken;
    return Boolean(hasAnother) && this.#refusals < MOST_REFUSALS;
  }

  #refuse(token) {
    this.#refused.add(token);
    if (this.#refused.size > MOST_REMEMBERED) this.#refused.delete([...this.#refused][0]);
  }

  /** The connection is gone. */
  disconnected() {
    this.#isOpen = false;
    this.#offered = [];
    this.#stopAsking();
  }

  /** The client has ended: no answer is waited for. */
  end() {
    this.#issuer.stop();
  }

  // The issuer ---------------------------------------------------------------------------------

  #renewIn(wait) {
    this.#timer = this.#timers.setTimeout(() => {
      this.#timer = null;
      void this.#renew();
    }, wait);
  }

  #renewLater() {
    this.#renewIn(backOff(this.#failures, this.#timings, this.#random));
    this.#failures += 1;
  }

  #stopAsking() {
    this.#timers.clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #renew() {
    const about = this.#inUse;
    try {
      await this.#ask();
      if (about === this.#inUse) this.#isAnswered = true;
      this.#isDue = false;
      this.#tell.renewed();
    } catch (cause) {
      if (cause instanceof Stopped) return;
      this.#tell.failed(cause);
      if (about !== this.#inUse || this.#isAnswered || !this.#isOpen) return;
      this.#renewLater();
    }
  }

  /** Ask for another token, or wait for the answer that is on its way. */
  #ask() {
    if (this.#asking) return this.#asking;
    const asking = this.#question().finally(() => {
      if (this.#asking === asking) this.#asking = null;
    });
    this.#asking = asking;
    return asking;
  }

  async #question() {
    const generation = this.#generation;
    const late = (token) => this.#answeredLate(token, generation);
    this.#take(await this.#issuer.put(this.#getToken, late), generation);
  }

  /** Whether it is a token. Throws where it is not what was asked for. */
  #take(token, generation) {
    const isSignedOut = token === null || token === undefined || token === '';
    if (isSignedOut || generation !== this.#generation) return false;
    if (!isSendable(token)) throw new TypeError('getToken gave what is no bearer token');
    if (token === this.#inUse) throw new Error('getToken gave the token that is in use');
    if (!this.#isGood(token)) throw new Error('getToken gave a token that was refused');
    this.#generation += 1; // what was asked before, and is answered after, is older
    this.#token = this.#fresh = token;
    return true;
  }

  /** Nobody waits for it, but for the question after it somebody may. That needs no answer any more. */
  #answeredLate(token, generation) {
    if (!this.#take(token, generation)) return;
    this.#isAnswered = true;
    this.#isDue = false;
    this.#stopAsking();
    this.#overtake?.();
    this.#issuer.stop();
    this.#tell.renewed();
  }
}

function isSendable(token) {
  return typeof token === 'string' && SENDABLE.test(token);
}
