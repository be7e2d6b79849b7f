/** Notifications, shown for a while at the corner. */

import { arrive, element } from './dom.js';

const MOST = 3;
const SHOWN_FOR = 7_000;

export class Toasts {
  #box;

  constructor(box) {
    this.#box = box;
  }

  show(title, text) {
    const toast = element(
      'div',
      { class: 'toast' },
      element('strong', { dir: 'auto', text: title }),
      element('span', { dir: 'auto', text }),
    );
    this.#box.append(toast);
    arrive(toast);
    while (this.#box.children.length > MOST) this.#box.firstChild.remove();
    setTimeout(() => toast.remove(), SHOWN_FOR);
  }
}
