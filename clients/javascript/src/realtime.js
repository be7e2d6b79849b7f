/**
 * The browser's client of the relay: one ES module without dependencies, served as
 * /static/realtime.js and typed by realtime.d.ts beside it.
 *
 *     import { connect } from '/static/realtime.js';
 *     const chat = connect({ botId, token });
 *     chat.on('chat_message', ({ data }) => show(data));
 *     chat.on('resync', () => refetch());
 *
 * It stays connected, knows when to stop trying, resumes where it was (its cursor), and hands each
 * event over once (its memory of ids). docs/javascript-client.md tells the rest.
 *
 * idle → connecting → open → reconnecting → connecting → …        closed: by close(), by a final code
 */

/** What the codes that end a connection mean, in words for people. */
export const CLOSE_CODES = Object.freeze({
  1000: 'closed normally',
  1001: 'the server is going away',
  1002: 'protocol error',
  1003: 'the server takes text frames only',
  1005: 'closed without a code',
  1006: 'the connection was cut',
  1007: 'a frame was not UTF-8',
  1008: 'sent more than the rate limit allows',
  1009: 'a message was too large',
  1011: 'the server met an unexpected error',
  1013: 'the server asks to try again later',
  4000: 'nothing was heard from the server any more',
  4001: 'the token is missing, invalid or expired',
  4003: 'no such bot, or no permission',
  4029: 'this user has too many connections',
});

/** Waits and limits; times in milliseconds. */
export const TIMINGS = Object.freeze({
  pingEvery: 25_000, // plus up to a fifth, so that pings of many clients spread out
  pongWithin: 10_000,
  connectWithin: 15_000,
  backoffFirst: 1_000,
  backoffMost: 30_000,
  stableAfter: 10_000,
  typingEvery: 2_000, // the server shows a typist as stopped after 6 s of silence
  typingStopsAfter: 4_000,
  rememberIds: 10_000, // as many as the server ever replays
});

const LIFECYCLE = new Set(['open', 'close', 'reconnecting', 'state', 'latency']);
const FINAL_CODES = new Set([1000, 4003, 4029]);
const HEARD_NOTHING = 4000;
const RATE_LIMITED = 1008;
const TOKEN_REFUSED = 4001;
/** A token that is refused may be stale; a second one in a row means that the user is. */
const MOST_REFUSALS = 2;
/** Characters; those of this server have at most 1,000. */
const LONGEST_CURSOR = 4_000;
/** WebSocket.readyState of one that has not opened yet. */
const CONNECTING = 0;
/** Where the back-off starts for one who was sent away for sending too much. */
const ATTEMPT_AFTER_RATE_LIMIT = 4;

/** Looked up at each call, so that a page may replace them. */
const PAGE_TIMERS = {
  setTimeout: (run, wait) => globalThis.setTimeout(run, wait),
  clearTimeout: (timer) => globalThis.clearTimeout(timer),
  now: () => globalThis.performance.now(),
};

/** Make a client and start it. */
export function connect(options) {
  return new RealtimeClient(options).connect();
}

/** One connection, to a bot's chat or to the user's notifications, kept up over any number of sockets. */
export class RealtimeClient {
  #options;
  #timers;
  #random;
  #timings;
  #handlers = new Map();
  #page = [];

  #state = 'idle';
  #socket = null;
  #epoch = 0; // moves whenever what an awaiting dial is about has changed
  #attempt = 0;
  #openedAt = null;
  #retryTimer = null;
  #connectTimer = null;

  #token;
  #tokenInUse = null;
  #tokenRefused = null;
  #refusals = 0;

  #cursor;
  #isResuming = false; // whether the present socket was opened with a cursor
  #seen;
  #heartbeat;
  #typing;
  #latency = null;

