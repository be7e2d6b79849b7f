/**
 * What a page shows of a bot: its messages, who types, who is there, and how the connection is.
 *
 * It knows no framework: `subscribe` and `snapshot` are what a view needs. The history is loaded before
 * the client connects with its cursor; without a cursor, and after a `resync`, while it is connected.
 * What comes meanwhile is kept and applied again to the history. An answer that comes too late is still as
 * good as the one after it, if that is not here yet.
 */

import { keptIn } from './alike.js';
import { connect } from './client.js';
import { MessageList } from './message_list.js';
import { backOff, timingsOf, TOKEN_REFUSED } from './rules.js';
import { PAGE_TIMERS, Question, TooLate } from './timers.js';

/** The history may take so long. */
const LOAD_WITHIN = 30_000;
/** So many events are kept for a history that is on its way; where more come, it is asked for again. */
const MOST_KEPT = 10_000;
/** A page is told of changes at most so often: a thousand missed events are not a thousand pictures. */
const TELL_EVERY = 16;
/** The server tells of stops; this is for a stop that was lost. */
const TYPIST_FORGOTTEN_AFTER = 10_000;

export class BotChat {
  #options;
  #timers;
  #timings;
  #listeners = new Set();
  #life = 0; // moves with each start and stop
  #client = null;

  #list = new MessageList();
  #cursor;
  #isLoaded = false; // whether what is shown is the history, and all that came since
  #asked = []; // of the last questions for the history: { live: what came since, settled }
  #load = null; // the load that is under way
  #loading;
  #loadTimer = null;
  #beginTimer = null;
  #error = null;
  #clientError = null;
  #sendError = null;

  #typists = new Map(); // user id → { typist, timer }
  #people = new Map();
  #closed = null;

  #snapshot;
  #toldAt = -Infinity;
  #tellTimer = null;

  /** @param options see react.d.ts. */
  constructor(options) {
    this.#options = options;
    this.#timers = options.timers ?? PAGE_TIMERS;
    this.#timings = timingsOf(options.timings);
    this.#loading = new Question(this.#timers, LOAD_WITHIN);
    this.#cursor = options.cursor ?? null;
    this.#snapshot = Object.freeze(this.#picture());
  }

