/** The top of the page: the state of the connection in a colour and words, and the facts below it. */

import { copy, find, flash, left, setText, short } from './dom.js';
import { closed } from './words.js';

const WORDS = {
  idle: 'Not connected',
  connecting: 'Connecting…',
  open: 'Live',
  reconnecting: 'Reconnecting',
  closed: 'Closed',
};
const BUTTONS = {
  connecting: 'Disconnect',
  open: 'Disconnect',
  reconnecting: 'Try now',
  closed: 'Reconnect',
};

export class Status {
  #retryAt = null;
  #expiresAt = null;
  #cursor = null;
  #close = null;
  #notReady = null; // why the server cannot do its work, though the connection is open
  #title = 'Rowcast console';
  #counts = { events: 0, reconnects: 0, notifications: 0 };

  constructor() {
    find('cursor').addEventListener('click', () => this.#copyCursor());
    setInterval(() => this.#tick(), 100);
  }

  state(state) {
    document.body.dataset.state = state;
    document.body.toggleAttribute('data-not-ready', this.#isHeldUp(state));
    setText(find('state-word'), this.#isHeldUp(state) ? 'Server not ready' : WORDS[state]);
    setText(find('toggle'), BUTTONS[state] ?? 'Connect');
    setText(find('state-detail'), this.#detail(state));
    if (state !== 'reconnecting') this.#retryAt = null;
    this.#showTitle(state);
    this.#tick();
  }

  /** Why the server cannot do its work, in its words; null: it can. */
  server(reason) {
    if (reason === this.#notReady) return;
    this.#notReady = reason;
    if (document.body.dataset.state === 'open') this.state('open');
  }

  reconnecting({ attempt, delay }) {
    this.#retryAt = performance.now() + delay;
    this.#count('reconnects');
    setText(find('state-detail'), `attempt ${attempt} · ${this.#detail('reconnecting')}`);
    this.#tick();
  }

  close(close) {
    this.#close = close;
    if (close.final) setText(find('state-detail'), this.#detail('closed'));
  }

  notifications(state) {
    setText(find('notifications-state'), state === 'open' ? 'live' : WORDS[state].toLowerCase());
  }

  bot(name, id) {
    this.#title = `${name} · Rowcast`;
    setText(find('bot-name'), name);
    setText(find('bot-id'), id);
    this.#showTitle(document.body.dataset.state);
  }

  me({ name, id, role }) {
    setText(find('me'), name ?? short(id));
    find('me').title = id;
    find('role').hidden = !role;
    setText(find('role'), role ?? '');
  }

  expires(at) {
    this.#expiresAt = at ? Date.parse(at) : null;
    this.#tick();
  }

  latency(milliseconds) {
    setText(
      find('latency'),
      milliseconds < 10 ? `${milliseconds.toFixed(1)} ms` : `${Math.round(milliseconds)} ms`,
    );
  }

  /** Short enough to read: the cursor's beginning is its database, so its end is what moves. */
  cursor(cursor) {
    if (!cursor || cursor === this.#cursor) return;
    this.#cursor = cursor;
    const text = cursor.length > 20 ? `${cursor.slice(0, 6)}…${cursor.slice(-11)}` : cursor;
    find('cursor').disabled = false;
    delete find('cursor').dataset.label;
    setText(find('cursor'), text);
  }

  /** A message came: the lamp blinks. */
  event(isNotification) {
    this.#count('events');
    if (isNotification) this.#count('notifications');
    const [blink] = find('lamp').getAnimations();
    if (blink) blink.currentTime = 0;
    else
      find('lamp').animate([{ scale: 1.5 }, { scale: 1 }], { duration: 300, easing: 'ease-out' });
  }

  #count(name) {
    this.#counts[name] += 1;
    setText(find(`count-${name}`), this.#counts[name].toLocaleString('en'));
  }

  #isHeldUp(state) {
    return state === 'open' && this.#notReady !== null;
  }

  #detail(state) {
    if (this.#isHeldUp(state)) return this.#notReady;
    const isDown = state === 'closed' || state === 'reconnecting';
    return isDown && this.#close ? closed(this.#close) : '';
  }

  #showTitle(state) {
    const isLive = state === 'open' && !this.#isHeldUp(state);
    document.title = `${isLive ? '●' : '○'} ${this.#title}`;
  }

  async #copyCursor() {
    if (await copy(this.#cursor)) flash(find('cursor'), 'Copied');
  }

  #tick() {
    const wait =
      this.#retryAt === null
        ? ''
        : `${(Math.max(0, this.#retryAt - performance.now()) / 1000).toFixed(1)} s`;
    setText(find('countdown'), wait);
    if (this.#expiresAt !== null) {
      const remaining = this.#expiresAt - Date.now();
      setText(find('token-left'), remaining > 0 ? left(remaining) : 'expired');
    }
  }
}
