/** Who is here: everyone with a socket on the bot, as presence_state and presence_diff tell it. */

import { element, hue } from './dom.js';

const MOST_SHOWN = 6;
/** With more than these there is no room for names. */
const MOST_NAMES = 3;

export class People {
  #box;
  #people = new Map(); // user id → username, in the order of their coming
  #me = null;

  constructor(box) {
    this.#box = box;
  }

  set me(userId) {
    this.#me = userId;
    this.#draw();
  }

  state({ users }) {
    this.#people = new Map(users.map(({ user_id: id, username }) => [id, username]));
    this.#draw();
  }

  diff({ joined, left }) {
    for (const { user_id: id } of left) this.#people.delete(id);
    for (const { user_id: id, username } of joined) this.#people.set(id, username);
    this.#draw();
  }

  /** Nothing is known of anyone while the connection is down. */
  clear() {
    this.#people.clear();
    this.#draw();
  }

  #draw() {
    const all = [...this.#people];
    const more = all.length - MOST_SHOWN;
    this.#box.hidden = all.length === 0;
    this.#box.dataset.size = all.length > MOST_NAMES ? 'crowd' : 'few';
    this.#box.replaceChildren(
      ...all.slice(0, MOST_SHOWN).map(([id, username]) => this.#person(id, username)),
      ...(more > 0 ? [element('li', { class: 'more', text: `and ${more} more` })] : []),
    );
  }

  #person(id, username) {
    const name = id === this.#me ? `${username} (you)` : username;
    const initial = [...username][0]?.toUpperCase() ?? '?';
    const item = element(
      'li',
      { title: name },
      element('span', { class: 'face', 'aria-hidden': 'true', text: initial }),
      element('span', { class: 'name', dir: 'auto', text: name }),
    );
    item.style.setProperty('--hue', hue(id));
    return item;
  }
}
