/** The table of who is connected, for administrators: a page at a time, kept fresh while it is shown. */

import { element, find, left, setText, short } from './dom.js';
import { head, rowOf } from './tables.js';

const PAGE = 25;
const COLUMNS = [
  ['Who'],
  ['Watches'],
  ['For'],
  ['Process', null, 'minor'],
  ['Socket', null, 'minor'],
];

export class Connections {
  #ask;
  #mine = new Set();
  #botId = '';
  #pages = [null]; // what each page up to this one began after
  #next = null;
  #isRefused = false;

  /** @param {(path: string) => Promise<object>} ask  gets JSON with the reader's token */
  constructor(ask) {
    this.#ask = ask;
    find('connections-next').addEventListener('click', () => this.#turn(1));
    find('connections-back').addEventListener('click', () => this.#turn(-1));
  }

  /** For another token, which may be an administrator's. */
  reset(botId) {
    this.#botId = botId;
    this.#pages = [null];
    this.#isRefused = false;
    this.#mine.clear();
  }

  /** One of this page's own sockets was let in. */
  mine(connectionId) {
    this.#mine.add(connectionId);
  }

  async refresh() {
    if (this.#isRefused) return;
    const after = this.#pages.at(-1);
    const answer = await this.#ask(
      `api/ws/connections?limit=${PAGE}${after ? `&after=${after}` : ''}`,
    );
    if (answer.status === 403) this.#refused();
    else if (answer.status === 200 && after === this.#pages.at(-1)) this.#show(answer.body);
  }

  async #turn(step) {
    if (step > 0 && this.#next) this.#pages.push(this.#next);
    else if (step < 0 && this.#pages.length > 1) this.#pages.pop();
    else return;
    await this.refresh();
  }

  #refused() {
    this.#isRefused = true;
    find('connections-box').hidden = true;
    find('connections-why').hidden = false;
  }

  #show({ connection_metadata: sockets, next }) {
    this.#next = next;
    const rows = Object.entries(sockets).map(([id, socket]) => this.#row(id, socket));
    find('connections-box').hidden = false;
    find('connections-why').hidden = true;
    find('connections').replaceChildren(head(COLUMNS), element('tbody', {}, ...rows));
    const first = (this.#pages.length - 1) * PAGE;
    setText(
      find('connections-page'),
      rows.length === 0 ? 'nobody' : `${first + 1} to ${first + rows.length}`,
    );
    find('connections-pages').hidden = this.#pages.length === 1 && next === null;
    // Not `disabled`, which would take the keyboard's focus away with it.
    find('connections-back').setAttribute('aria-disabled', String(this.#pages.length === 1));
    find('connections-next').setAttribute('aria-disabled', String(next === null));
  }

  #row(id, { username, user_id: userId, bot_id: bot, connected_at: since, node }) {
    const who = element('span', { class: 'who-name', title: userId, text: username });
    const cells = [
      who,
      this.#watched(bot),
      left(Date.now() - Date.parse(since)),
      code(node),
      code(id),
    ];
    const row = rowOf(cells.map((cell, column) => [cell, COLUMNS[column][2]]));
    row.dataset.connection = id;
    if (this.#mine.has(id))
      row.firstChild.append(element('span', { class: 'badge', text: 'this page' }));
    return row;
  }

  #watched(bot) {
    if (bot === null) return 'notifications';
    return bot === this.#botId ? 'this bot' : code(bot);
  }
}

function code(id) {
  return element('code', { text: short(id), title: id });
}
