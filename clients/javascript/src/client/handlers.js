/** Who is told of what. A handler that fails is reported, and stops no other. */

export class Handlers {
  #handlers = new Map();
  #queue = []; // what is to be told, the first of it just now

  /** Returns the function that ends it. */
  on(type, handler) {
    if (!this.#handlers.has(type)) this.#handlers.set(type, new Set());
    const entry = { handler };
    this.#handlers.get(type).add(entry);
    return () => void this.#handlers.get(type).delete(entry);
  }

  once(type, handler) {
    const off = this.on(type, (message) => {
      off();
      return handler(message);
    });
    return off;
  }

  /** What a handler brings about is told once all have been told of what it was called for. */
  dispatch(type, payload) {
    this.#queue.push([type, payload]);
    if (this.#queue.length > 1) return;
    while (this.#queue.length > 0) {
      this.#tell(...this.#queue[0]);
      this.#queue.shift();
    }
  }

  #tell(type, payload) {
    const entries = this.#handlers.get(type) ?? new Set();
    for (const entry of [...entries]) {
      if (!entries.has(entry)) continue; // one before it has ended it
      try {
        entry.handler(payload)?.catch?.((cause) => this.#failed(type, cause));
      } catch (cause) {
        this.#failed(type, cause);
      }
    }
  }

  /** What goes wrong on this side arrives in the shape of the server's own errors. */
  report(code, message, cause) {
    if (!this.#handlers.get('error')?.size) console.error(`rowcast: ${message}`, cause ?? '');
    this.dispatch('error', { type: 'error', code, message, cause });
  }

  #failed(type, cause) {
    if (type === 'error') console.error('rowcast: an error handler failed', cause);
    else this.report('handler_failed', `A handler of ${type} failed`, cause);
  }
}
