/**
 * One stream of events, of a bot's chat or of the user's notifications, kept up over any number of
 * sockets: it knows when to connect again and when to stop, resumes where it was (its cursor), and
 * hands each event over once (its memory of ids).
 *
 * idle → connecting → open → reconnecting → connecting → …        closed: by close(), by a final code
 */

import { Failure } from './address.js';
import { Handlers } from './handlers.js';
import { Heartbeat } from './heartbeat.js';
import { isCursor, isText, parse, retryAfter } from './messages.js';
import { OwnLine } from './own_line.js';
import {
  ATTEMPT_AFTER_RATE_LIMIT,
  backOff,
  CUT,
  FAILURES,
  FINAL_CODES,
  HEARD_NOTHING,
  meaningOf,
  NORMAL,
  RATE_LIMITED,
  timingsOf,
  TOKEN_REFUSED,
} from './rules.js';
import { SeenIds } from './seen_ids.js';
import { PAGE_TIMERS } from './timers.js';
import { TypingSignal } from './typing_signal.js';

const LIFECYCLE = new Set(['open', 'close', 'reconnecting', 'state', 'latency']);
/** WebSocket.readyState of one that has not opened yet, and of one that can send. */
const CONNECTING = 0;
const OPEN = 1;

/** Make a client and start it. */
export function connect(options) {
  return new RealtimeClient(options).connect();
}

export class RealtimeClient {
  #options;
  #timers;
  #random;
  #timings;
  #line;
  #handlers = new Handlers();
  #page = [];

  #state = 'idle';
  #socket = null;
  #wasOpen = false; // whether the present socket ever was
  #whyNot = ''; // what `ws` says of a socket that cannot connect
  #epoch = 0; // moves whenever what an awaiting dial is about has changed
  #attempt = 0;
  #returnAfter = 0;
  #openedAt = null;
  #retryTimer = null;
  #connectTimer = null;
  #failure = null;

  #cursor;
  #isResuming = false; // whether the present socket goes on where another was, or with a cursor
  #hasBegun = false; // whether the app was told of a connection
  #user = null; // whose connection the app was told of last
  #seen;
  #heartbeat;
  #typing;
  #latency = null;

  /**
   * @param {import('../realtime.js').Options} options
   * @param makeLine makes what sockets come from, where it is not a line of the client's own.
   */
  constructor(options, makeLine = ownLine) {
    this.#options = options;
    this.#timers = options.timers ?? PAGE_TIMERS;
    this.#random = options.random ?? Math.random;
    this.#timings = timingsOf(options.timings);
    this.#line = this.#makeLine(makeLine);
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

  #makeLine(makeLine) {
    const clock = { timers: this.#timers, timings: this.#timings, random: this.#random };
    return makeLine(this.#options, clock, {
      renewed: () => this.#offerToken(),
      failed: (cause) => this.#tellNoToken(cause),
    });
  }

