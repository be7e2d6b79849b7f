/** The inspector: one event in full, with where it came from, how large it is and how long it took. */

import { copy, copyButton, element, find, flash, left, preciseClock, setText } from './dom.js';
import { familyOf } from './words.js';

const MOST_JSON = 50_000;
const JSON_TOKENS = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(true|false|null|-?\d[\d.eE+-]*)\b/g;

export class Inspector {
  /** Called with -1 for the one before, 1 for the one after. */
  onstep = () => {};
  onclose = () => {};
  #box = find('inspector');
  #json = '';

  constructor() {
    find('inspect-before').addEventListener('click', () => this.onstep(-1));
    find('inspect-after').addEventListener('click', () => this.onstep(1));
    find('inspect-close').addEventListener('click', () => this.close());
    find('inspect-json').after(copyButton(() => this.#json, 'Copy'));
  }

  get isOpen() {
    return !this.#box.hidden;
  }

  /** @param {{message: object, source: string, bytes: number, at: number, shownAt: number}} event */
  show(event) {
    const { message } = event;
    this.#box.hidden = false;
    this.#box.dataset.family = familyOf(message.type);
    setText(find('inspect-type'), message.type);
    find('inspect-facts').replaceChildren(...facts(event).flatMap(row));
    this.#json = JSON.stringify(message, null, 2);
    const shown =
      this.#json.length > MOST_JSON ? `${this.#json.slice(0, MOST_JSON)}\n…` : this.#json;
    find('inspect-json').replaceChildren(...colouredJson(shown));
    find('inspect-json').scrollTop = 0;
  }

  close() {
    if (!this.isOpen) return;
    this.#box.hidden = true;
    this.onclose();
  }
}

/** Name, text and, where it is worth copying, the whole of it. */
function facts({ message, source, bytes, at, shownAt }) {
  return [
    ['id', message.id, message.id],
    ['came by', source === 'chat' ? 'the chat socket' : 'the notifications socket'],
    ['size', `${bytes.toLocaleString('en')} bytes`],
    ...times(message, at, shownAt),
    ['cursor', message.cursor, message.cursor],
  ].filter(([, text]) => text !== undefined);
}

/** Only what came from a row says when that was written; the rest has times of other kinds. */
function times({ id, timestamp }, at, shownAt) {
  const writtenAt = id === undefined ? NaN : Date.parse(timestamp);
  const isRow = !Number.isNaN(writtenAt);
  const since = (time) => (isRow ? ` · ${late(time - writtenAt)}` : '');
  return [
    ['written', isRow ? preciseClock(new Date(writtenAt)) : undefined],
    ['received', preciseClock(new Date(at)) + since(at)],
    ['shown', preciseClock(new Date(shownAt)) + since(shownAt)],
  ];
}

/** Two clocks are compared here, the database's and this computer's. */
function late(milliseconds) {
  if (milliseconds < 0) return 'by clocks that disagree';
  if (milliseconds >= 10_000) return `${left(milliseconds)} after`;
  return `${milliseconds.toFixed(milliseconds < 100 ? 1 : 0)} ms after`;
}

function row([name, text, whole]) {
  if (whole === undefined)
    return [element('dt', { text: name }), element('dd', { 'data-fact': name, text })];
  const button = element('button', {
    type: 'button',
    class: 'plain mono',
    title: `Copy the ${name}`,
    text,
  });
  button.addEventListener('click', async () => {
    if (await copy(whole)) flash(button, 'Copied');
  });
  return [element('dt', { text: name }), element('dd', { 'data-fact': name }, button)];
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
