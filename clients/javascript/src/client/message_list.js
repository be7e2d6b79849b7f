/**
 * The messages of a bot, each once: from the history, from events, and one's own that are on their way.
 *
 * A row is the `data` of a chat_message with a `key`, which stays the same while an own message becomes
 * the server's. An own message has a `status` until the server has told of it. Where the API does not
 * say its id, it is known by its author and text; what turns out to be another's is given back.
 */

const UNKNOWN = {
  session_id: null,
  user_id: null,
  username: null,
  content: '',
  role: 'user',
  timestamp: null,
};

export class MessageList {
  #me = null;
  #rows = new Map(); // key → row, in the order of the screen
  #keys = new Map(); // message id → key
  // key → one's own message: { row, status, after: the newest id that was shown then, lost: the id of
  // the row that was taken for it, where that is gone }
  #mine = new Map();
  #most;
  #own = 0;

  constructor(most = 10_000) {
    this.#most = most;
  }

  get rows() {
    return [...this.#rows.values()];
  }

  /** The user whose messages may be one's own; null: not known yet. */
  get me() {
    return this.#me;
  }

  /**
   * Now it is known; the history may have come before. True where another person has signed in: what
   * was shown to the one before is gone.
   */
  identify(me) {
    if (me === null || me === this.#me) return false;
    const isAnother = this.#me !== null;
    this.#me = me;
    if (isAnother) this.#clear();
    this.#keys = new Map([...this.#keys].filter(([id, key]) => key !== id));
    this.load(this.rows.filter(({ status }) => !status));
    return isAnother;
  }

  #clear() {
    this.#rows.clear();
    this.#keys.clear();
    this.#mine.clear();
  }

  /** The data of a chat_message. */
  add(data) {
    const key = this.#keys.get(data.message_id) ?? this.#ownKeyOf(data) ?? data.message_id;
    this.#put(key, complete(data));
    if (this.#rows.size > this.#most) this.#remove(this.#rows.keys().next().value);
  }

  /** The data of a chat_message_update. One about a message that is not here changes nothing. */
  update({ action, ...data }) {
    const key = this.#keys.get(data.message_id);
    if (key === undefined) return;
    if (action === 'deleted') this.#remove(key);
    else this.#put(key, complete(data));
  }

  /** The keys of own messages that were sent: a history that is asked for now has them, or they are gone. */
  settled() {
    return new Set(this.rows.filter(({ status }) => status === 'sent').map(({ key }) => key));
  }

  /**
   * Show a history in place of all else, but one's own messages that the server has not told of.
   *
   * @param settled what `settled` gave when the history was asked for.
   */
  load(messages, settled = new Set()) {
    if (!Array.isArray(messages)) throw new TypeError('history gave no list of messages');
    const places = new Map(messages.map(({ message_id: id }, place) => [id, place]));
    const left = new Map(this.rows.filter(({ status }) => status).map((row) => [row.key, row]));
    const shown = messages.map((data, place) => {
      const isLater = (key) => this.#isLater(this.#mine.get(key), data, place, places);
      const key = this.#keys.get(data.message_id) ?? this.#ownKeyOf(data, left, isLater);
      left.delete(key);
      return [key ?? data.message_id, data];
    });
    for (const key of settled) if (left.get(key)?.status === 'sent') left.delete(key);
    const before = this.#rows;
    this.#rows = new Map();
    this.#keys = new Map();
    for (const [key, data] of shown) this.#put(key, complete(data));
    for (const [key, row] of left) this.#put(key, row);
    for (const key of [...this.#mine.keys()])
      if (!this.#rows.has(key)) this.#lose(key, before.get(key)?.message_id);
  }

  /** Whether a message of the history may be the own one: one that was there before is another. */
  #isLater({ after }, { user_id: author }, place, places) {
    if (after === null) return author === this.#me && author !== null;
    return !places.has(after) || places.get(after) < place;
  }

  // One's own ----------------------------------------------------------------------------------

  /** A message that is being sent; returns its key. */
  send(content, username) {
    const key = `own-${(this.#own += 1)}`;
    const row = { ...complete({ message_id: key, content }), user_id: this.#me, username, key };
    const told = this.rows.filter(({ status }) => !status);
    const after = told.length > 0 ? told[told.length - 1].message_id : null;
    this.#mine.set(key, { row, status: 'sending', after });
    this.#giveBack(key);
    return key;
  }

  /** It was sent, and has this id where the API says so. */
  sent(key, id) {
    const own = this.#mine.get(key);
    if (!own) return; // it is gone
    own.status = 'sent';
    const shown = id === undefined ? undefined : this.#keys.get(id);
    if (!this.#rows.has(key)) return this.#sentUnseen(key, id);
    const isTold = !this.#rows.get(key).status;
    if (shown === key || (isTold && (id === undefined || shown !== undefined))) return;
    if (isTold) this.#handOver(key); // what was told was about another message
    if (this.#mine.has(shown)) return this.#handOver(shown, key);
    // The event came first and its text was another, so that it was not taken for this one.
    if (shown !== undefined) return this.#remove(key);
    if (id !== undefined) own.row = { ...own.row, message_id: id };
    this.#giveBack(key);
  }

  /** The row that was taken for it is gone: that was another's where the id of this one is another. */
  #sentUnseen(key, id) {
    const own = this.#mine.get(key);
    if (id === undefined || id === own.lost || this.#keys.has(id)) return this.#mine.delete(key);
    own.row = { ...own.row, message_id: id };
    return this.#giveBack(key);
  }

  failed(key) {
    const own = this.#mine.get(key);
    if (!own) return;
    own.status = 'failed';
    const isTold = this.#rows.has(key) && !this.#rows.get(key).status;
    if (isTold) this.#handOver(key); // what was told was about another message
    else this.#giveBack(key);
  }

  /** Remove an own message that was not sent. */
  discard(key) {
    if (!this.#rows.get(key)?.status) return;
    this.#remove(key);
    this.#mine.delete(key);
  }

  /** Show an own message as it is without the server. */
  #giveBack(key) {
    const { row, status } = this.#mine.get(key);
    this.#put(key, { ...row, status });
  }

  /** The message that was taken for an own one is another's: of one that is alike, or of nobody here. */
  #handOver(from, to = this.#ownKeyOf(this.#rows.get(from))) {
    const told = this.#rows.get(from);
    const entries = [...this.#rows];
    if (to === undefined) {
      // It stays where it is; what was not told is the newest.
      const place = entries.findIndex(([key]) => key === from);
      entries[place] = [told.message_id, told];
      this.#rows = new Map(entries);
    }
    this.#put(to ?? told.message_id, told);
    this.#giveBack(from);
  }

  /** The oldest own message that this may be, of those that have no id and did not fail. */
  #ownKeyOf({ user_id: author = null, content, role = 'user' }, rows = this.#rows, may = () => true) {
    if (role !== 'user' || (author !== null && author !== this.#me)) return undefined;
    for (const row of rows.values()) {
      const isOpen = row.status && row.status !== 'failed' && row.message_id === row.key;
      if (isOpen && row.content === content && may(row.key)) return row.key;
    }
    return undefined;
  }

  #put(key, data) {
    this.#keys.set(data.message_id, key);
    this.#rows.set(key, { ...data, key });
  }

  #remove(key) {
    const { message_id: id } = this.#rows.get(key);
    this.#keys.delete(id);
    this.#rows.delete(key);
    this.#lose(key, id);
  }

  /** The row of an own message is gone. While it is being sent, that may have been another's. */
  #lose(key, id) {
    const own = this.#mine.get(key);
    if (own?.status === 'sending') own.lost = id ?? own.lost;
    else this.#mine.delete(key);
  }
}

function complete(data) {
  const known = Object.entries(data).filter(([, value]) => value !== undefined);
  return { ...UNKNOWN, metadata: {}, ...Object.fromEntries(known) };
}
