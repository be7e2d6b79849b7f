/**
 * One connection (/api/ws) for many clients, each of which behaves as if it were alone.
 *
 * The connection is a client of its own, which has the tokens and returns when it is lost. Each of the
 * others opens a Subscription where it would open a socket: that is told what concerns it, and a greeting
 * in place of `subscribed`. So all that a client promises is kept by the same code.
 */

import { RealtimeClient } from './client.js';
import { parse } from './messages.js';
import { OwnLine } from './own_line.js';
import { CUT, NORMAL, timingsOf, TOKEN_REFUSED } from './rules.js';

const NOTIFICATIONS = 'notifications';
const OF_THE_CONNECTION = new Set([
  'connection_established',
  'authenticated',
  'token_expiring',
  'going_away',
]);
const TRY_AGAIN_LATER = 1013;
/** A client of many need not say so often that it is there: its pings only keep its cursor young. */
const PINGS_LESS_OFTEN = 10;
/** WebSocket.readyState. */
const OPEN = 1;
const CLOSED = 3;

export class SharedConnection {
  #options;
  #main;
  #socket = null;
  #greeting = null; // while the connection is open
  #ending = null; // once it is over for good
  #waiting = []; // clients that wait for one of the two
  #clients = new Map(); // target → client
  #tells = new WeakMap(); // client → what its line may tell it
  #subscriptions = new Map(); // target → what its client takes for a socket
  #cut = new Set(); // clients whose connection was lost, and which return with it
  #leaving = new Map(); // target → how many `unsubscribe`s the server has not answered

  /** @param {import('../realtime.js').LineOptions} options */
  constructor(options) {
    this.#options = options;
    this.#main = new RealtimeClient(options, (...known) => new MainLine(this, ...known));
  }

  get state() {
    return this.#main.state;
  }

  get failure() {
    return this.#main.failure;
  }

  get latency() {
    return this.#main.latency;
  }

  /** A client for a bot's chat, which has been started. */
  chat(botId, { cursor, presence } = {}) {
    return this.#client(botId.toLowerCase(), { botId, cursor, presence });
  }

  /** A client for the user's notifications, which has been started. */
  notifications({ cursor } = {}) {
    return this.#client(NOTIFICATIONS, { notifications: true, cursor });
  }

  /** Take a new token: into the open connection, and for every connection after it. */
  refresh(token) {
    this.#main.refresh(token);
  }

  /** As a client's `wake`. */
  wake() {
    this.#main.wake();
  }

  on(type, handler) {
    return this.#main.on(type, handler);
  }

