/**
 * The cluster's panel: asks for the metrics of all processes every second while it is on screen, and
 * hands them to the charts and tables.
 */

import { find, setText } from './dom.js';
import { makeCharts } from './charts.js';
import { Connections } from './connections.js';
import { History } from './history.js';
import { showLog, showNodes } from './tables.js';

const EVERY = 1_000;
const WITHIN = 5_000;
/** The table of connections is asked for at every fifth time only. */
const CONNECTIONS_EVERY = 5;

export class Cluster {
  #token = '';
  #history = new History();
  #charts = null;
  #connections;
  #timer = null;
  #isShown = false;
  #turns = 0;
  #epoch = 0; // moves where answers on the way are no longer wanted

  /** @param {import('./demo.js').Demo} demo */
  constructor(demo) {
    this.#connections = new Connections((path) => this.#get(path), demo);
    document.addEventListener('visibilitychange', () => this.#run());
  }

  /** Whose token to ask with. */
  use({ token, botId }) {
    this.#token = token;
    this.#connections.reset(botId);
    this.#run();
  }

  /** One of this page's sockets was let in. */
  connected({ connection_id: connectionId, user_id: userId }) {
    this.#connections.mine(connectionId, userId);
  }

  show(isShown) {
    this.#isShown = isShown;
    this.#run();
  }

  /** Start asking, or stop it. */
  #run() {
    clearTimeout(this.#timer);
    this.#epoch += 1;
    this.#turns = 0;
    if (this.#isShown && this.#token && !document.hidden) this.#turn(this.#epoch);
  }

  async #turn(epoch) {
    await this.#metrics(epoch);
    if (epoch === this.#epoch && this.#turns % CONNECTIONS_EVERY === 0)
      await this.#connections.refresh();
    if (epoch !== this.#epoch) return;
    this.#turns += 1;
    this.#timer = setTimeout(() => this.#turn(epoch), EVERY);
  }

  async #metrics(epoch) {
    this.#charts ??= makeCharts(find('charts'), this.#history);
    const { status, body } = await this.#get('api/ws/figures');
    if (epoch !== this.#epoch) return;
    setText(find('cluster-trouble'), trouble(status, body));
    if (status === 200) this.#show(body);
    if (status === 401) this.#epoch += 1; // until there is another token
  }

  #show(metrics) {
    this.#history.add(metrics, Date.now() / 1000);
    const nodes = this.#history.nodes();
    for (const chart of this.#charts) chart.draw();
    // Its own metrics are the first.
    showNodes(find('nodes'), nodes, Object.keys(metrics.nodes)[0]);
    showLog(find('log-facts'), metrics.log);
    setText(find('cluster-size'), size(nodes));
  }

  /** The answer's status and JSON; status 0 where none came. */
  async #get(path) {
    try {
      const answer = await fetch(path, {
        headers: { Authorization: `Bearer ${this.#token}` },
        signal: AbortSignal.timeout(WITHIN),
      });
      return { status: answer.status, body: await answer.json() };
    } catch (error) {
      return { status: 0, body: { error: error.message } };
    }
  }
}

function size(nodes) {
  const sockets = nodes.reduce((sum, { connections }) => sum + connections, 0);
  return `${count(nodes.length, 'process', 'processes')}, ${count(sockets, 'socket', 'sockets')}`;
}

function count(number, one, many) {
  return `${number.toLocaleString('en')} ${number === 1 ? one : many}`;
}

function trouble(status, { error, log }) {
  if (status === 0) return 'The server does not answer. Asking again…';
  if (status !== 200) return `No metrics: ${error}.`;
  return log === null
    ? 'The database cannot be asked: this is the process that answers, alone.'
    : '';
}