  /** Start; returns what stops it. Both may be called again, as React's StrictMode does. */
  start = () => {
    const { botId } = this.#options;
    if (!botId) return () => {};
    const life = (this.#life += 1);
    // Not at once: StrictMode stops it in the same breath, and nothing should have been asked for.
    queueMicrotask(() => life === this.#life && this.#begin(life));
    return () => this.#stop();
  };

  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  snapshot = () => this.#snapshot;

  /** Show a message at once, and give it to the application's `send`. False where that failed. */
  send = async (content) => {
    const key = this.#list.send(content, this.#people.get(this.#list.me)?.username ?? null);
    this.typing(false);
    this.#tell();
    try {
      const answer = await this.#options.send(content);
      this.#list.sent(key, answer);
      this.#forgetError(this.#sendError);
      if (this.#list.isUnsettled) this.reload();
      return true;
    } catch (cause) {
      this.#error = this.#sendError = cause;
      this.#list.failed(key);
      return false;
    } finally {
      this.#tell();
    }
  };

  /** Apply what the application has changed by its API: an edit or a deletion. */
  apply = (change) => {
    this.#apply('change', change);
    this.#tell();
  };

  /** Load the history again: at once, or else when it connects. */
  reload = () => {
    if (this.#client !== null && !this.#closed) this.#reload();
    else this.#stopLoading();
    this.#tell();
  };

  /** Take away a message that could not be sent, by its `key`. */
  discard = (key) => {
    this.#list.discard(key);
    this.#tell();
  };

  typing = (isTyping) => this.#client?.typing(isTyping);

  /** The network or the person is back. A connection that is shared is what waits for them. */
  wake = () => (this.#options.shared ?? this.#client)?.wake();

  refresh = (token) => {
    this.#options = { ...this.#options, token };
    this.#client?.refresh(token);
    if (this.#closed?.code === TOKEN_REFUSED) this.connect();
  };

  /** Start again after the end. */
  connect = () => {
    if (this.#client?.state === 'closed') this.#client.connect();
  };

  // Its life -----------------------------------------------------------------------------------

  async #begin(life, attempt = 0) {
    this.#closed = null;
    if (this.#options.history && !this.#isLoaded) await this.#loadFirst();
    if (life !== this.#life) return;
    try {
      this.#follow(this.#makeClient());
      if (attempt > 0) this.#error = null;
    } catch (cause) {
      this.#error = cause; // two of one bot on a shared connection: the other may leave
      const again = () => this.#begin(life, attempt + 1);
      this.#beginTimer = this.#timers.setTimeout(again, this.#backOff(attempt));
    }
    this.#tell();
  }

  /** Without a cursor (where that fails, say) it is loaded again once connected. */
  async #loadFirst() {
    const load = this.#startLoading();
    this.#cursor = null;
    this.#tell();
    try {
      const shown = await this.#ask(load);
      if (shown) this.#cursor = shown.cursor || null;
    } catch (cause) {
      if (load !== this.#load) return;
      this.#error = cause;
      this.#stopLoading();
    }
  }

  #backOff(attempt) {
    return backOff(attempt, this.#timings, this.#options.random ?? Math.random);
  }

  #makeClient() {
    const { botId, presence = true, shared, history, send, onEvent, ...line } = this.#options;
    const stream = { presence, cursor: this.#cursor };
    return shared ? shared.chat(botId, stream) : connect({ ...line, ...stream, botId });
  }

  #stop() {
    const client = this.#client;
    this.#life += 1;
    this.#cursor = client?.cursor ?? this.#cursor;
    this.#client = null; // so that this end is not taken for one that came from elsewhere
    client?.close();
    this.#endLoading();
    this.#forgetOthers();
    for (const timer of [this.#beginTimer, this.#tellTimer]) this.#timers.clearTimeout(timer);
    this.#tellTimer = null;
  }

  #follow(client) {
    this.#client = client;
    const on = (type, handler) =>
      client.on(type, (message) => {
        if (client !== this.#client) return undefined;
        const answer = handler(message);
        this.#tell();
        return answer; // so that the client is told where it is a promise that fails
      });
    on('open', ({ recovered, message }) => this.#onOpen(recovered, message.data ?? {}));
    on('resync', () => this.#reload());
    on('close', (closed) => this.#onClose(closed));
    on('state', ({ state }) => state !== 'closed' && (this.#closed = null));
    on('authenticated', () => this.#forgetError(this.#clientError));
    on('error', ({ message, cause }) => (this.#error = this.#clientError = cause ?? new Error(message)));
    on('chat_message', ({ data }) => this.#onMessage(data));
    on('chat_message_update', ({ data }) => this.#apply('update', data));
    on('typing_indicator', ({ data }) => this.#onTyping(data));
    on('presence_state', ({ data }) => this.#onPresence([], data.users, new Map()));
    on('presence_diff', ({ data }) => this.#onPresence(data.left, data.joined, this.#people));
    on('*', (message) => this.#options.onEvent?.(message));
  }

  #onOpen(recovered, { user_id: me }) {
    this.#forgetError(this.#clientError); // it has a token now
    const isAnother = this.#list.identify(me ?? null);
    // After `false` comes a resync. A new client does not know who was here before.
    const isMissing = isAnother || (!this.#isLoaded && this.#load === null);
    if (recovered === undefined || (recovered && isMissing)) this.#reload();
  }

  #forgetError(error) {
    if (this.#error === error) this.#error = null;
  }

  #onClose(closed) {
    this.#forgetOthers();
    if (!closed.final) return;
    this.#closed = closed;
    this.#endLoading();
  }

  /** Nothing is known of others without a connection. */
  #forgetOthers() {
    for (const { timer } of this.#typists.values()) this.#timers.clearTimeout(timer);
    this.#typists.clear();
    this.#people = new Map();
  }

  // Messages -----------------------------------------------------------------------------------

  #onMessage(data) {
    this.#onTyping({ user_id: data.user_id, is_typing: false });
    this.#apply('add', data);
  }

  #apply(change, data) {
    this.#list[change](data);
    for (const { live } of this.#asked) live.push([change, data]);
    if (!(this.#asked[0]?.live.length > MOST_KEPT)) return;
    if (this.#asked.length > 1) this.#asked.shift();
    else this.reload();
  }

  #reload() {
    if (this.#options.history) void this.#tryToLoad(this.#startLoading(), 0);
  }

  #startLoading() {
    this.#stopLoading();
    return (this.#load = {});
  }

  /** What is shown may have missed something, and nothing brings it now. */
  #stopLoading() {
    this.#isLoaded = false;
    this.#endLoading();
  }

  #endLoading() {
    this.#load = null;
    this.#asked = [];
    this.#loading.stop();
    this.#timers.clearTimeout(this.#loadTimer);
  }

  async #tryToLoad(load, attempt) {
    try {
      await this.#ask(load);
    } catch (cause) {
      if (load !== this.#load) return;
      this.#error = cause;
      const again = () => this.#tryToLoad(load, attempt + 1);
      this.#loadTimer = this.#timers.setTimeout(again, this.#backOff(attempt));
    }
    this.#tell();
  }

  /** Ask for the history, and show it. Returns the answer; null where that is not wanted any more. */
  async #ask(load) {
    // Each answer has what came before it was asked for. That of the question before may still come.
    const asked = { live: [], settled: this.#list.settled() };
    this.#asked = [...this.#asked.slice(-1), asked];
    const late = (answer) => this.#showLate(answer, asked);
    try {
      const answer = await this.#loading.put((told) => this.#options.history(told), late);
      if (load !== this.#load) return null;
      this.#show(answer, asked);
      return answer;
    } catch (cause) {
      if (!(cause instanceof TooLate)) this.#asked = this.#asked.filter((one) => one !== asked);
      throw cause;
    }
  }

  #showLate(answer, asked) {
    if (!this.#asked.includes(asked)) return;
    this.#show(answer, asked);
    this.#tell();
  }

  #show(answer, { live, settled }) {
    this.#list.load(answer?.messages, settled);
    for (const [change, data] of live) this.#list[change](data);
    this.#error = null;
    this.#isLoaded = true;
    this.#endLoading();
    if (this.#list.isUnsettled) this.reload();
  }

  // Others -------------------------------------------------------------------------------------

  #onTyping({ user_id: id, username, is_typing: isTyping }) {
    this.#timers.clearTimeout(this.#typists.get(id)?.timer);
    if (!isTyping) {
      this.#typists.delete(id);
      return;
    }
    const timer = this.#timers.setTimeout(() => {
      this.#typists.delete(id);
      this.#tell();
    }, TYPIST_FORGOTTEN_AFTER);
    this.#typists.set(id, { typist: { user_id: id, username }, timer });
  }

  #onPresence(left, joined, people) {
    this.#people = new Map(people);
    for (const { user_id: id } of left) this.#people.delete(id);
    for (const one of joined) this.#people.set(one.user_id, one);
  }

  // The view -----------------------------------------------------------------------------------

  #picture() {
    const isWanted = Boolean(this.#options.botId);
    return {
      messages: this.#list.rows,
      typists: [...this.#typists.values()].map(({ typist }) => typist),
      people: [...this.#people.values()],
      state: this.#client?.state ?? (isWanted ? 'connecting' : 'idle'),
      failure: this.#client?.failure ?? null,
      closed: this.#closed,
      error: this.#error,
      isLoading: isWanted && Boolean(this.#options.history) && !this.#isLoaded && !this.#closed,
    };
  }

  #tell() {
    if (this.#tellTimer !== null) return;
    const wait = this.#toldAt + TELL_EVERY - this.#timers.now();
    if (wait <= 0) return this.#tellNow();
    this.#tellTimer = this.#timers.setTimeout(() => this.#tellNow(), wait);
  }

  #tellNow() {
    this.#tellTimer = null;
    // Views look at each part by its identity: what is as it was stays the same object.
    const picture = keptIn(this.#snapshot, this.#picture());
    if (picture === this.#snapshot) return;
    this.#toldAt = this.#timers.now();
    this.#snapshot = Object.freeze(picture);
    for (const listener of this.#listeners) listener();
  }
}
