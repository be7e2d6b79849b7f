/** The cluster's tables: its processes, and the card of what stands in the log. */

import { element, left, rounded, short } from './dom.js';
import { milliseconds, perSecond } from './charts.js';

/** Heading, cell, and whether a narrow screen does without. */
const COLUMNS = [
  ['Process', ({ id }) => element('code', { text: short(id), title: id })],
  ['Where', ({ hostname, port, pid }) => `${hostname}:${port}, pid ${pid}`, 'minor'],
  ['Up', ({ at, started_at: since }) => left((at - since) * 1000), 'minor'],
  ['Doorbell', ({ relay }) => element('span', { class: 'mode', 'data-mode': relay, text: relay })],
  ['Sockets', ({ connections }) => connections.toLocaleString('en')],
  ['Delivers', ({ deliveries }) => perSecond(deliveries)],
  ['p99', ({ p99 }) => (p99 === null ? '—' : milliseconds(p99)), 'minor'],
  ['Loop lag', ({ loop_lag: lag }) => milliseconds(lag), 'minor'],
  ['Waiting', ({ buffered_bytes: size }) => bytes(size), 'minor'],
  ['Memory', ({ resident_bytes: size }) => (size === null ? '—' : bytes(size)), 'minor'],
];

/** `answering` is the id of the process that answered. */
export function showNodes(table, nodes, answering) {
  const rows = nodes.map((node) => nodeRow(node, node.id === answering));
  table.replaceChildren(head(COLUMNS), element('tbody', {}, ...rows));
}

function nodeRow(node, isAnswering) {
  const row = rowOf(COLUMNS.map(([, cell, style]) => [cell(node), style]));
  if (isAnswering)
    row.firstChild.append(element('span', { class: 'badge', title: 'answers you', text: 'yours' }));
  return row;
}

export function head(columns) {
  const cells = columns.map(([name, , style]) =>
    element('th', { scope: 'col', class: style, text: name }),
  );
  return element('thead', {}, element('tr', {}, ...cells));
}

/** A row of [content, class] pairs. */
export function rowOf(cells) {
  return element(
    'tr',
    {},
    ...cells.map(([content, style]) => element('td', { class: style }, content)),
  );
}

/** What the database holds; null where it cannot be asked. */
export function showLog(box, log) {
  const facts = log
    ? {
        'Rows, about': log.rows.toLocaleString('en'),
        'On disk': bytes(log.size),
        'Oldest row': log.rows || log.age ? `${left(log.age * 1000)} old` : '—',
        'NOTIFY queue': `${(log.queue_usage * 100).toFixed(log.queue_usage ? 2 : 0)} % full`,
      }
    : { Database: 'cannot be asked' };
  box.replaceChildren(
    ...Object.entries(facts).flatMap(([name, text]) => [
      element('dt', { text: name }),
      element('dd', { class: 'number', text }),
    ]),
  );
}

function bytes(size) {
  if (size < 1_000) return `${size} B`;
  const [unit, by] = size < 1e6 ? ['kB', 1e3] : size < 1e9 ? ['MB', 1e6] : ['GB', 1e9];
  return `${rounded(size / by)} ${unit}`;
}