  /** @param {import('./realtime.js').Options} options */
  constructor(options) {
    if (Boolean(options.botId) === Boolean(options.notifications)) {
      throw new TypeError('Give either botId or notifications: true.');
    }
    this.#options = options;
    this.#timers = options.timers ?? PAGE_TIMERS;
    this.#random = options.random ?? Math.random;
    this.#timings = { ...TIMINGS, ...options.timings };
    this.#token = options.token ?? null;
    this.#cursor = options.cursor ?? null;
    this.#seen = new SeenIds(this.#timings.rememberIds);
    this.#heartbeat = new Heartbeat(this.#timers, this.#random, this.#timings, {
      ping: () => this.ping(),
      dead: () => this.#abandon('no answer to a ping'),
    });
    this.#typing = new TypingSignal(this.#timers, this.#timings, (isTyping) =>
      this.#send({ type: 'typing', data: { is_typing: isTyping } }),
    );
  }

  /** idle, connecting, open, reconnecting or closed. */
  get state() {
    return this.#state;
  }

  /** The newest place in the stream that is wholly here; to be kept where a page should resume. */
  get cursor() {
    return this.#cursor;
  }

  /** Milliseconds that the last ping took to come back, or null. */
  get latency() {
    return this.#latency;
  }

  /** Start, or start again after the end. Does nothing while under way. */
  connect() {
    if (this.#state !== 'idle' && this.#state !== 'closed') return this;
    this.#attempt = 0;
    this.#refusals = 0;
    this.#watchPage();
    this.#dial();
    return this;
  }

  /** Leave for good (1000). Handlers stay, and connect() may start it again. */
  close() {
    if (this.#state === 'closed') return;
    const socket = this.#detach();
    this.#end({ code: 1000, reason: 'closed by the page' });
    if (socket?.readyState === CONNECTING) this.#closeOnceOpen(socket);
    else socket?.close(1000);
  }

  /** Browsers log an error where a page closes a socket that is still connecting: it is let open first. */
  #closeOnceOpen(socket) {
    const timer = this.#timers.setTimeout(() => socket.close(1000), this.#timings.connectWithin);
    socket.onopen = () => socket.close(1000);
    socket.onclose = () => this.#timers.clearTimeout(timer);
  }

  /**
   * Call handler for each message of a type, '*' for all of the server's messages, or for one of the
   * client's own events. Returns the function that ends it.
   */
  on(type, handler) {
    if (!this.#handlers.has(type)) this.#handlers.set(type, new Set());
    const entry = { handler };
    this.#handlers.get(type).add(entry);
    return () => void this.#handlers.get(type).delete(entry);
  }

  /** As on, for the first time only. */
  once(type, handler) {
    const off = this.on(type, (message) => {
      off();
      return handler(message);
    });
    return off;
  }

  /** Call with true at every keystroke and false when the text was sent or cleared; the rest is done here. */
  typing(isTyping) {
    if (this.#state === 'open') this.#typing.set(isTyping);
  }

  /** Tell the server which session is on screen. False when there is no connection to say it on. */
  sessionSync(sessionId) {
    return this.#send({ type: 'session_sync', data: { session_id: sessionId } });
  }

  /** Ask for a sign of life now, besides the regular ones. */
  ping() {
    const timestamp = new Date().toISOString();
    if (!this.#send({ type: 'ping', timestamp })) return false;
    this.#heartbeat.asked(timestamp);
    return true;
  }

  /** Take a new token: into the open connection, and for every connection after it. */
  refresh(token) {
    this.#token = token;
    this.#send({ type: 'authenticate', data: { token } });
  }

  // Connecting -------------------------------------------------------------------------------

  async #dial() {
    const epoch = ++this.#epoch;
    this.#setState('connecting');
    try {
      const token = await this.#tokenToUse();
      if (epoch !== this.#epoch) return;
      if (token) this.#openSocket(token);
      else this.#end({ code: TOKEN_REFUSED, reason: 'no new token' });
    } catch (cause) {
      if (epoch !== this.#epoch) return;
      this.#retry();
      this.#report('token_unavailable', 'getToken failed', cause);
    }
  }

  /** The token to connect with, or null where only one is known and it was refused. */
  async #tokenToUse() {
    const isFresh = this.#token && this.#token !== this.#tokenRefused;
    if (isFresh || !this.#options.getToken) return this.#token;
    this.#token = await this.#askForToken();
    return this.#token === this.#tokenRefused ? null : this.#token;
  }

  #askForToken() {
    return new Promise((resolve, reject) => {
      const tooLate = () => reject(new Error('getToken did not answer in time'));
      const timer = this.#timers.setTimeout(tooLate, this.#timings.connectWithin);
      const asked = Promise.resolve().then(() => this.#options.getToken());
      asked.then(resolve, reject).finally(() => this.#timers.clearTimeout(timer));
    });
  }

  #openSocket(token) {
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    this.#tokenInUse = token;
    this.#isResuming = Boolean(this.#cursor);
    try {
      this.#socket = new Socket(...address(this.#options, token, this.#cursor));
    } catch (cause) {
      // An address or a token that no browser would send does not get better by trying again.
      this.#end({ code: TOKEN_REFUSED, reason: 'the address or the token is malformed' });
      this.#report('not_connectable', 'The browser refuses this address or token', cause);
      return;
    }
    this.#socket.onmessage = (frame) => this.#onFrame(frame.data);
    this.#socket.onclose = ({ code, reason }) => this.#onClose(code, reason);
    const tooLate = () => this.#abandon('the server did not answer');
    this.#connectTimer = this.#timers.setTimeout(tooLate, this.#timings.connectWithin);
  }

  #onEstablished(message) {
    const { cursor, reason, recovered: said } = message.data ?? {};
    // A server that says nothing of a cursor that it was sent has recovered nothing.
    const isLost = said !== true && (this.#isResuming || (said ?? null) !== null);
    const recovered = isLost ? false : said === true || undefined;
    // A replay may be cut short too: until its own cursors arrive, the old one is what holds.
    if (!recovered) this.#cursor = isCursor(cursor) ? cursor : null;
    this.#timers.clearTimeout(this.#connectTimer);
    this.#openedAt = this.#timers.now();
    this.#refusals = 0;
    this.#setState('open');
    this.#heartbeat.start();
    if (this.#token !== this.#tokenInUse) this.refresh(this.#token);
    this.#dispatch('open', { recovered, reason, message });
    if (recovered === false) this.#startOver({ type: 'resync', data: { reason } });
  }

  /** Events were lost: the app must refetch, and ids of another database may mean other events. */
  #startOver(message) {
    this.#seen.forget();
    this.#dispatch('resync', message);
  }

  // Messages ---------------------------------------------------------------------------------

  #onFrame(text) {
    this.#heartbeat.heard();
    const message = parse(text);
    if (message === null) return this.#missed(text);
    if (isCursor(message.cursor)) this.#cursor = message.cursor;
    if (isText(message.id) && !this.#seen.add(message.id)) return;
    this.#follow(message);
    if (!LIFECYCLE.has(message.type) && message.type !== '*') this.#deliver(message);
    this.#dispatch('*', message);
  }

  /** What the server said cannot be read: the app gets the frame as it came, and must refetch. */
  #missed(frame) {
    this.#report('invalid_json', 'The server sent what is not a message');
    this.#startOver({ type: 'resync', data: { reason: 'unreadable' }, frame });
  }

  /** What a message means to the client itself. */
  #follow(message) {
    switch (message.type) {
      case 'connection_established':
        return this.#onEstablished(message);
      case 'pong':
        return this.#onPong(message);
      case 'authenticated':
        this.#tokenInUse = this.#token;
        return;
      case 'token_expiring':
        if (this.#options.getToken) this.#renew();
    }
  }

  #deliver(message) {
    if (message.type === 'resync') this.#startOver(message);
    else this.#dispatch(message.type, message);
  }

  #onPong({ timestamp }) {
    const took = this.#heartbeat.took(timestamp);
    if (took === null) return;
    this.#latency = took;
    this.#dispatch('latency', { milliseconds: took });
  }

  async #renew() {
    try {
      const token = await this.#askForToken();
      if (token) this.refresh(token);
    } catch (cause) {
      this.#report('token_unavailable', 'getToken failed', cause);
    }
  }

  #send(message) {
    if (this.#state !== 'open' || this.#socket.readyState !== 1) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  // The end of a socket ----------------------------------------------------------------------

  #onClose(code, reason) {
    const wasStable = this.#openedAt !== null && this.#sinceOpen() >= this.#timings.stableAfter;
    this.#detach();
    // Not at the handshake: refusals complete it too, and would be repeated without ever slowing down.
    if (wasStable) this.#attempt = 0;
    if (!this.#mayReturn(code)) return this.#end({ code, reason });
    if (code === RATE_LIMITED) this.#attempt = Math.max(this.#attempt, ATTEMPT_AFTER_RATE_LIMIT);
    const epoch = this.#epoch;
    this.#dispatch('close', { code, reason, meaning: meaningOf(code), final: false });
    if (epoch === this.#epoch) this.#retry(); // else a handler called close()
  }

  #sinceOpen() {
    return this.#timers.now() - this.#openedAt;
  }

  #mayReturn(code) {
    if (code !== TOKEN_REFUSED) return !FINAL_CODES.has(code);
    this.#tokenRefused = this.#tokenInUse;
    this.#refusals += 1;
    const hasAnother = this.#token !== this.#tokenRefused || Boolean(this.#options.getToken);
    return hasAnother && this.#refusals < MOST_REFUSALS;
  }

  #retry() {
    const delay = backOff(this.#attempt, this.#timings, this.#random);
    this.#attempt += 1;
    this.#retryTimer = this.#timers.setTimeout(() => this.#dial(), delay);
    this.#setState('reconnecting');
    this.#dispatch('reconnecting', { attempt: this.#attempt, delay });
  }

  /** A socket that went silent may take minutes to close by itself: leave it behind. */
  #abandon(reason) {
    const socket = this.#socket;
    this.#onClose(HEARD_NOTHING, reason);
    socket.close(HEARD_NOTHING);
  }

  #detach() {
    const socket = this.#socket;
    if (socket) socket.onmessage = socket.onclose = null;
    this.#socket = null;
    this.#openedAt = null;
    this.#epoch += 1;
    this.#timers.clearTimeout(this.#connectTimer);
    this.#timers.clearTimeout(this.#retryTimer);
    this.#heartbeat.stop();
    this.#typing.reset();
    return socket;
  }

  #end({ code, reason }) {
    this.#unwatchPage();
    this.#setState('closed');
    this.#dispatch('close', { code, reason, meaning: meaningOf(code), final: true });
  }

  // The page ---------------------------------------------------------------------------------

  #watchPage() {
    const page = this.#options.page ?? { window: globalThis.window, document: globalThis.document };
    this.#listen(page.window, 'online', () => this.#wake());
    this.#listen(page.document, 'visibilitychange', () => {
      if (page.document.visibilityState === 'visible') this.#wake();
    });
  }

  #listen(target, type, handler) {
    target?.addEventListener?.(type, handler);
    this.#page.push(() => target?.removeEventListener?.(type, handler));
  }

  #unwatchPage() {
    for (const unlisten of this.#page.splice(0)) unlisten();
  }

  /** The network or the person is back: do not sit out a wait, and do not trust an old socket. */
  #wake() {
    if (this.#state === 'open') this.ping();
    if (this.#state !== 'reconnecting') return;
    this.#timers.clearTimeout(this.#retryTimer);
    this.#dial();
  }

  // Events -----------------------------------------------------------------------------------

  #setState(state) {
    const previous = this.#state;
    this.#state = state;
    if (state !== previous) this.#dispatch('state', { state, previous });
  }

  #dispatch(type, payload) {
    for (const { handler } of [...(this.#handlers.get(type) ?? [])]) {
      try {
        handler(payload)?.catch?.((cause) => this.#handlerFailed(type, cause));
      } catch (cause) {
        this.#handlerFailed(type, cause);
      }
    }
  }

  #handlerFailed(type, cause) {
    if (type === 'error') console.error('realtime: an error handler failed', cause);
    else this.#report('handler_failed', `A handler of ${type} failed`, cause);
  }

  /** What goes wrong on this side arrives in the shape of the server's own errors. */
  #report(code, message, cause) {
    if (!this.#handlers.get('error')?.size) console.error(`realtime: ${message}`, cause ?? '');
    this.#dispatch('error', { type: 'error', code, message, cause });
  }
}