  #tellNoToken(cause) {
    this.#handlers.report('token_unavailable', 'getToken failed', cause);
    this.#line.failed(cause);
  }

  /** idle, connecting, open, reconnecting or closed. */
  get state() {
    return this.#state;
  }

  /** Why there is no connection, by its name in FAILURES; null where there is one, or it was cut. */
  get failure() {
    return this.#failure ?? this.#line.pendingFailure ?? null;
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
    this.#returnAfter = 0;
    this.#line.tokens.begin();
    this.#watchPage();
    this.#dial();
    return this;
  }

  /** Leave for good (1000). Handlers stay, and connect() may start it again. */
  close() {
    this.#line.tokens.forget();
    if (this.#state === 'closed') return;
    const socket = this.#detach();
    this.#end({ code: NORMAL, reason: 'closed by the page' });
    if (socket?.readyState === CONNECTING) this.#closeOnceOpen(socket);
    else socket?.close(NORMAL);
  }

  /** Browsers log an error where a page closes a socket that is still connecting: it is let open first. */
  #closeOnceOpen(socket) {
    const { connectWithin } = this.#timings;
    const timer = this.#timers.setTimeout(() => socket.close(NORMAL), connectWithin);
    socket.onopen = () => socket.close(NORMAL);
    socket.onclose = () => this.#timers.clearTimeout(timer);
  }

  /**
   * Call handler for each message of a type, '*' for all of the server's messages, or for one of the
   * client's own events. Returns the function that ends it.
   */
  on(type, handler) {
    return this.#handlers.on(type, handler);
  }

  /** As on, for the first time only. */
  once(type, handler) {
    return this.#handlers.once(type, handler);
  }

  /** Call with true at every keystroke and false when the text was sent or cleared; the rest is done here. */
  typing(isTyping) {
    if (this.#isSendable()) this.#typing.set(isTyping);
  }

  /** Tell the server which session is on screen. False when there is no connection to say it on. */
  sessionSync(sessionId) {
    return this.#send({ type: 'session_sync', data: { session_id: sessionId } });
  }

  /** Ask for a sign of life now, besides the regular ones. */
  ping() {
    if (!this.#isConnected()) return false;
    const timestamp = new Date().toISOString();
    const isSent = this.#send({ type: 'ping', timestamp });
    // A socket that is closing and never closed is dead, too.
    this.#heartbeat.asked(timestamp);
    return isSent;
  }

  /** Take a new token: into the open connection, and for every connection after it. */
  refresh(token) {
    this.#line.tokens.put(token);
    this.#offerToken();
  }

  /** The network or the person is back: do not sit out a wait, and do not trust an old socket. */
  wake() {
    this.#line.woken();
    if (this.#isSendable()) this.ping();
    else if (this.#isConnected()) this.#abandon('the connection had ended');
    if (this.#state !== 'reconnecting') return;
    this.#timers.clearTimeout(this.#retryTimer);
    this.#dial();
  }

  // Connecting -------------------------------------------------------------------------------

  async #dial() {
    const epoch = ++this.#epoch;
    if (!this.#setState('connecting')) return;
    try {
      const ending = await this.#line.ready();
      if (epoch !== this.#epoch) return;
      if (ending) this.#end(ending);
      else this.#openSocket();
    } catch (cause) {
      if (epoch !== this.#epoch) return;
      this.#retry({ code: null, reason: 'getToken failed' });
      this.#tellNoToken(cause);
    }
  }

  #openSocket() {
    this.#isResuming = Boolean(this.#cursor) || this.#hasBegun;
    this.#wasOpen = false;
    this.#whyNot = '';
    try {
      this.#socket = this.#line.open(this.#cursor);
    } catch (cause) {
      if (!(cause instanceof Failure)) throw cause;
      // It does not get better by trying again.
      this.#detach();
      this.#end({ code: null, reason: cause.message, failure: cause.failure });
      this.#handlers.report(cause.failure, cause.message, cause.cause);
      return;
    }
    this.#socket.onopen = () => {
      this.#wasOpen = true;
    };
    this.#socket.onmessage = (frame) => this.#onFrame(frame.data);
    this.#socket.onnews = () => this.#heartbeat.heard();
    this.#socket.onclose = ({ code, reason }) => this.#onClose(code, reason);
    // Stays when the socket is left: an `error` that nobody hears would end a process of Node.
    this.#socket.onerror = (event) => this.#onError(event);
    const tooLate = () => this.#abandon('the server did not answer');
    this.#connectTimer = this.#timers.setTimeout(tooLate, this.#timings.connectWithin);
  }

  #onError({ target, message }) {
    this.#whyNot = message ?? '';
    // Chromium tells of no `close` where a policy forbade the connection.
    if (target === this.#socket && this.#line.failure === 'blocked') this.#onClose(CUT, '');
  }

  /** The server's greeting. False where a handler has left. */
  #onEstablished(message) {
    const { cursor, reason, recovered: said, user_id: user } = message.data ?? {};
    // A server that says nothing of a cursor that it was sent has recovered nothing. And where another
    // person has signed in, what was recovered continues a state that is not theirs.
    const isAsked = this.#isResuming || (said ?? null) !== null;
    const isLost = this.#isAnother(user) || (said !== true && isAsked);
    const recovered = isLost ? false : said === true || undefined;
    const before = this.#cursor;
    // A replay may be cut short too: until its own cursors arrive, the old one is what holds.
    if (!recovered) this.#cursor = isCursor(cursor) ? cursor : null;
    this.#timers.clearTimeout(this.#connectTimer);
    this.#openedAt = this.#timers.now();
    this.#failure = null;
    this.#returnAfter = 0;
    this.#line.tokens.opened(message.data?.expires_at);
    this.#heartbeat.start();
    if (this.#setState('open') && this.#tellOpen({ recovered, reason, message }))
      return recovered !== false || this.#startOver({ type: 'resync', data: { reason } });
    // A handler has left before the app was told to load its state: the next connection tells it again.
    if (!recovered) this.#cursor = before;
    return false;
  }

  #isAnother(user) {
    return this.#user !== null && isText(user) && user !== this.#user;
  }

  #tellOpen(opened) {
    this.#offerToken();
    if (!this.#dispatch('open', opened)) return false;
    this.#hasBegun = true;
    this.#user = opened.message.data?.user_id ?? this.#user;
    return true;
  }

  #offerToken() {
    if (!this.#isSendable()) return;
    const token = this.#line.tokens.offer();
    if (token !== null) this.#send({ type: 'authenticate', data: { token } });
  }

  /** Events were lost: the app must refetch, and ids of another database may mean other events. */
  #startOver(message) {
    this.#seen.forget();
    return this.#dispatch('resync', message);
  }

  // Messages ---------------------------------------------------------------------------------

  #onFrame(text) {
    this.#wasOpen = true;
    this.#heartbeat.heard();
    const message = parse(text);
    if (message === null) return this.#missed(text);
    if (isCursor(message.cursor)) this.#cursor = message.cursor;
    if (isText(message.id) && !this.#seen.add(message.id)) return;
    if (message.type === 'connection_established' && !this.#onEstablished(message)) return;
    this.#follow(message);
    if (!LIFECYCLE.has(message.type) && message.type !== '*') this.#deliver(message);
    this.#handlers.dispatch('*', message);
  }

  /** What the server said cannot be read: the app gets the frame as it came, and must refetch. */
  #missed(frame) {
    this.#handlers.report('invalid_json', 'The server sent what is not a message');
    this.#startOver({ type: 'resync', data: { reason: 'unreadable' }, frame });
  }

  /** What a message means to the client itself. */
  #follow(message) {
    switch (message.type) {
      case 'pong':
        return this.#onPong(message);
      case 'authenticated':
        return this.#line.tokens.authenticated(message.data?.expires_at);
      case 'token_expiring':
        return this.#line.tokens.warned();
      case 'going_away':
        this.#returnAfter = retryAfter(message);
    }
  }

  #deliver(message) {
    if (message.type === 'resync') this.#startOver(message);
    else this.#handlers.dispatch(message.type, message);
  }

  #onPong({ timestamp }) {
    const took = this.#heartbeat.took(timestamp);
    if (took === null) return;
    this.#latency = took;
    this.#handlers.dispatch('latency', { milliseconds: took });
  }

  /** Not where a `close` handler is being told of the end: then the state is `open` still. */
  #isConnected() {
    return this.#state === 'open' && this.#socket !== null;
  }

  #isSendable() {
    return this.#isConnected() && this.#socket.readyState === OPEN;
  }

  #send(message) {
    if (!this.#isSendable()) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  // The end of a socket ----------------------------------------------------------------------

  #onClose(code, reason) {
    const wasStable = this.#openedAt !== null && this.#sinceOpen() >= this.#timings.stableAfter;
    const closed = this.#closed(code, reason);
    this.#detach();
    // Not at the handshake: refusals complete it too, and would be repeated without ever slowing down.
    if (wasStable) this.#attempt = 0;
    if (closed.final) return this.#end(closed);
    if (code === RATE_LIMITED) this.#attempt = Math.max(this.#attempt, ATTEMPT_AFTER_RATE_LIMIT);
    this.#failure = closed.failure ?? null;
    const epoch = this.#epoch;
    this.#line.closed(closed);
    if (epoch === this.#epoch && this.#dispatch('close', closed))
      this.#retry({ code, reason: closed.reason });
  }

  #closed(code, reason) {
    if (code === CUT && !this.#wasOpen) {
      const { failure } = this.#line;
      return told({ code, reason: reason || this.#whyNot, failure, final: failure === 'blocked' });
    }
    const isFinal =
      code === TOKEN_REFUSED ? !this.#line.tokens.mayReturn(reason) : FINAL_CODES.has(code);
    return told({ code, reason, final: isFinal });
  }

  #sinceOpen() {
    return this.#timers.now() - this.#openedAt;
  }

  #retry({ code, reason }) {
    const delay = this.#returnAfter + backOff(this.#attempt, this.#timings, this.#random);
    this.#attempt += 1;
    this.#returnAfter = 0;
    this.#retryTimer = this.#timers.setTimeout(() => this.#dial(), delay);
    const told = { attempt: this.#attempt, delay, code, reason };
    if (this.#setState('reconnecting')) this.#dispatch('reconnecting', told);
  }

  /** A socket that went silent may take minutes to close by itself: leave it behind. */
  #abandon(reason) {
    const socket = this.#socket;
    this.#onClose(HEARD_NOTHING, reason);
    socket.close(HEARD_NOTHING);
  }

  #detach() {
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    this.#socket = null;
    this.#openedAt = null;
    this.#epoch += 1;
    this.#timers.clearTimeout(this.#connectTimer);
    this.#timers.clearTimeout(this.#retryTimer);
    this.#line.disconnected();
    this.#heartbeat.stop();
    this.#typing.reset();
    return socket;
  }

  #end(closed) {
    this.#unwatchPage();
    this.#failure = closed.failure ?? null;
    const previous = this.#state;
    const ended = told({ ...closed, final: true });
    this.#state = 'closed';
    this.#line.closed(ended);
    if (previous !== 'closed') this.#handlers.dispatch('state', { state: 'closed', previous });
    this.#handlers.dispatch('close', ended);
  }

  // The page ---------------------------------------------------------------------------------

  #watchPage() {
    const page = this.#options.page ?? { window: globalThis, document: globalThis.document };
    this.#listen(page.window, 'online', () => this.wake());
    // A page that comes back from the browser's cache finds its sockets closed.
    this.#listen(page.window, 'pageshow', ({ persisted }) => persisted && this.wake());
    this.#listen(page.document, 'visibilitychange', () => {
      if (page.document.visibilityState === 'visible') this.wake();
    });
  }

  #listen(target, type, handler) {
    target?.addEventListener?.(type, handler);
    this.#page.push(() => target?.removeEventListener?.(type, handler));
  }

  #unwatchPage() {
    for (const unlisten of this.#page.splice(0)) unlisten();
  }

  /** False where a handler has called close(), connect() or wake(): what was under way is over. */
  #setState(state) {
    const previous = this.#state;
    this.#state = state;
    return state === previous || this.#dispatch('state', { state, previous });
  }

  /** As #setState, for another event. */
  #dispatch(type, event) {
    const epoch = this.#epoch;
    this.#handlers.dispatch(type, event);
    return epoch === this.#epoch;
  }
}

function ownLine(options, clock, tell) {
  const { botId, notifications } = options;
  if (Boolean(botId) === Boolean(notifications)) {
    throw new TypeError('Give either botId or notifications: true.');
  }
  const path = botId ? `chat/${encodeURIComponent(botId)}` : 'notifications';
  return new OwnLine(options, path, clock, tell);
}

/** The end of a connection, as it is told: with the code or the failure in words. */
function told({ code, reason, failure, final }) {
  const meaning = failure ? FAILURES[failure] : meaningOf(code);
  return { code, reason, meaning, final, ...(failure && { failure }) };
}
