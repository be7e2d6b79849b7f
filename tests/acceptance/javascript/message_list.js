/**
 * The list of messages against a model: a table, its events in order, histories that are read at any
 * moment, and an API that answers late. What is shown in the end is what the table has.
 */

import { equal, scenario } from './harness.js';
import { MessageList } from '/static/client/message_list.js';

const WORLDS = 400;
const STEPS = 60;

scenario('whatever comes in whichever order, in the end the messages are those of the table', () => {
  for (let seed = 1; seed <= WORLDS; seed += 1) {
    // With an id in the answers all may be alike; without one, texts have to tell them apart.
    for (const hasIds of [true, false]) {
      const world = new Model(randoms(seed), hasIds, seed % 2 === 0);
      for (let step = 0; step < STEPS; step += 1) world.step();
      world.finish();
    }
  }
});

scenario('two own messages that are alike are two, although one was changed before it was told', () => {
  const list = new MessageList();
  list.identify('me');
  const [one, two] = [list.send('c', 'me'), list.send('c', 'me')];
  const told = (id, content) => list.add({ message_id: id, user_id: 'me', content });
  told('1', 'c!');
  told('2', 'c');
  list.sent(one, { message_id: '1' });
  list.sent(two, { message_id: '2' });
  equal(list.rows.map((row) => [row.message_id, row.status]).sort(), [['1', undefined], ['2', undefined]]);
});

scenario('an own message that is too old to be shown does not come back with its answer', () => {
  const list = new MessageList(2);
  list.identify('me');
  const key = list.send('mine', 'me');
  for (const content of ['mine', 'b', 'c']) list.add({ message_id: content, user_id: 'me', content });
  list.sent(key, { message_id: 'mine' });
  equal(list.rows.map(({ content }) => content), ['b', 'c']);
});

class Model {
  #random;
  #hasIds;
  #hasHistories; // without, nothing but the list itself can put right what was shown
  #list = new MessageList();
  #table = new Map();
  #events = []; // that were not told yet
  #sending = []; // { key, content, id: once its row is written }
  #history = null; // that was read, and is on its way
  #failed = 0;
  #last = 0;
  #story = [];

  constructor(random, hasIds, hasHistories) {
    this.#random = random;
    this.#hasIds = hasIds;
    this.#hasHistories = hasHistories;
    this.#list.identify('me');
  }

  step() {
    const steps = [
      ...[this.#send, this.#send, this.#write, this.#write, this.#answer, this.#tell, this.#tell],
      ...[this.#change, this.#change, ...(this.#hasHistories ? [this.#read, this.#show] : [])],
    ];
    this.#pick(steps).call(this);
    this.#check();
  }

  /** Everything under way comes to its end, and a history is asked for where the list wants one. */
  finish() {
    for (const own of this.#sending.slice()) this.#write(own);
    while (this.#sending.length > 0) this.#answer(this.#pick(this.#sending));
    while (this.#events.length > 0) this.#tell();
    this.#show();
    if (this.#list.isUnsettled) {
      this.#read();
      this.#show();
    }
    const rows = this.#list.rows.filter(({ status }) => status !== 'failed');
    const shown = rows.map((row) => [row.message_id, row.content, row.status]).sort();
    const table = [...this.#table.values()].map((row) => [row.message_id, row.content, undefined]).sort();
    equal(shown, table, this.#story.join(', '));
    equal(this.#list.rows.length - rows.length, this.#failed, this.#story.join(', '));
  }

  /** No key and no message twice, at any time. */
  #check() {
    for (const member of ['key', 'message_id']) {
      const values = this.#list.rows.map((row) => row[member]);
      equal(new Set(values).size, values.length, `${member}: ${this.#story.join(', ')}`);
    }
  }

  #pick(list) {
    return list[Math.floor(this.#random() * list.length)];
  }

  #send() {
    const content = this.#hasIds ? this.#pick(['a', 'b']) : `text ${(this.#last += 1)}`;
    const key = this.#list.send(content, 'me');
    this.#sending.push({ key, content });
    this.#story.push(`send ${content} ${key}`);
  }

  /** A row of one's own, which the API may have tidied, or of somebody else. */
  #write(own = this.#pick([...this.#sending, { by: 'other', content: 'a' }])) {
    if (own.id !== undefined) return;
    own.id = `m${(this.#last += 1)}`;
    const isTidied = this.#hasIds && this.#random() < 0.2;
    const content = isTidied ? `${own.content}!` : own.content;
    const row = { message_id: own.id, user_id: own.by ?? 'me', content };
    this.#table.set(own.id, row);
    this.#events.push(['add', row]);
    this.#story.push(`write ${own.id} ${content} ${own.key}`);
  }

  /** An edit or a deletion; without ids in the answers, a row that is not told yet cannot be known again. */
  #change() {
    const rows = this.#hasIds ? [...this.#table.values()] : this.#toldRows();
    if (rows.length === 0) return;
    const row = this.#pick(rows);
    const { message_id: id } = row;
    const isGone = this.#random() < 0.5;
    if (isGone) this.#table.delete(id);
    else this.#table.set(id, { ...row, content: `${row.content}?` });
    const data = isGone ? { message_id: id } : this.#table.get(id);
    this.#events.push(['update', { ...data, action: isGone ? 'deleted' : 'edited' }]);
    this.#story.push(`${isGone ? 'delete' : 'edit'} ${id}`);
  }

  #toldRows() {
    const shown = new Set(this.#list.rows.filter(({ status }) => !status).map((row) => row.message_id));
    return [...this.#table.values()].filter(({ message_id: id }) => shown.has(id));
  }

  #answer(own = this.#pick(this.#sending)) {
    if (own === undefined) return;
    const failed = own.id === undefined;
    this.#sending.splice(this.#sending.indexOf(own), 1);
    this.#story.push(`${failed ? 'fail' : 'answer'} ${own.key} ${own.id}`);
    if (failed) this.#list.failed(own.key);
    else this.#list.sent(own.key, this.#hasIds ? { message_id: own.id } : undefined);
    this.#failed += failed;
  }

  #tell() {
    if (this.#events.length === 0) return;
    const [change, data] = this.#events.shift();
    this.#history?.live.push([change, data]);
    this.#list[change](data);
    this.#story.push(`tell ${change} ${data.message_id}`);
  }

  /** A history is asked for, and read at once. */
  #read() {
    this.#history = { messages: [...this.#table.values()], settled: this.#list.settled(), live: [] };
    this.#story.push('read');
  }

  /** The history arrives. Where events were lost, those that it covers do not come any more. */
  #show() {
    if (this.#history === null) return;
    const { messages, settled, live } = this.#history;
    this.#list.load(messages, settled);
    for (const [change, data] of live) this.#list[change](data);
    this.#history = null;
    this.#story.push('show');
  }
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function randoms(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