/** Ids of the newest events, so that one that comes again around a reconnect is known. */
class SeenIds {
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

/** Asks for a sign of life now and then; when none comes, the connection is dead, whatever it says. */
class Heartbeat {
  #timers;
  #random;
  #timings;
  #calls;
  #asked = new Map(); // timestamp sent → when; a few at most
  #next = null;
  #limit = null;

  constructor(timers, random, timings, calls) {
    this.#timers = timers;
    this.#random = random;
    this.#timings = timings;
    this.#calls = calls;
  }

  start() {
    this.#timers.clearTimeout(this.#next);
    const wait = this.#timings.pingEvery * (1 + this.#random() / 5);
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
    this.#limit ??= this.#timers.setTimeout(this.#calls.dead, this.#timings.pongWithin);
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
    return sent === undefined ? null : this.#timers.now() - sent;
  }
}

/** Turns keystrokes into few messages: true now and then while they go on, false once they end. */
class TypingSignal {
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

/** Full jitter: anywhere from nothing to a window that doubles, so that a crowd does not return at once. */
function backOff(attempt, { backoffFirst, backoffMost }, random) {
  return random() * Math.min(backoffMost, backoffFirst * 2 ** attempt);
}

/** The arguments of WebSocket: the URL, and the subprotocols where those carry the token. */
function address({ url, botId, presence, tokenIn, parameters }, token, cursor) {
  const target = new URL(url ?? '/', globalThis.location?.href);
  const path = botId ? `chat/${encodeURIComponent(botId)}` : 'notifications';
  target.protocol = target.protocol.replace(/^http/, 'ws');
  target.pathname = `${target.pathname.replace(/\/+$/, '')}/api/ws/${path}`;
  for (const [name, value] of Object.entries(parameters ?? {}))
    target.searchParams.set(name, value);
  if (presence) target.searchParams.set('presence', 'true');
  // Sent when empty, too: it tells the server that this client understands `resync`.
  target.searchParams.set('cursor', cursor ?? '');
  if (tokenIn === 'protocol') return [target.href, ['bearer', token]];
  target.searchParams.set('token', token);
  return [target.href];
}

function meaningOf(code) {
  return CLOSE_CODES[code] ?? `closed with code ${code}`;
}

function isText(value) {
  return typeof value === 'string' && value !== '';
}

/** One that is longer than any of this server's might be refused for ever. */
function isCursor(value) {
  return isText(value) && value.length <= LONGEST_CURSOR;
}

/** A message is a text, an object with a type; null for all else. */
function parse(text) {
  if (typeof text !== 'string') return null;
  try {
    const message = JSON.parse(text);
    return typeof message?.type === 'string' ? message : null;
  } catch {
    return null;
  }
}
