/**
 * The messages of a bot, each once: from the history, from events, and one's own that are on their way.
 *
 * A row is the `data` of a chat_message with a `key`, which stays the same while an own message becomes
 * the server's. An own message has a `status` until the server has told of it. Where the API does not
 * say its id, it is known by its author and text; what turns out to be another's is given back.
 */

import { kept } from './alike.js';

const UNKNOWN = {
  session_id: null,
  user_id: null,
  username: null,
  content: '',
  role: 'user',
  timestamp: null,
};
const MEMBERS = ['message_id', ...Object.keys(UNKNOWN), 'metadata'];

export class MessageList {
  #me = null;
  #rows = new Map(); // key → row, in the order of the screen
  #keys = new Map(); // message id → key
  // key → one's own message: { row, status, id: where the API said it, after: the newest id that was shown
  // when it was sent, isOlder: than a history that was shown }
  #mine = new Map();
  #gone = new Set(); // ids of messages that are here no more: the API's answer may come later
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
    this.#arrange(this.rows.filter(({ status }) => !status), new Set());
    return isAnother;
  }

  #clear() {
    this.#rows.clear();
    this.#keys.clear();
    this.#mine.clear();
    this.#gone.clear();
  }

  /** The data of a chat_message. */
  add(data) {
    const key = this.#keys.get(data.message_id) ?? this.#ownKeyOf(data) ?? data.message_id;
    this.#put(key, complete(data));
    if (this.#rows.size > this.#most) this.#remove(this.#rows.keys().next().value);
  }

  /** The data of a chat_message_update. What it does not say stays. */
  update({ action, ...data }) {
    const key = this.#keys.get(data.message_id);
    if (action === 'deleted') this.#forget(data.message_id);
    if (key === undefined) return; // one about a message that is not here
    const { status, ...row } = this.#rows.get(key);
    if (action === 'deleted') this.#remove(key);
    else this.#put(key, { ...row, ...known(data) });
  }

  /** As `update`, by the page itself: of an own message the server has not told by that. */
  change({ action, ...data }) {
    const key = this.#keys.get(data.message_id);
    const own = this.#rows.get(key)?.status && this.#mine.get(key);
    if (!own || action === 'deleted') return this.update({ action, ...data });
    own.row = { ...own.row, ...known(data) };
    return this.#put(key, { ...this.#rows.get(key), ...known(data) });
  }

  /** The keys of own messages that were sent: a history that is asked for now has them, or they are gone. */
  settled() {
    return new Set(this.rows.filter(({ status }) => status === 'sent').map(({ key }) => key));
  }

  /**
   * Whether a history came while one of these was being sent, and does not have it: it was deleted before,
   * or written after. Only a history that is asked for now says which.
   */
  get isUnsettled() {
    return this.rows.some(({ key, status }) => status === 'sent' && this.#mine.get(key).isOlder);
  }

  /**
   * Show a history in place of all else, but one's own messages that the server has not told of.
   *
   * @param settled what `settled` gave when the history was asked for.
   */
  load(messages, settled = new Set()) {
    this.#arrange(messages, settled);
    for (const own of this.#mine.values()) own.isOlder = true;
  }

  #arrange(messages, settled) {
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
    const before = this.rows;
    this.#rows = new Map();
    this.#keys = new Map();
    const rows = new Map(before.map((row) => [row.key, row]));
    for (const [key, data] of shown) this.#put(key, complete(data), rows.get(key));
    for (const [key, row] of left) this.#put(key, row);
    for (const { message_id: id } of before) if (!this.#keys.has(id)) this.#forget(id);
    for (const key of [...this.#mine.keys()]) if (!this.#rows.has(key)) this.#lose(key);
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

  /** It was sent. The answer of the API may have its id, and then any other member of a chat_message, too. */
  sent(key, answer) {
    const own = this.#mine.get(key);
    if (!own) return; // it is gone
    own.status = 'sent';
    const said = membersOf(answer);
    own.row = { ...own.row, ...said };
    own.id = said.message_id;
    const shown = own.id === undefined ? undefined : this.#keys.get(own.id);
    if (!this.#rows.has(key)) return this.#sentUnseen(key);
    const isTold = !this.#rows.get(key).status;
    if (shown === key || (isTold && (own.id === undefined || shown !== undefined))) return;
    if (isTold) this.#handOver(key); // what was told was about another message
    else if (this.#mine.has(shown)) this.#handOver(shown, key);
    else this.#giveBack(key);
  }

  /** The row that was taken for it is gone: that was another's where the id of this one is another. */
  #sentUnseen(key) {
    if (this.#mine.get(key).id === undefined) this.#mine.delete(key);
    else this.#giveBack(key);
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

  /** Show an own message as it is without the server, unless its own row is here already, or was. */
  #giveBack(key) {
    const { row, status, id } = this.#mine.get(key);
    if (!this.#keys.has(id) && !this.#gone.has(id)) return this.#put(key, { ...row, status });
    this.#mine.delete(key);
    this.#rows.delete(key);
    return undefined;
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

  /** A row that is as it was stays the same object: views look at its identity. */
  #put(key, data, before = this.#rows.get(key)) {
    this.#keys.set(data.message_id, key);
    this.#rows.set(key, kept(before, { ...data, key }));
  }

  #remove(key) {
    const { message_id: id } = this.#rows.get(key);
    this.#keys.delete(id);
    this.#rows.delete(key);
    this.#forget(id);
    this.#lose(key);
  }

  /** The row of an own message is gone. While it is being sent, that may have been another's. */
  #lose(key) {
    if (this.#mine.get(key)?.status !== 'sending') this.#mine.delete(key);
  }

  #forget(id) {
    this.#gone.add(id);
    if (this.#gone.size > this.#most) this.#gone.delete(this.#gone.values().next().value);
  }
}

function complete(data) {
  return { ...UNKNOWN, metadata: {}, ...known(data) };
}

function known(data) {
  return Object.fromEntries(Object.entries(data).filter(([, value]) => value !== undefined));
}

/** What an answer says of the message. Without an id it may be about anything, such as a `Response`. */
function membersOf(answer) {
  const hasId = (answer?.message_id ?? null) !== null;
  return hasId ? known(Object.fromEntries(MEMBERS.map((name) => [name, answer[name]]))) : {};
}
