/**
 * What the scenarios stand on: a clock that moves when told, WebSockets without a wire, and a client
 * wired to both.
 */

import { RealtimeClient } from '/static/realtime.js';

const scenarios = new Map();

export function scenario(name, run) {
  scenarios.set(name, run);
}

window.runScenario = (name) => scenarios.get(name)();

const START = Date.parse('2026-01-31T12:00:00Z');

/** Timers that fire while `advance` moves their clock, in order. */
export class FakeTimers {
  #now = 0;
  #pending = new Map();
  #last = 0;

  setTimeout(run, wait) {
    this.#pending.set(++this.#last, { run, due: this.#now + wait });
    return this.#last;
  }

  clearTimeout(timer) {
    this.#pending.delete(timer);
  }

  now() {
    return this.#now;
  }

  /** Milliseconds since 1970, of a day that is as good as any. */
  wallClock() {
    return START + this.#now;
  }

  /** How many timers are set: none may be left behind by a closed client. */
  get pending() {
    return this.#pending.size;
  }

  async advance(wait) {
    const until = this.#now + wait;
    for (let next = this.#nextBefore(until); next; next = this.#nextBefore(until)) {
      const [timer, { run, due }] = next;
      this.#pending.delete(timer);
      this.#now = due;
      run();
      await settle();
    }
    this.#now = until;
  }

  #nextBefore(until) {
    const due = [...this.#pending].filter(([, timer]) => timer.due <= until);
    return due.sort(([, a], [, b]) => a.due - b.due)[0];
  }
}

/** Let what awaits settled promises go on. */
export function settle() {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/**
 * A client in a world of its own: `world.sockets` are the connections it made, oldest first; `told`
 * is what its client told of a type; `redial` waits as long as the client last said it would.
 */
export async function makeWorld(options = {}) {
  const timers = new FakeTimers();
  const page = { window: new EventTarget(), document: new EventTarget() };
  const world = { timers, page, sockets: [], heard: [], randoms: [] };
  const client = new RealtimeClient({
    ...(options.notifications ? {} : { botId: 'bot' }),
    token: 'first',
    timers,
    page,
    WebSocket: socketsOf(world),
    random: () => world.randoms.shift() ?? 0.5,
    ...options,
  });
  world.client = client;
  for (const type of [
    'open',
    'close',
    'reconnecting',
    'state',
    'error',
    'resync',
    'chat_message',
  ]) {
    client.on(type, (payload) => world.heard.push({ event: type, ...payload }));
  }
  client.connect();
  await settle();
  return Object.assign(world, {
    last: () => world.sockets.at(-1),
    told: (type) => told(world, type),
    redial: () => timers.advance(told(world, 'reconnecting').at(-1)?.delay ?? 0),
  });
}

function told(world, type) {
  return world.heard.filter(({ event }) => event === type);
}

/** The class of a world's sockets; a test plays the server with its `establish`, `say` and `end`. */
export function socketsOf(world) {
  return class FakeWebSocket {
    readyState = 1;
    sent = [];
    closedWith = null;

    constructor(url, protocols) {
      if (protocols?.some((protocol) => /\s/.test(protocol))) throw new SyntaxError('bad protocol');
      Object.assign(this, { url: new URL(url), protocols });
      world.sockets.push(this);
    }

    send(text) {
      this.sent.push(JSON.parse(text));
    }

    close(code) {
      this.closedWith = code;
      this.readyState = 3;
    }

    say(message) {
      this.onmessage?.({ data: typeof message === 'string' ? message : JSON.stringify(message) });
    }

    establish(data = {}) {
      this.say({ type: 'connection_established', data: { user_id: 'me', cursor: 'c0', ...data } });
    }

    async end(code, reason = '') {
      this.readyState = 3;
      this.onclose?.({ code, reason });
      await settle();
    }

    /** The token that the client came with. */
    get token() {
      return this.protocols?.[1] ?? this.url.searchParams.get('token');
    }

    /** The messages of a type that the client sent here. */
    sentOf(type) {
      return this.sent.filter((message) => message.type === type);
    }
  };
}

export function chat(id, cursor) {
  return { type: 'chat_message', id, cursor, data: { content: id } };
}

export function equal(actual, expected, about = '') {
  const [is, should] = [actual, expected].map((value) => JSON.stringify(value));
  if (is !== should) throw new Error(`${about}: ${is} should be ${should}`);
}

export function check(condition, about) {
  if (!condition) throw new Error(about);
}
