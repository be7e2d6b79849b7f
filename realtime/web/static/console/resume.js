/**
 * The demonstration of coming back: the reader cuts the line, inserts ten rows with psql, mends the
 * line, and sees which of the rows arrive, how often, and how soon.
 */

import { copyButton, element, find, setText } from './dom.js';
import { insertTen } from './recipes.js';
import { coloured, runButton } from './sql_panel.js';

const ROWS = 10;

export class Resume {
  #line;
  #scene = { botId: '', userId: '' };
  #sql = '';
  #code = element('code');
  #cells = Array.from({ length: ROWS }, (_, row) => element('i', { text: String(row + 1) }));
  #tag = newTag();
  #came = new Map(); // message id → how often it came
  #mendedAt = null;
  #tookMs = null;
  #recovery = null;

  /** @param {import('./line.js').Line} line */
  constructor(line) {
    this.#line = line;
    find('resume-sql').append(
      element('pre', { tabindex: '0', 'aria-label': 'SQL: ten rows' }, this.#code),
      copyButton(() => this.#sql),
    );
    find('resume-rows').append(...this.#cells);
    find('cut').addEventListener('click', () => this.#cut());
    find('mend').addEventListener('click', () => this.#mend());
    this.#draw();
  }

  /** Offer to run the ten rows, too. */
  runsBy(run) {
    find('resume-sql').append(runButton(run, () => this.#sql, find('resume-result')));
  }

  /** What is known of the bot or the person has changed. */
  update(scene) {
    this.#scene = { ...this.#scene, ...scene };
    this.#draw();
  }

  /** For another bot or token: a cut line would look like a broken server. */
  reset() {
    if (this.#line.isCut) this.#line.mend();
    this.#begin();
    this.#mendedAt = null;
    this.#draw();
  }

  /** The chat was let in. */
  opened({ recovered, reason }) {
    if (this.#mendedAt === null || this.#recovery !== null) return;
    this.#recovery = recovered ? 'recovered' : `not recovered: ${reason}`;
    this.#draw();
  }

  /** A chat_message came; one of the ten bears the tag. */
  heard({ message_id: id, content }) {
    if (!String(content).endsWith(` · ${this.#tag}`)) return;
    this.#came.set(id, (this.#came.get(id) ?? 0) + 1);
    const cell = this.#cells[parseInt(content.slice('Row '.length), 10) - 1];
    cell?.classList.add('here');
    if (this.#mendedAt !== null) this.#tookMs = performance.now() - this.#mendedAt;
    this.#draw();
  }

  #cut() {
    if (this.#line.isCut || document.body.dataset.state !== 'open') return;
    // Rows that were copied before the cut still count: only what is over gets a new tag.
    if (this.#came.size > 0) this.#begin();
    this.#mendedAt = null;
    this.#line.cut();
    this.#draw();
    (find('resume-sql').querySelector('.run') ?? find('resume-sql').querySelector('.copy')).focus();
  }

  #mend() {
    if (!this.#line.isCut) return;
    this.#mendedAt = performance.now();
    this.#recovery = this.#tookMs = null;
    this.#line.mend();
    this.#draw();
    find('cut').focus();
  }

  #begin() {
    this.#tag = newTag();
    this.#came.clear();
    this.#recovery = this.#tookMs = null;
    for (const cell of this.#cells) cell.classList.remove('here');
  }

  #draw() {
    const sql = insertTen(this.#scene, this.#tag);
    if (sql !== this.#sql) this.#code.replaceChildren(...coloured(sql));
    this.#sql = sql;
    const { isCut } = this.#line;
    document.body.dataset.line = isCut ? 'cut' : 'whole';
    // Not `disabled`, which would take the keyboard's focus away with it.
    find('cut').setAttribute('aria-disabled', String(isCut));
    find('mend').setAttribute('aria-disabled', String(!isCut));
    setText(find('resume-result'), this.#result());
  }

  #result() {
    const came = this.#came.size;
    if (this.#line.isCut) return 'The line is cut. Insert the rows, then mend it.';
    if (came === 0) return this.#mendedAt === null ? '' : this.#waiting();
    const times = [...this.#came.values()];
    const again = times.filter((count) => count > 1).length;
    const often = again === 0 ? 'once each' : `${again} of them more than once`;
    const count = `${came} of ${Math.max(ROWS, came)}, ${often}`;
    if (this.#tookMs === null) return `${count}: you were connected.`;
    return `${count}, after ${seconds(this.#tookMs)}. The server said: ${this.#recovery ?? '…'}.`;
  }

  #waiting() {
    return this.#recovery === null
      ? 'Coming back…'
      : `Back: ${this.#recovery}. None of the ten rows was inserted meanwhile.`;
  }
}

function newTag() {
  return Math.random().toString(36).slice(2, 8).padEnd(6, '0');
}

function seconds(milliseconds) {
  return milliseconds < 95
    ? `${Math.max(1, Math.round(milliseconds))} ms`
    : `${(milliseconds / 1000).toFixed(1)} s`;
}
