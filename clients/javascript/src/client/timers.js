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

/** What `ask` answers. Throws where it takes longer than the limit. */
export function within(timers, limit, ask) {
  return new Promise((resolve, reject) => {
    const tooLate = () => reject(new Error('there was no answer in time'));
    const timer = timers.setTimeout(tooLate, limit);
    const asked = Promise.resolve().then(() => ask());
    asked.then(resolve, reject).finally(() => timers.clearTimeout(timer));
  });
}
