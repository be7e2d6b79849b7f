/** Asks for a sign of life now and then; when none comes, the connection is dead, whatever it says. */

import { MOST_PATIENCE, PATIENCE_FACTOR, PING_SPREAD } from './rules.js';

export class Heartbeat {
  #timers;
  #random;
  #timings;
  #calls;
  #asked = new Map(); // timestamp sent → when; a few at most
  #next = null;
  #limit = null;
  #givenUp = 0; // connections in a row that did not answer

  constructor(timers, random, timings, calls) {
    this.#timers = timers;
    this.#random = random;
    this.#timings = timings;
    this.#calls = calls;
  }

  start() {
    this.#timers.clearTimeout(this.#next);
    const wait = this.#timings.pingEvery * (1 + PING_SPREAD * this.#random());
    this.#next = this.#timers.setTimeout(() => {
      this.#calls.ping();
      this.start();
    }, wait);
  }

  stop() {
    this.#timers.clearTimeout(this.#next);
    this.heard();
    this.#asked.clear();
  }

  /** A ping went out: someone must be heard within the limit, which further pings do not extend. */
  asked(timestamp) {
    if (this.#asked.size > 9) this.#asked.clear();
    this.#asked.set(timestamp, this.#timers.now());
    this.#limit ??= this.#timers.setTimeout(() => this.#giveUp(), this.#patience());
  }

  #giveUp() {
    this.#givenUp += 1;
    this.#calls.dead();
  }

  /** A large message on a slow line is silence, and would come anew on each connection: wait longer. */
  #patience() {
    return this.#timings.pongWithin * PATIENCE_FACTOR ** Math.min(this.#givenUp, MOST_PATIENCE);
  }

  /** Any frame is a sign of life: a pong may queue behind a burst of events. */
  heard() {
    this.#timers.clearTimeout(this.#limit);
    this.#limit = null;
  }

  /** How long ago the ping with this timestamp went out; null for one that is not known. */
  took(timestamp) {
    const sent = this.#asked.get(timestamp);
    this.#asked.clear();
    this.#givenUp = 0;
    return sent === undefined ? null : this.#timers.now() - sent;
  }
}
