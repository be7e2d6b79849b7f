/** The stream: every message of both sockets as it came, a line each; the inspector shows all of it. */

import { element, framed, Log, preciseClock } from './dom.js';
import { familyOf, gist } from './words.js';

const MOST_EVENTS = 500;
const STEPS = { ArrowUp: -1, ArrowDown: 1 };

export class EventStream {
  #box;
  #log;
  #inspector;
  #nameOf;
  #events = new WeakMap(); // item → event
  #selected = null;
  #fresh = [];
  #draw = framed(() => this.#flush());

  /**
   * @param {import('./inspector.js').Inspector} inspector
   * @param {(userId: string) => string} nameOf
   */
  constructor(box, inspector, nameOf) {
    this.#nameOf = nameOf;
    this.#box = box;
    this.#log = new Log(box, MOST_EVENTS);
    this.#log.isHeld = () => inspector.isOpen;
    this.#inspector = inspector;
    inspector.onstep = (step) => this.#inspect(this.#beside(step));
    inspector.onclose = () => this.#unselect();
    box.addEventListener('click', ({ target }) => this.#inspect(target.closest('.event')));
    // On what is around both, so that Escape works from within the inspector too.
    box.parentElement.addEventListener('keydown', (event) => this.#onKey(event));
  }

  /** A message of the server. `source` is the socket that it came by, `bytes` its frame's size. */
  message(message, source, bytes) {
    this.#push({
      type: message.type,
      family: familyOf(message.type),
      text: gist(message, this.#nameOf),
      message,
      source,
      bytes,
    });
  }

  /** Something that the client did or met itself. */
  lifecycle(type, text, source) {
    this.#push({ type, family: 'client', text, source });
  }

  clear() {
    this.#fresh = [];
    this.#inspector.close();
    this.#log.clear();
  }

  #push(event) {
    this.#fresh.push({ ...event, at: now() });
    if (this.#fresh.length > MOST_EVENTS) this.#fresh.shift();
    this.#draw();
  }

  #flush() {
    const fresh = this.#fresh.splice(0);
    const items = fresh.map(eventItem);
    this.#log.change((box) => box.append(...items));
    const shownAt = now();
    for (const [index, item] of items.entries()) {
      this.#events.set(item, Object.assign(fresh[index], { shownAt }));
    }
  }

  // Choosing one -------------------------------------------------------------------------------

  #onKey(event) {
    if (event.key === 'Escape') {
      if (this.#inspector.isOpen) this.#close();
      return;
    }
    const isInList = this.#box.contains(event.target);
    if (!isInList || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in STEPS) this.#walk(event, STEPS[event.key]);
    else if (event.key === 'Enter' && event.target === this.#box) this.#walk(event, 1, true);
  }

  /** The arrow keys go from line to line; what is open follows them. */
  #walk(event, step, opens = this.#inspector.isOpen) {
    const item = this.#beside(step, event.target.closest('.event'));
    if (!item) return;
    event.preventDefault();
    item.querySelector('.line').focus();
    if (opens) this.#inspect(item);
  }

  /** The next line in that direction that there is something to show of; the newest to begin with. */
  #beside(step, from = this.#selected) {
    const items = [...this.#box.querySelectorAll('.event:has(button)')].filter(isVisible);
    const place = items.indexOf(from);
    return place < 0 ? items.at(-1) : items[place + step];
  }

  #inspect(item) {
    const event = this.#events.get(item);
    if (!event?.message) return;
    this.#mark(item);
    this.#log.hold(item, () => this.#inspector.show(event));
  }

  #close() {
    const line = this.#selected?.querySelector('.line');
    this.#inspector.close();
    if (line?.isConnected) line.focus();
    else this.#box.focus();
  }

  #unselect() {
    this.#mark(null);
    this.#log.release();
  }

  #mark(item) {
    this.#selected?.querySelector('.line').removeAttribute('aria-current');
    item?.querySelector('.line').setAttribute('aria-current', 'true');
    this.#selected = item;
  }
}

function now() {
  return performance.timeOrigin + performance.now();
}

function isVisible(item) {
  return item.offsetParent !== null;
}

/** An id's first part: its second one, the time, is beside it anyway. */
function number(id) {
  return id === undefined ? '' : `#${String(id).split('-')[0]}`;
}

function eventItem(event) {
  const at = new Date(event.at);
  const line = [
    element('time', { datetime: at.toISOString(), text: preciseClock(at) }),
    element('span', { class: 'chip', text: event.type }),
    element('span', { class: 'gist', dir: 'auto', text: event.text }),
    element('span', { class: 'id', text: number(event.message?.id) }),
  ];
  const attributes = {
    class: 'item event',
    'data-family': event.family,
    'data-type': event.type,
    'data-source': event.source,
  };
  // One stop of the Tab key for the whole list: the arrow keys lead through it.
  const isWhole = Boolean(event.message);
  const shown = isWhole
    ? element('button', { type: 'button', class: 'line', tabindex: '-1' }, ...line)
    : element('div', { class: 'line' }, ...line);
  return element('div', attributes, shown);
}
