/** Who is typing right now, in one line that is always there so that nothing jumps. */

import { element } from './dom.js';

/** The server tells of stops, within 6 s even of those who vanish; this is for a stop that was lost. */
const FORGOTTEN_AFTER = 10_000;
const MOST_NAMES = 3;

export class Typists {
  #box;
  #typing = new Map(); // user id → { username, timer }

  constructor(box) {
    this.#box = box;
  }

  update({ user_id: id, username, is_typing: isTyping }) {
    clearTimeout(this.#typing.get(id)?.timer);
    this.#typing.delete(id);
    if (isTyping) {
      const timer = setTimeout(
        () => this.update({ user_id: id, is_typing: false }),
        FORGOTTEN_AFTER,
      );
      this.#typing.set(id, { username, timer });
    }
    this.#draw();
  }

  /** Nothing is known of anyone while the connection is down. */
  clear() {
    for (const { timer } of this.#typing.values()) clearTimeout(timer);
    this.#typing.clear();
    this.#draw();
  }

  #draw() {
    const names = [...this.#typing.values()].map(({ username }) => username);
    if (names.length === 0) return this.#box.replaceChildren();
    const dots = element(
      'span',
      { class: 'dots', 'aria-hidden': 'true' },
      ...[1, 2, 3].map(() => element('i')),
    );
    this.#box.replaceChildren(dots, element('span', { dir: 'auto', text: sentence(names) }));
  }
}

function sentence(names) {
  if (names.length > MOST_NAMES) return `${names.length} people are typing`;
  const last = names.at(-1);
  const list = names.length === 1 ? last : `${names.slice(0, -1).join(', ')} and ${last}`;
  return `${list} ${names.length === 1 ? 'is' : 'are'} typing`;
}
