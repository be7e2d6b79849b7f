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

/** There was none in time. Its name is that of what `AbortSignal.timeout` gives. */
export class TooLate extends Error {
  name = 'TimeoutError';

  constructor() {
    super('there was no answer in time');
  }
}

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

  /**
   * What `ask` answers. Throws `TooLate` where it takes too long, and `Stopped` after `stop`. The signal
   * that `ask` is given tells it then: a request that is left open keeps the next one of the same address
   * waiting, in Chromium's cache for 20 seconds.
   *
   * @param late is given what is answered all the same.
   */
  put(ask, late = () => {}) {
    const aborting = new AbortController();
    return new Promise((resolve, reject) => {
      let isWaiting = true;
      const end = () => {
        isWaiting = false;
        this.#timers.clearTimeout(timer);
      };
      const giveUp = (why, told) => {
        if (!isWaiting) return;
        end();
        reject(why);
        aborting.abort(told);
      };
      const tooLate = new TooLate();
      const timer = this.#timers.setTimeout(() => giveUp(tooLate, tooLate), this.#limit);
      this.#stop = () => giveUp(new Stopped());
      const onAnswer = (answer) => {
        if (!isWaiting) return late(answer);
        end();
        return resolve(answer);
      };
      const asked = Promise.resolve().then(() => ask({ signal: aborting.signal }));
      // What is thrown too late is most often that it was told to end.
      asked.then(onAnswer, (cause) => giveUp(cause)).catch(reject);
    });
  }

  /** Wait no longer. */
  stop() {
    this.#stop();
  }
}