  /** Leave for good: all its clients are closed. */
  close() {
    this.#main.close();
    for (const client of this.#clients.values()) client.close(); // those that wait to return
  }

  #client(target, stream) {
    const { timers, random } = this.#options;
    const timings = timingsOf(this.#options.timings);
    timings.pingEvery *= PINGS_LESS_OFTEN;
    const options = { timings, timers, random, page: {}, ...stream };
    const begin = () => this.#begin(target, client);
    let tell;
    const makeLine = (_options, _clock, given) => {
      tell = given;
      return new SharedLine(this, target, stream.presence, begin);
    };
    const client = new RealtimeClient(options, makeLine);
    this.#tells.set(client, tell);
    return client.connect();
  }

  // The connection -----------------------------------------------------------------------------

  /** Its new socket. */
  opened(socket) {
    this.#socket = socket;
  }

  #onGreeting(greeting) {
    this.#greeting = greeting;
    this.#settle(null);
    // They need not wait any longer: the connection has done so.
    const returning = [...this.#cut];
    this.#cut.clear();
    wakeThoseWhoWait(returning);
  }

  /** Its own client was told to be quick. */
  woken() {
    wakeThoseWhoWait(this.#clients.values());
  }

  /** It has no token, for now: each of its clients is told, as one that is alone. */
  failed(cause) {
    for (const client of [...this.#clients.values()])
      if (client.state !== 'closed') this.#tells.get(client).failed(cause);
  }

  /** It is over, for now or, where `final`, for good. */
  closed({ code, reason, failure, final }) {
    this.#greeting = null;
    this.#socket = null;
    this.#leaving.clear();
    // Whether another token helps is decided by the connection: the others need not know of it.
    const isCut = code === TOKEN_REFUSED && !final;
    const ending = { code: isCut ? CUT : code, reason, ...(failure && { failure }) };
    const subscriptions = [...this.#subscriptions];
    this.#subscriptions.clear();
    if (final) this.#settle(ending);
    else for (const [target] of subscriptions) this.#cut.add(this.#clients.get(target));
    for (const [, subscription] of subscriptions) subscription.end(ending);
  }

  #settle(ending) {
    this.#ending = ending;
    for (const resolve of this.#waiting.splice(0)) resolve(ending);
  }

  /** Give a frame to whom it concerns; returns it where it concerns the connection itself, else null. */
  heard(frame) {
    const message = parse(frame);
    const isOwn = message === null || OF_THE_CONNECTION.has(message.type);
    if (!isOwn) return this.#route(message, frame);
    if (message?.type === 'connection_established') this.#onGreeting(message.data ?? {});
    else this.#tellAll(frame);
    return message === null ? null : frame;
  }

  #route(message, frame) {
    const target = targetOf(message);
    if (target !== null) this.#tell(target, message, frame);
    else if (message.type === 'pong') return frame;
    else if (message.type === 'error') this.#tellAll(frame);
    // Of the notifications, most messages do not say so.
    else this.#tell(NOTIFICATIONS, message, frame);
    return null;
  }

  #tellAll(frame) {
    for (const subscription of [...this.#subscriptions.values()]) subscription.take(frame);
  }

  #tell(target, message, frame) {
    const subscription = this.#subscriptions.get(target);
    if (this.#isOfOneThatWasLeft(target, message) || !subscription) return;
    const isEnd = message.type === 'unsubscribed';
    // That was asked for before this one was.
    if (isEnd && message.data?.code === NORMAL && !subscription.isGreeted) return;
    const isRefused = message.type === 'error' && !subscription.isGreeted;
    if (isRefused || isEnd) {
      this.#subscriptions.delete(target);
      // The server has one of which nobody here knows.
      if (isRefused && message.code === 'already_subscribed') this.#unsubscribe(target);
      subscription.end(endingOf(message));
    } else if (message.type === 'subscribed') subscription.greet(this.#greetingOf(target, message));
    else subscription.take(frame);
  }

  /**
   * Counts the answers to `unsubscribe`, too. With another code, `unsubscribed` is the server's own: what
   * was said of it meanwhile is answered with `not_subscribed`.
   */
  #isOfOneThatWasLeft(target, { type, code, data }) {
    const leaving = this.#leaving.get(target) ?? 0;
    const isUnknown = type === 'error' && code === 'not_subscribed';
    const isAnswer =
      isUnknown ||
      (type === 'error' && code === 'rate_limited') ||
      (type === 'unsubscribed' && data?.code === NORMAL);
    if (isAnswer && leaving > 1) this.#leaving.set(target, leaving - 1);
    else if (isAnswer) this.#leaving.delete(target);
    return leaving > 0 || isUnknown;
  }

  /** As the server of a socket of its own would greet. */
  #greetingOf(target, { data }) {
    const { connection_type: _, ...common } = this.#greeting ?? {};
    const own = target === NOTIFICATIONS ? { connection_type: target } : { bot_id: target };
    return { type: 'connection_established', data: { ...common, ...own, ...data } };
  }

  // Its clients --------------------------------------------------------------------------------

  /** A client starts, or starts again after the end. */
  #begin(target, client) {
    for (const [name, { state }] of this.#clients)
      if (state === 'closed') this.#clients.delete(name);
    if (this.#clients.has(target))
      throw new Error(`${target} has a client here already: close it first`);
    this.#clients.set(target, client);
    if (this.#main.state !== 'idle' && this.#main.state !== 'closed') return;
    this.#ending = null;
    this.#main.connect();
  }

  /** Wait until it is open; returns the end where it will not be. */
  async ready() {
    if (this.#greeting !== null) return null;
    if (this.#ending !== null) return this.#ending;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  subscribe(target, cursor, presence) {
    const subscription = new Subscription(this, target);
    this.#subscriptions.set(target, subscription);
    const data = { cursor: cursor ?? '', ...(presence && { presence }) };
    if (!this.say(target, { type: 'subscribe', data }))
      queueMicrotask(() => this.#endUnsaid(target, subscription));
    return subscription;
  }

  /** The connection was lost after the client had waited for it. */
  #endUnsaid(target, subscription) {
    if (this.#subscriptions.get(target) !== subscription) return;
    this.#subscriptions.delete(target);
    this.#cut.add(this.#clients.get(target));
    subscription.end({ code: CUT, reason: '' });
  }

  /** Send what a client says, with the name of what it is about. */
  say(target, message) {
    if (this.#socket?.readyState !== OPEN) return false;
    this.#socket.send(JSON.stringify({ ...message, data: { ...message.data, ...named(target) } }));
    return true;
  }

  /** A client has left, and may come again. */
  left(target, subscription) {
    if (this.#subscriptions.get(target) !== subscription) return;
    this.#subscriptions.delete(target);
    this.#unsubscribe(target);
  }

  #unsubscribe(target) {
    if (this.say(target, { type: 'unsubscribe' }))
      this.#leaving.set(target, (this.#leaving.get(target) ?? 0) + 1);
  }
}

function wakeThoseWhoWait(clients) {
  for (const client of [...clients]) if (client?.state === 'reconnecting') client.wake();
}

/** The line of the connection itself. */
class MainLine extends OwnLine {
  #shared;

  constructor(shared, options, clock, tell) {
    super(options, '', clock, tell);
    this.#shared = shared;
  }

  open() {
    const socket = new MainSocket(super.open(''), this.#shared);
    this.#shared.opened(socket);
    return socket;
  }

  woken() {
    this.#shared.woken();
  }

  failed(cause) {
    this.#shared.failed(cause);
  }

  closed(closed) {
    super.closed(closed);
    this.#shared.closed(closed);
  }
}

/** The socket of the connection, of which only what concerns the connection itself is heard. */
class MainSocket {
  onopen = null;
  onmessage = null;
  onnews = null; // something came that was for others
  onclose = null;
  onerror = null;
  #socket;

  constructor(socket, shared) {
    this.#socket = socket;
    socket.onopen = (event) => this.onopen?.(event);
    socket.onclose = (event) => this.onclose?.(event);
    socket.onerror = (event) => this.onerror?.({ target: this, message: event?.message });
    socket.onmessage = ({ data }) => {
      if (this.onmessage === null) return;
      const own = shared.heard(data);
      // Whoever heard it may have closed the connection.
      if (this.onmessage === null) return;
      if (own === null) this.onnews();
      else this.onmessage({ data: own });
    };
  }

  get readyState() {
    return this.#socket.readyState;
  }

  send(text) {
    this.#socket.send(text);
  }

  close(code) {
    this.#socket.close(code);
  }
}

/** The line of a client that shares the connection: it has neither a token nor a socket of its own. */
class SharedLine {
  tokens;
  #shared;
  #target;
  #presence;

  constructor(shared, target, presence, begin) {
    this.#shared = shared;
    this.#target = target;
    this.#presence = presence;
    this.tokens = {
      begin,
      forget() {}, // the connection's, which goes on for others
      put: (token) => shared.refresh(token),
      offer: () => null,
      opened() {},
      authenticated() {},
      warned() {},
      mayReturn: () => false,
    };
  }

  get pendingFailure() {
    return this.#shared.failure;
  }

  ready() {
    return this.#shared.ready();
  }

  open(cursor) {
    return this.#shared.subscribe(this.#target, cursor, this.#presence);
  }

  woken() {}

  failed() {}

  closed() {}

  disconnected() {}
}

/** What a client takes for its socket. */
class Subscription {
  readyState = OPEN;
  isGreeted = false;
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;
  #shared;
  #target;

  constructor(shared, target) {
    this.#shared = shared;
    this.#target = target;
    queueMicrotask(() => this.onopen?.());
  }

  /** Before the server has accepted it, what comes is for the one before it. */
  take(frame) {
    if (this.isGreeted) this.onmessage?.({ data: frame });
  }

  greet(greeting) {
    this.isGreeted = true;
    this.take(JSON.stringify(greeting));
  }

  end({ code, reason }) {
    this.readyState = CLOSED;
    this.onclose?.({ code, reason });
  }

  send(text) {
    this.#shared.say(this.#target, JSON.parse(text));
  }

  close() {
    if (this.readyState === CLOSED) return;
    this.readyState = CLOSED;
    this.#shared.left(this.#target, this);
  }
}

function named(target) {
  return target === NOTIFICATIONS ? { notifications: true } : { bot_id: target };
}

function targetOf({ bot_id: botId, notifications }) {
  if (typeof botId === 'string') return botId.toLowerCase();
  return notifications === true ? NOTIFICATIONS : null;
}

function endingOf({ type, data, message }) {
  if (type === 'error') return { code: TRY_AGAIN_LATER, reason: message ?? '' };
  return { code: Number.isInteger(data?.code) ? data.code : CUT, reason: data?.reason ?? '' };
}
