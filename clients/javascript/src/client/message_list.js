/**
 * The messages of a bot, each once: from the history, from events, and one's own that are on their way.
 *
 * A row is the `data` of a chat_message with a `key`, which stays the same while an own message becomes
 * the server's. An own message has a `status` until the server has told of it.
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
  /** The user whose messages may be one's own. */
  me = null;
  #rows = new Map(); // key → row, in the order of the screen
  #keys = new Map(); // message id → key
  #most;
  #own = 0;

  constructor(most = 10_000) {
    this.#most = most;
  }

  get rows() {
    return [...this.#rows.values()];
  }

  /** The data of a chat_message, or a row of the history. */
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

  /** Show a history in place of all else, but one's own messages that the server has not told of. */
  load(messages) {
    const own = this.rows.filter(({ status }) => status);
    const keys = this.#keys;
    this.#rows = new Map(own.map((row) => [row.key, row]));
    this.#keys = new Map([...keys].filter(([, key]) => this.#rows.has(key)));
    const shown = messages.map((data) => {
      const key = keys.get(data.message_id) ?? this.#ownKeyOf(data) ?? data.message_id;
      this.#rows.delete(key);
      return [key, data];
    });
    const left = this.rows;
    this.#rows = new Map();
    for (const [key, data] of shown) this.#put(key, complete(data));
    for (const row of left) this.#rows.set(row.key, row);
  }

  // One's own ----------------------------------------------------------------------------------

  /** A message that is being sent; returns its key. */
  send(content, username) {
    const key = `own-${(this.#own += 1)}`;
    const row = { ...complete({ message_id: key, content }), user_id: this.me, username };
    this.#rows.set(key, { ...row, key, status: 'sending' });
    return key;
  }

  /** It was sent, and has this id where the API says so. */
  sent(key, id) {
    const row = this.#rows.get(key);
    if (!row?.status) return; // the server has told of it already
    const shown = id === undefined ? undefined : this.#keys.get(id);
    // The event came first and its text was another, so that it was not taken for this one.
    if (shown === id && id !== undefined) return this.#remove(key);
    const isNamed = id !== undefined && shown === undefined;
    if (isNamed) this.#keys.set(id, key);
    this.#rows.set(key, { ...row, ...(isNamed && { message_id: id }), status: 'sent' });
  }

  failed(key) {
    const row = this.#rows.get(key);
    if (row?.status) this.#rows.set(key, { ...row, status: 'failed' });
  }

  /** Remove an own message that was not sent. */
  discard(key) {
    if (this.#rows.get(key)?.status) this.#remove(key);
  }

  /** The oldest own message that this may be, of those that have no id yet. */
  #ownKeyOf({ user_id: author = null, content, role = 'user' }) {
    if (role !== 'user' || (author !== null && author !== this.me)) return undefined;
    for (const row of this.#rows.values()) {
      if (row.status && row.message_id === row.key && row.content === content) return row.key;
    }
    return undefined;
  }

  #put(key, data) {
    this.#keys.set(data.message_id, key);
    this.#rows.set(key, { ...data, key });
  }

  #remove(key) {
    this.#keys.delete(this.#rows.get(key).message_id);
    this.#rows.delete(key);
  }
}

function complete(data) {
  return { ...UNKNOWN, metadata: {}, ...data };
}
