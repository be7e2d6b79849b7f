/** The stream: every message of both sockets as it came, one line each, its JSON on demand. */

import { copyButton, element, framed, Log, preciseClock } from './dom.js';
import { familyOf, gist } from './words.js';

const MOST_EVENTS = 500;
const MOST_JSON = 50_000;
const JSON_TOKENS = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(true|false|null|-?\d[\d.eE+-]*)\b/g;

export class EventStream {
  #log;
  #fresh = [];
  #draw = framed(() => this.#flush());

  constructor(box) {
    this.#log = new Log(box, MOST_EVENTS);
  }

  /** A message of the server. `source` is the socket that it came by. */
  message(message, source) {
    this.#push({
      type: message.type,
      family: familyOf(message.type),
      text: gist(message),
      message,
      source,
    });
  }

  /** Something that the client did or met itself. */
  lifecycle(type, text, source) {
    this.#push({ type, family: 'client', text, source });
  }

  clear() {
    this.#fresh = [];
    this.#log.clear();
  }

  #push(event) {
    this.#fresh.push({ ...event, at: new Date() });
    if (this.#fresh.length > MOST_EVENTS) this.#fresh.shift();
    this.#draw();
  }

  #flush() {
    const items = this.#fresh.splice(0).map(eventItem);
    this.#log.change((box) => box.append(...items));
  }
}

function eventItem(event) {
  const line = [
    element('time', { datetime: event.at.toISOString(), text: preciseClock(event.at) }),
    element('span', { class: 'chip', text: event.type }),
    element('span', { class: 'gist', text: event.text }),
    element('span', { class: 'id', text: event.message?.id ? `#${event.message.id}` : '' }),
  ];
  const attributes = {
    class: 'item event',
    'data-family': event.family,
    'data-type': event.type,
    'data-source': event.source,
  };
  if (!event.message) return element('div', attributes, element('div', { class: 'line' }, ...line));
  const details = element('details', attributes, element('summary', { class: 'line' }, ...line));
  details.addEventListener('toggle', () => showJson(details, event.message), { once: true });
  return details;
}

/** Built when first opened: most are never looked into. */
function showJson(details, message) {
  const json = JSON.stringify(message, null, 2);
  const shown = json.length > MOST_JSON ? `${json.slice(0, MOST_JSON)}\n…` : json;
  const pre = element('pre', { tabindex: '0', 'aria-label': 'The message' });
  pre.append(...colouredJson(shown));
  details.append(
    element(
      'div',
      { class: 'code' },
      pre,
      copyButton(() => json),
    ),
  );
}

function colouredJson(json) {
  const parts = [];
  let end = 0;
  for (const match of json.matchAll(JSON_TOKENS)) {
    const kind = match[2] ? 'key' : match[1] ? 'string' : 'keyword';
    parts.push(
      json.slice(end, match.index),
      element('span', { class: kind, text: match[1] ?? match[0] }),
    );
    end = match.index + (match[1] ?? match[0]).length;
  }
  return [...parts, json.slice(end)];
}
