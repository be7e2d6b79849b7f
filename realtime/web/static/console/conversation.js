/**
 * The conversation: bubbles that come with chat_message, change with chat_message_update, notes of what
 * else happened to the bot, and ghosts: what was typed here and waits for someone to commit it.
 */

import { arrive, clock, copyButton, element, framed, hue, Log, setText } from './dom.js';
import { coloured } from './sql_panel.js';

const MOST_ITEMS = 500;
const MOST_GHOSTS = 3;
/** Edits that follow one another this fast are an answer being written. */
const STREAMING_FOR = 1_200;
/** What one person says within this goes under one name. */
const ONE_BREATH = 120_000;
/** More than this at once is a flood, which needs no manners. */
const MOST_ARRIVALS = 8;

export class Conversation {
  #log;
  #empty;
  #counter;
  #me = null;
  #messages = new Map(); // message id → { data, state, item, … }, oldest first, as many as are shown
  #fresh = []; // what the next frame appends: entries and notes, in the order of their coming
  #changed = new Set();
  #ghosts = [];
  #total = 0; // also those that had to go
  #last = null; // who spoke last, and when: what follows at once needs no name
  #draw = framed(() => this.#flush());

  constructor({ box, empty, counter }) {
    this.#log = new Log(box, MOST_ITEMS);
    this.#empty = empty;
    this.#counter = counter;
  }

  set me(userId) {
    this.#me = userId;
  }

  add(data) {
    this.#land(data);
    if (this.#messages.has(data.message_id)) return;
    const entry = { data, state: 'live', item: null };
    this.#remember(data.message_id, entry);
    this.#append({ entry });
  }

  /** What was said before, oldest first, in place of all that is shown but notes and ghosts. */
  load(messages) {
    this.#clearMessages();
    for (const data of messages) this.add(data);
  }

  update(data) {
    const entry = this.#messages.get(data.message_id);
    if (data.action === 'deleted') return entry && this.#change(entry, { state: 'deleted' });
    if (!entry) return this.#addEdited(data);
    this.#change(entry, { data, state: 'edited', editedAt: performance.now() });
  }

  /** A line about what else happened. */
  note(text) {
    this.#append({ note: text });
  }

  /** Show what was typed until a row with that text is committed: by its SQL, or by being sent. */
  ghost(text, sql) {
    const item = ghostItem(text, sql, () => this.#dropGhost(item));
    this.#showGhost(text, item);
  }

  /** The same where it is being sent; the function that is returned says that it was not. */
  pending(text, sendAgain) {
    const when = element('p', { class: 'when', role: 'status' }, 'Sending…');
    const bubble = element('div', { class: 'bubble', dir: 'auto', text });
    const item = element('article', { class: 'ghost' }, bubble, when);
    this.#showGhost(text, item);
    const retry = () => {
      when.replaceChildren('Sending…');
      sendAgain();
    };
    return (why) =>
      when.replaceChildren(
        element('span', { class: 'trouble', text: `Not sent: ${why}.` }),
        linkButton('Retry', retry),
        linkButton('Dismiss', () => this.#dropGhost(item)),
      );
  }

  #showGhost(text, item) {
    this.#ghosts.push({ text, item });
    while (this.#ghosts.length > MOST_GHOSTS) this.#ghosts.shift().item.remove();
    this.#empty.hidden = true;
    this.#log.change((box) => box.append(item));
    arrive(item);
  }

  /** For another bot. */
  clear() {
    this.#clearMessages();
    this.#ghosts = [];
    this.#empty.hidden = false;
    setText(this.#counter, '');
  }

  #clearMessages() {
    this.#log.clear();
    this.#log.change((box) => box.append(...this.#ghosts.map(({ item }) => item)));
    this.#fresh = [];
    this.#changed.clear();
    this.#messages.clear();
    this.#total = 0;
    this.#last = null;
  }

  // An edit of what was said before this page was opened.
  #addEdited(data) {
    const entry = { data, state: 'edited', item: null };
    this.#remember(data.message_id, entry);
    this.#append({ entry });
  }

  #remember(id, entry) {
    this.#messages.set(id, entry);
    this.#total += 1;
    if (this.#messages.size > MOST_ITEMS) this.#messages.delete(this.#messages.keys().next().value);
  }

  #append(item) {
    this.#fresh.push(item);
    if (this.#fresh.length > MOST_ITEMS) this.#fresh.shift();
    this.#draw();
  }

  #change(entry, changes) {
    Object.assign(entry, changes);
    this.#changed.add(entry);
    this.#draw();
  }

  #land({ user_id: author, content }) {
    const ghost = author === this.#me && this.#ghosts.find(({ text }) => text === content);
    if (ghost) this.#dropGhost(ghost.item);
  }

