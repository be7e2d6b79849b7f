/** Ids of the newest events, so that one that comes again around a reconnect is known. */

export class SeenIds {
  #ids = new Set();
  #most;

  constructor(most) {
    this.#most = most;
  }

  /** False when the id is known already. */
  add(id) {
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    if (this.#ids.size > this.#most) this.#ids.delete(this.#ids.values().next().value);
    return true;
  }

  forget() {
    this.#ids.clear();
  }
}
