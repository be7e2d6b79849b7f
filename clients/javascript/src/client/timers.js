/** The clock of the page, and a limit for what others are asked. */

/** Milliseconds; a timer that is set for longer fires at once. */
const LONGEST = 2 ** 31 - 1;

/** Looked up at each call, so that a page may replace them. */
export const PAGE_TIMERS = {
  setTimeout: (run, wait) => globalThis.setTimeout(run, Math.min(wait, LONGEST)),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
  now: () => globalThis.performance.now(),
  wallClock: () => Date.now(),
};

/** Nobody waits for the answer any more. */
export class Stopped extends Error {}

/** One question at a time to somebody who may never answer. */
export class Question {
  #timers;
  #limit;
  #stop = () => {};

  /** @param limit milliseconds that an answer may take. */
  constructor(timers, limit) {
    this.#timers = timers;
    this.#limit = limit;
  }

  /** What `ask` answers. Throws where it takes too long, and `Stopped` after `stop`. */
  put(ask) {
    return new Promise((resolve, reject) => {
      const tooLate = () => reject(new Error('there was no answer in time'));
      const timer = this.#timers.setTimeout(tooLate, this.#limit);
      const end = () => this.#timers.clearTimeout(timer);
      this.#stop = () => {
        end();
        reject(new Stopped());
      };
      const asked = Promise.resolve().then(() => ask());
      asked.then(resolve, reject).finally(end);
    });
  }

  /** Wait no longer. */
  stop() {
    this.#stop();
  }
}