  #dropGhost(item) {
    this.#ghosts = this.#ghosts.filter((ghost) => ghost.item !== item);
    item.remove();
  }

  #flush() {
    const fresh = this.#fresh.splice(0);
    if (fresh.length + this.#changed.size === 0) return;
    this.#log.change((box) => {
      const items = fresh.map((item) => this.#build(item));
      const firstGhost = this.#ghosts[0]?.item;
      if (firstGhost) firstGhost.before(...items);
      else box.append(...items);
      if (items.length <= MOST_ARRIVALS) items.forEach(arrive);
      for (const entry of this.#changed) if (entry.item) this.#fill(entry);
    });
    this.#changed.clear();
    this.#empty.hidden = true;
    setText(this.#counter, count(this.#messages.size, this.#total));
  }

  #build({ entry, note }) {
    if (!entry) {
      this.#last = null;
      return element('p', { class: 'item note', dir: 'auto', text: note });
    }
    entry.item = this.#bubble(entry.data);
    this.#fill(entry);
    return entry.item;
  }

  #bubble({ user_id: author, username, role, timestamp }) {
    const at = new Date(timestamp);
    const speaker = `${role} ${author}`;
    const isSame = speaker === this.#last?.speaker && at - this.#last.at < ONE_BREATH;
    this.#last = { speaker, at };
    const isMine = author === this.#me && role === 'user';
    const item = element(
      'article',
      { class: `item message ${roleClass(role)} ${isMine ? 'mine' : ''} ${isSame ? 'same' : ''}` },
      element(
        'p',
        { class: 'by' },
        element('strong', {
          class: 'name',
          dir: 'auto',
          text: speakerName(role, username, isMine),
        }),
        element('time', { datetime: timestamp, text: clock(at) }),
      ),
      element('div', { class: 'bubble', dir: 'auto', title: at.toLocaleString() }),
    );
    item.style.setProperty('--hue', hue(author));
    return item;
  }

  #fill(entry) {
    const { item, state, data, editedAt } = entry;
    const isDeleted = state === 'deleted';
    item.dataset.state = state;
    setText(item.querySelector('.bubble'), isDeleted ? 'This message was deleted.' : data.content);
    if (editedAt !== undefined && !isDeleted) this.#showStreaming(entry);
    else item.classList.remove('streaming');
  }

  #showStreaming(entry) {
    clearTimeout(entry.streamTimer);
    entry.item.classList.toggle('streaming', entry.data.role === 'assistant');
    // The word "edited" in the place of the caret may need a line more.
    const settle = () => this.#log.change(() => entry.item.classList.remove('streaming'));
    entry.streamTimer = setTimeout(settle, STREAMING_FOR);
  }
}

function ghostItem(text, sql, dismiss) {
  const code = element('code');
  code.append(...coloured(sql));
  return element(
    'article',
    { class: 'ghost' },
    element('div', { class: 'bubble', dir: 'auto', text }),
    element(
      'div',
      { class: 'code' },
      element('pre', { tabindex: '0', 'aria-label': 'The SQL of this message' }, code),
      copyButton(() => sql),
    ),
    element(
      'p',
      { class: 'when' },
      element('span', { text: 'Paste this into psql: it turns solid when it commits.' }),
      linkButton('Dismiss', dismiss),
    ),
  );
}

function linkButton(text, onclick) {
  return element('button', { type: 'button', class: 'plain link-like', text, onclick });
}

function roleClass(role) {
  return ['user', 'assistant', 'system'].includes(role) ? role : 'system';
}

function speakerName(role, username, isMine) {
  if (role === 'assistant') return 'assistant';
  if (role === 'system') return 'system';
  return isMine ? `${username} (you)` : username;
}

function count(shown, total) {
  if (total > shown) return `${shown} of ${total.toLocaleString('en')} messages`;
  return shown === 1 ? '1 message' : `${shown} messages`;
}
