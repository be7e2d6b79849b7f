/** The table of who is connected, for administrators: a page at a time, kept fresh while it is shown. */

import { confirmed } from './confirm.js';
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
const ACTIONS = {
  disconnect: {
    label: 'Disconnect',
    title: 'Disconnect this socket?',
    text: (name) =>
      `All sockets that ${name} has on the same bot are closed. Clients come back at once.`,
  },
  eject: {
    label: 'Eject',
    title: 'Eject this user?',
    text: (name) =>
      `relay.eject closes every socket of ${name}. Whoever still has access comes back; take the permission away first to keep them out.`,
  },
};

export class Connections {
  #ask;
  #demo;
  #mine = new Set();
  #botId = '';
  #userId = '';
  #pages = [null]; // what each page up to this one began after
  #next = null;
  #isRefused = false;

  /**
   * @param {(path: string) => Promise<object>} ask  gets JSON with the reader's token
   * @param {import('./demo.js').Demo} demo  does what administrators ask for
   */
  constructor(ask, demo) {
    this.#ask = ask;
    this.#demo = demo;
    find('connections').addEventListener('click', ({ target }) => this.#act(target));
    find('try-event').addEventListener('click', () => this.#tryEvent());
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
  mine(connectionId, userId) {
    this.#userId = userId;
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

  async #act(target) {
    const { action, user, name, bot } = target.dataset;
    if (!action) return;
    const { title, text, label } = ACTIONS[action];
    if (!(await confirmed({ title, text: text(name), verb: label }))) return;
    await this.#done(() => this.#demo.act(action, user, bot || null));
  }

  async #tryEvent() {
    const text = 'Everybody who watches this bot is sent an event of the type console_test.';
    if (await confirmed({ title: 'Send a test event?', text, verb: 'Send' }))
      await this.#done(() => this.#demo.act('try_event', this.#userId, this.#botId));
  }

  async #done(act) {
    try {
      await act();
      setText(find('cluster-trouble'), '');
    } catch (error) {
      setText(find('cluster-trouble'), `Not done: ${error.message}.`);
    }
    await this.refresh();
  }

  #show({ connection_metadata: sockets, next }) {
    this.#next = next;
    const { connection, action } = focused();
    const rows = Object.entries(sockets).map(([id, socket]) => this.#row(id, socket));
    find('connections-box').hidden = false;
    find('connections-why').hidden = true;
    find('connections').replaceChildren(
      head(this.#demo.sends ? [...COLUMNS, ['Actions']] : COLUMNS),
      element('tbody', {}, ...rows),
    );
    find('try-event').hidden = !this.#demo.sends;
    // The rows are new, and the keyboard should still be where it was.
    if (action)
      find('connections')
        .querySelector(`[data-connection="${connection}"] [data-action="${action}"]`)
        ?.focus();
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

  #row(id, socket) {
    const { username, user_id: userId, bot_id: bot, connected_at: since, node } = socket;
    const who = element('span', { class: 'who-name', dir: 'auto', title: userId, text: username });
    const cells = [
      who,
      this.#watched(socket),
      left(Date.now() - Date.parse(since)),
      code(node),
      code(id),
    ];
    const row = rowOf(cells.map((cell, column) => [cell, COLUMNS[column][2]]));
    row.dataset.connection = id;
    // One of many bots' sockets is on no topic that could be closed by itself.
    const offered = Object.entries(ACTIONS).filter(([name]) => name === 'eject' || !socket.bot_ids);
    if (this.#demo.sends)
      row.append(actions(offered, { user: userId, name: username, bot: bot ?? '' }));
    if (this.#mine.has(id))
      row.firstChild.append(element('span', { class: 'badge', text: 'this page' }));
    return row;
  }

  /** `bots` are those of a socket at /api/ws, which only that has. */
  #watched({ bot_id: bot, bot_ids: bots }) {
    if (bots) return this.#many(bots);
    if (bot === null) return 'notifications';
    return bot === this.#botId ? 'this bot' : code(bot);
  }

  #many(bots) {
    const others = bots.filter((bot) => bot !== this.#botId).length;
    const words = others < bots.length ? ['this bot'] : [];
    if (others > 0) words.push(others === 1 ? '1 other' : `${others} others`);
    const text = `many: ${words.join(' and ') || 'no bot'}`;
    return element('span', { title: bots.join(', '), text });
  }
}

function actions(offered, whom) {
  const buttons = offered.map(([action, { label }]) => {
    const button = element('button', { type: 'button', text: label });
    Object.assign(button.dataset, { action, ...whom });
    button.setAttribute('aria-label', `${label} ${whom.name}`);
    return button;
  });
  return element('td', { class: 'actions' }, ...buttons);
}

function focused() {
  const { dataset } = document.activeElement ?? {};
  const row = document.activeElement?.closest?.('tr');
  return { connection: row?.dataset.connection, action: dataset?.action };
}

function code(id) {
  return element('code', { text: short(id), title: id });
}
