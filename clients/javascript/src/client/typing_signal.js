/** Turns keystrokes into few messages: true now and then while they go on, false once they end. */

export class TypingSignal {
  #timers;
  #timings;
  #send;
  #sentAt = null; // when true was last sent; null while shown as stopped
  #stopTimer = null;

  constructor(timers, timings, send) {
    this.#timers = timers;
    this.#timings = timings;
    this.#send = send;
  }

  set(isTyping) {
    this.#timers.clearTimeout(this.#stopTimer);
    if (!isTyping) return this.#stop();
    this.#stopTimer = this.#timers.setTimeout(() => this.#stop(), this.#timings.typingStopsAfter);
    const now = this.#timers.now();
    if (this.#sentAt !== null && now - this.#sentAt < this.#timings.typingEvery) return;
    this.#sentAt = now;
    this.#send(true);
  }

  reset() {
    this.#timers.clearTimeout(this.#stopTimer);
    this.#sentAt = null;
  }

  #stop() {
    if (this.#sentAt !== null) this.#send(false);
    this.reset();
  }
}
