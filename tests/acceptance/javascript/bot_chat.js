/** What useBotChat shows, without React: one promise each, in a world of its own. */

import { check, equal, FakeTimers, scenario, settle, socketsOf } from './harness.js';
import { BotChat } from '/static/client/bot_chat.js';
import { SharedConnection } from '/static/realtime.js';

/** A BotChat that was started and is connected, unless the options say otherwise. */
async function makeChat(options = {}) {
  const world = { timers: new FakeTimers(), sockets: [], told: 0 };
  const chat = new BotChat({
    botId: 'bot',
    token: 't',
    timers: world.timers,
    random: () => 0.5,
    page: {},
    WebSocket: socketsOf(world),
    ...options,
  });
  chat.subscribe(() => (world.told += 1));
  world.stop = chat.start();
  await settle();
  const last = () => world.sockets.at(-1);
  return Object.assign(world, {
    chat,
    last,
    say: (type, data) => last().say({ type, bot_id: 'bot', data }),
    shown: async (member = 'content') => {
      await world.timers.advance(20);
      return chat.snapshot().messages.map((row) => row[member]);
    },
  });
}

const message = (id, more = {}) => ({
  message_id: id,
  user_id: 'other',
  username: 'ada',
  role: 'user',
  content: id,
  ...more,
});

/** An answer that the test gives when it likes. */
function later() {
  const one = {};
  one.promise = new Promise((...ends) => ([one.resolve, one.reject] = ends));
  return one;
}

scenario('a conversation that is started, stopped and started connects once', async () => {
  let loads = 0;
  const history = async () => ((loads += 1), { messages: [], cursor: 'c' });
  const { chat, sockets, stop } = await makeChat({ botId: 'bot', history });
  equal([sockets.length, loads], [1, 1]);
  stop();
  chat.start()();
  chat.start();
  await settle();
  equal([sockets.length, loads], [2, 1], 'what is there is kept, and goes on with its cursor');
});

scenario('without a bot a conversation waits', async () => {
  for (const botId of ['', null, undefined]) {
    const { chat, sockets } = await makeChat({ botId, history: () => check(false, 'not asked') });
    equal([chat.snapshot().state, chat.snapshot().isLoading, sockets.length], ['idle', false, 0]);
  }
});

scenario('the history comes first, and the stream goes on with its cursor', async () => {
  const history = async () => ({ messages: [message('1'), message('2')], cursor: 'loaded' });
  const { chat, last, say, shown } = await makeChat({ history });
  equal(last().url.searchParams.get('cursor'), 'loaded');
  last().establish({ recovered: true });
  say('chat_message', message('2'));
  say('chat_message', message('3'));
  say('chat_message_update', { ...message('1', { content: 'edited' }), action: 'edited' });
  say('chat_message_update', { message_id: '2', session_id: null, action: 'deleted' });
  say('chat_message_update', { ...message('old', { content: 'x' }), action: 'edited' });
  equal(await shown(), ['edited', '3']);
  equal([chat.snapshot().state, chat.snapshot().isLoading], ['open', false]);
});

scenario('what a history does not say is unknown', async () => {
  const given = { message_id: '1', content: 'hello', username: undefined, role: undefined };
  const { shown } = await makeChat({ history: async () => ({ messages: [given], cursor: 'c' }) });
  equal([await shown('username'), await shown('role')], [[null], ['user']]);
});

scenario('without a cursor the history is loaded again once connected', async () => {
  const answers = [later(), later()];
  let loads = 0;
  const { last, say, shown } = await makeChat({ history: () => answers[loads++].promise });
  answers[0].resolve({ messages: [message('1')] });
  await settle();
  last().establish();
  await settle();
  equal(loads, 2);
  say('chat_message', message('2'));
  say('chat_message', message('3'));
  say('chat_message_update', { message_id: '2', session_id: null, action: 'deleted' });
  equal(await shown(), ['1', '3'], 'what is there is shown meanwhile');
  answers[1].resolve({ messages: [message('1'), message('2')], cursor: 'c' });
  await settle();
  equal(await shown(), ['1', '3'], 'what came meanwhile is newer than the history');
});

scenario('after a resync the history is loaded again, and what is gone is not shown', async () => {
  const lists = [[message('1'), message('2')], [message('2', { content: 'edited' })]];
  const history = async () => ({ messages: lists.shift(), cursor: 'c' });
  const { last, say, shown } = await makeChat({ history });
  last().establish({ recovered: true });
  say('resync', { reason: 'too_old' });
  await settle();
  equal(await shown(), ['edited']);
});

scenario('a history that fails is loaded again, with back-off', async () => {
  const answers = [() => Promise.reject(new Error('503')), () => Promise.reject(new Error('503'))];
  const history = () => (answers.shift() ?? (async () => ({ messages: [message('1')] })))();
  const { chat, timers, last, shown } = await makeChat({ history });
  equal(last().url.searchParams.get('cursor'), '', 'it connects all the same');
  last().establish();
  await settle();
  await timers.advance(20);
  equal([chat.snapshot().error.message, chat.snapshot().isLoading], ['503', true]);
  await timers.advance(500);
  equal(await shown(), ['1']);
  equal([chat.snapshot().error, chat.snapshot().isLoading], [null, false]);
});

scenario('a history that fails is loaded again, although there is a cursor', async () => {
  const answers = [() => Promise.reject(new Error('503'))];
  const history = () => (answers.shift() ?? (async () => ({ messages: [message('1')] })))();
  const { last, shown } = await makeChat({ history, cursor: 'kept' });
  equal(last().url.searchParams.get('cursor'), '');
  last().establish();
  await settle();
  equal(await shown(), ['1']);
});

scenario('a conversation that is stopped before it has what was lost loads it when started', async () => {
  const gone = [message('1'), message('2')];
  const answers = [async () => ({ messages: gone, cursor: 'c' }), () => later().promise];
  const again = async () => ({ messages: [message('3')], cursor: 'c3' });
  const history = () => (answers.shift() ?? again)();
  const { chat, last, say, stop, shown } = await makeChat({ history });
  last().establish({ recovered: true });
  say('resync', { reason: 'too_old' });
  await settle();
  stop();
  chat.start();
  await settle();
  equal(last().url.searchParams.get('cursor'), 'c3');
  equal(await shown(), ['3']);
});

scenario('a conversation that is stopped while the history fails loads it when started', async () => {
  let loads = 0;
  const fails = () => Promise.reject(new Error('503'));
  const history = () => ((loads += 1) < 4 ? fails() : Promise.resolve({ messages: [message('1')] }));
  const { chat, last, stop, shown } = await makeChat({ history });
  last().establish();
  await settle();
  stop();
  chat.start();
  await settle();
  equal([loads, last().url.searchParams.get('cursor')], [3, '']);
  last().establish();
  await settle();
  equal(await shown(), ['1']);
});

scenario('a new resync overtakes a history that is on its way', async () => {
  const answers = [later(), later()];
  let loads = 0;
  const { last, say, shown } = await makeChat({ history: () => answers[loads++].promise });
  answers[0].resolve({ messages: [], cursor: 'c' });
  await settle();
  answers[0] = null;
  last().establish({ recovered: true });
  answers.push(later());
  say('resync', {});
  await settle();
  say('resync', {});
  await settle();
  answers[2].resolve({ messages: [message('new')] });
  await settle();
  answers[1].resolve({ messages: [message('old')] });
  await settle();
  equal(await shown(), ['new']);
});

scenario('what came between two questions for the history is in the second answer', async () => {
  const answers = [async () => ({ messages: [], cursor: 'c' }), () => Promise.reject(new Error('503'))];
  const again = async () => ({ messages: [message('2')] });
  const { timers, last, say, shown } = await makeChat({ history: () => (answers.shift() ?? again)() });
  last().establish({ recovered: true });
  say('resync', {});
  await settle();
  say('chat_message', message('1'));
  equal(await shown(), ['1']);
  await timers.advance(500);
  equal(await shown(), ['2'], 'it was deleted before the second question');
});

scenario('a row with values within values, deeper than the stack, is shown like any other', async () => {
  const deep = () => JSON.parse('['.repeat(5000) + ']'.repeat(5000));
  const history = async () => ({ messages: [message('a', { metadata: { deep: deep() } })] });
  const { chat, shown, stop } = await makeChat({ history });
  equal(await shown(), ['a']);
  chat.reload();
  await settle();
  equal(await shown(), ['a']);
  stop();
});

scenario('where more comes than is kept for a history, it is asked for again', async () => {
  const loading = [later(), later(), later()];
  let loads = 0;
  const { last, say, shown } = await makeChat({ history: () => loading[loads++].promise });
  loading[0].resolve({ messages: [], cursor: 'c' });
  await settle();
  last().establish({ recovered: true });
  say('resync', {});
  await settle();
  for (let id = 0; id <= 10_000; id += 1) say('chat_message', message(`${id}`));
  await settle();
  equal(loads, 3);
  loading[1].resolve({ messages: [message('old')] });
  say('chat_message', message('newest'));
  await settle();
  equal((await shown()).length, 10_000, 'the first answer changes nothing');
  loading[2].resolve({ messages: [message('new')] });
  await settle();
  equal(await shown(), ['new', 'newest']);
});

scenario('what the application changed by its API is shown, and its history is loaded on demand', async () => {
  const lists = [[message('1'), message('2')], [message('1', { content: 'three' })]];
  const loading = later();
  const answers = [async () => ({ messages: lists[0], cursor: 'c' }), () => loading.promise];
  const { chat, last, shown } = await makeChat({ history: () => answers.shift()() });
  last().establish({ recovered: true });
  chat.apply({ action: 'edited', message_id: '1', content: 'one' });
  chat.apply({ action: 'deleted', message_id: '2' });
  equal([await shown(), await shown('username')], [['one'], ['ada']]);
  chat.reload();
  await settle();
  equal([await shown(), chat.snapshot().isLoading], [['one'], true]);
  chat.apply({ action: 'edited', message_id: '1', content: 'two' });
  loading.resolve({ messages: lists[0] });
  await settle();
  equal(await shown(), ['two', '2'], 'it is newer than the question');
  answers.push(async () => ({ messages: lists[1] }));
  chat.reload();
  await settle();
  equal([await shown(), chat.snapshot().isLoading], [['three'], false]);
});

scenario('a history that is to be loaded again is, once connected', async () => {
  const loading = later();
  const answers = [() => loading.promise, async () => ({ messages: [message('2')] })];
  const { chat, last, shown } = await makeChat({ history: () => answers.shift()() });
  chat.reload();
  await settle();
  loading.resolve({ messages: [message('1')], cursor: 'c' });
  equal([await shown(), chat.snapshot().error], [[], null]);
  last().establish();
  await settle();
  equal(await shown(), ['2']);
  await last().end(4003, 'access ended');
  chat.reload();
  answers.push(async () => ({ messages: [message('3')] }));
  await settle();
  equal([await shown(), answers.length, chat.snapshot().isLoading], [['2'], 1, false]);
  chat.connect();
  await settle();
  last().establish({ recovered: true });
  await settle();
  equal(await shown(), ['3']);
});

scenario('a history that takes too long is told to end, and so is one that nobody waits for', async () => {
  const signals = [];
  const history = ({ signal }) => {
    signals.push(signal);
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  };
  const { chat, timers, last, stop } = await makeChat({ history });
  await timers.advance(29_999);
  equal(signals.map(({ aborted }) => aborted), [false]);
  await timers.advance(21);
  equal([signals[0].reason.name, chat.snapshot().error.name], ['TimeoutError', 'TimeoutError']);
  last().establish();
  await settle();
  chat.reload();
  await settle();
  equal(signals.map(({ aborted }) => aborted), [true, true, false]);
  stop();
  equal([signals[2].aborted, signals[2].reason.name], [true, 'AbortError']);
});

scenario('a history that comes too late is shown, and what came since it was asked for', async () => {
  for (const isAskedAgain of [false, true]) {
    const answers = [async () => ({ messages: [], cursor: 'c' })];
    const late = [later(), later()];
    let loads = 0;
    const history = () => answers.shift()?.() ?? late[loads++].promise;
    const { chat, timers, last, say, shown } = await makeChat({ history });
    last().establish({ recovered: true });
    say('resync', {});
    await settle();
    say('chat_message', message('2'));
    await timers.advance(30_000);
    if (isAskedAgain) await timers.advance(500);
    say('chat_message', message('3'));
    equal([await shown(), chat.snapshot().isLoading, loads], [['2', '3'], true, isAskedAgain ? 2 : 1]);
    late[0].resolve({ messages: [message('1')] });
    await settle();
    equal([await shown(), chat.snapshot().isLoading], [['1', '2', '3'], false]);
    equal(chat.snapshot().error, null);
    late[1].resolve({ messages: [message('other')] });
    await settle();
    await timers.advance(10_000);
    equal([await shown(), loads], [['1', '2', '3'], isAskedAgain ? 2 : 1]);
  }
});

scenario('a history that comes after a newer one, or after the end, changes nothing', async () => {
  const ways = {
    'a newer one': ({ late }) => late[1].resolve({ messages: [message('new')] }),
    'the end': ({ last }) => last().end(4003),
    'a stop': ({ stop }) => stop(),
    'another question': ({ chat }) => chat.reload(),
  };
  for (const [way, go] of Object.entries(ways)) {
    const answers = [async () => ({ messages: [message('first')], cursor: 'c' })];
    const late = [later(), later(), later()];
    let loads = 0;
    const history = () => answers.shift()?.() ?? late[loads++].promise;
    const world = await makeChat({ history });
    world.last().establish({ recovered: true });
    world.say('resync', {});
    await world.timers.advance(30_500);
    await go({ ...world, late });
    await settle();
    late[0].resolve({ messages: [message('old')] });
    await settle();
    equal(await world.shown(), [way === 'a newer one' ? 'new' : 'first'], way);
  }
});

scenario('where too much comes for a late history, only the question after it goes on', async () => {
  const answers = [async () => ({ messages: [], cursor: 'c' })];
  const late = [later(), later()];
  let loads = 0;
  const history = () => answers.shift()?.() ?? late[loads++].promise;
  const { timers, last, say, shown } = await makeChat({ history });
  last().establish({ recovered: true });
  say('resync', {});
  await settle();
  for (const id of ['0', '1']) say('chat_message', message(id));
  await timers.advance(30_500);
  for (let id = 1; id < 10_000; id += 1) say('chat_message', message(`${id}`));
  late[0].resolve({ messages: [message('old')] });
  await settle();
  equal([(await shown()).length, loads], [10_000, 2]);
  late[1].resolve({ messages: [message('new')] });
  await settle();
  equal([(await shown())[0], loads], ['new', 2]);
});

// One's own messages -------------------------------------------------------------------------

const mine = (id, content) => message(id, { user_id: 'me', username: 'me', content });

scenario('an own message is shown at once, and the event takes its place', async () => {
  const answer = later();
  const { chat, last, say, shown } = await makeChat({ send: () => answer.promise });
  last().establish();
  const sent = chat.send('hello');
  equal(await shown('status'), ['sending']);
  const [key] = await shown('key');
  say('chat_message', mine('1', 'hello'));
  equal([await shown('message_id'), await shown('status')], [['1'], [undefined]]);
  answer.resolve({ message_id: '1' });
  equal([await sent, await shown('key')], [true, [key]]);
});

scenario('the answer may come before the event, or alone', async () => {
  const { chat, last, say, shown } = await makeChat({ send: async () => ({ message_id: '1' }) });
  last().establish();
  await chat.send('hello');
  equal([await shown('message_id'), await shown('status')], [['1'], ['sent']]);
  say('chat_message', mine('1', 'HELLO'));
  equal([await shown(), await shown('status')], [['HELLO'], [undefined]]);
});

scenario('what the answer says of an own message is shown', async () => {
  const answer = { message_id: '1', content: 'tidied', timestamp: 'now', metadata: { a: 1 }, other: 1 };
  const { chat, last, say, shown } = await makeChat({ send: async () => answer });
  last().establish();
  await chat.send(' tidied ');
  await shown();
  const [{ key, status, ...row }] = chat.snapshot().messages;
  equal([row.content, row.timestamp, row.metadata, row.other], ['tidied', 'now', { a: 1 }, undefined]);
  equal([row.user_id, row.role, status], ['me', 'user', 'sent']);
  chat.apply({ action: 'edited', message_id: '1', content: 'edited' });
  equal([await shown(), await shown('timestamp'), await shown('key')], [['edited'], ['now'], [key]]);
  say('chat_message', mine('1', 'edited'));
  equal(await shown('key'), [key]);
});

scenario('an own message that was edited stays, though an older history lacks it', async () => {
  const loading = later();
  const answers = [async () => ({ messages: [] }), () => loading.promise, async () => ({ messages: [mine('1', 'b')] })];
  const options = { history: () => answers.shift()(), send: async () => ({ message_id: '1' }) };
  const { chat, last, shown } = await makeChat(options);
  last().establish({ recovered: true });
  chat.reload();
  await settle();
  await chat.send('a');
  chat.apply({ action: 'edited', message_id: '1', content: 'b' });
  equal([await shown(), await shown('status')], [['b'], ['sent']]);
  loading.resolve({ messages: [] });
  await settle();
  equal([await shown(), answers.length], [['b'], 0], 'and the history is asked for again');
});

scenario('an answer without an id says nothing of the message', async () => {
  for (const answer of [{ message_id: null, content: 'reply' }, { content: 'reply' }, 'reply', null]) {
    const { chat, last, shown } = await makeChat({ send: async () => answer });
    last().establish();
    await chat.send('hello');
    equal([await shown(), await shown('status')], [['hello'], ['sent']]);
    equal(await shown('message_id'), await shown('key'));
  }
});

scenario('an event with another text is told apart by the answer', async () => {
  const answer = later();
  const { chat, last, say, shown } = await makeChat({ send: () => answer.promise });
  last().establish();
  void chat.send(' hello ');
  say('chat_message', mine('1', 'hello'));
  equal((await shown()).length, 2);
  answer.resolve({ message_id: '1' });
  await settle();
  equal(await shown(), ['hello']);
});

scenario('two own messages that are alike are two, in whichever order they are told', async () => {
  const answers = [later(), later()];
  let count = 0;
  const { chat, last, say, shown } = await makeChat({ send: () => answers[count++].promise });
  last().establish();
  void chat.send('ok');
  void chat.send('ok');
  say('chat_message', mine('2', 'ok'));
  answers[1].resolve({ message_id: '2' });
  await settle();
  equal((await shown()).length, 2);
  answers[0].resolve({ message_id: '1' });
  say('chat_message', mine('1', 'ok'));
  await settle();
  equal([(await shown('message_id')).sort(), await shown('status')], [
    ['1', '2'],
    [undefined, undefined],
  ]);
});

scenario('an own message that fails stays, marked, until it is discarded', async () => {
  const send = () => Promise.reject(new Error('400'));
  const { chat, last, say, shown } = await makeChat({ send });
  last().establish();
  equal([await chat.send('hello'), await shown('status')], [false, ['failed']]);
  equal(chat.snapshot().error.message, '400');
  say('chat_message', message('1'));
  chat.discard((await shown('key'))[0]);
  equal(await shown(), ['1']);
});

scenario('a message that is sent clears what the one before it failed with', async () => {
  const answers = [() => Promise.reject(new Error('400')), async () => {}];
  const { chat, timers, last } = await makeChat({ send: () => answers.shift()() });
  last().establish();
  await chat.send('one');
  await timers.advance(20);
  equal(chat.snapshot().error.message, '400');
  await chat.send('two');
  await timers.advance(20);
  equal(chat.snapshot().error, null);
});

scenario('an own message whose row was another’s comes back when that is deleted', async () => {
  for (const how of ['an event', 'a history']) {
    for (const [end, status] of [['fails', ['failed']], ['is sent', ['sent']], ['is it', []]]) {
      const answer = later();
      const history = async () => ({ messages: [], cursor: 'c' });
      const { chat, last, say, shown } = await makeChat({ history, send: () => answer.promise });
      last().establish({ recovered: true });
      const sent = chat.send('ok');
      say('chat_message', mine('twin', 'ok'));
      if (how === 'an event') say('chat_message_update', { message_id: 'twin', action: 'deleted' });
      else say('resync', {});
      await settle();
      equal(await shown(), [], `${how}, ${end}`);
      if (end === 'fails') answer.reject(new Error('400'));
      else answer.resolve({ message_id: end === 'is it' ? 'twin' : '2' });
      equal([await sent, await shown('status')], [end !== 'fails', status], `${how}, ${end}`);
    }
  }
});

scenario('an own message outlives a history that does not have it yet', async () => {
  const lists = [[], [message('1')], [message('1'), mine('2', 'hello')]];
  const history = async () => ({ messages: lists.shift(), cursor: 'c' });
  const { chat, last, say, shown } = await makeChat({ history, send: () => later().promise });
  last().establish({ recovered: true });
  void chat.send('hello');
  for (const status of ['sending', undefined]) {
    say('resync', {});
    await settle();
    equal([await shown(), await shown('status')], [
      ['1', 'hello'],
      [undefined, status],
    ]);
  }
});

scenario('an own message that failed is not taken for the next one that is alike', async () => {
  const answers = [later(), later()];
  let count = 0;
  const { chat, last, say, shown } = await makeChat({ send: () => answers[count++].promise });
  last().establish();
  for (const order of ['failed first', 'told first']) {
    const both = [chat.send(order), chat.send(order)];
    if (order === 'failed first') answers[count - 2].reject(new Error('400'));
    await settle();
    say('chat_message', mine(`${order} 2`, order));
    if (order === 'told first') answers[count - 2].reject(new Error('400'));
    answers[count - 1].resolve({ message_id: `${order} 2` });
    equal(await Promise.all(both), [false, true]);
    answers.push(later(), later());
  }
  equal(await shown('status'), ['failed', undefined, 'failed', undefined]);
  equal((await shown('message_id')).filter((id) => !id.startsWith('own')), [
    'failed first 2',
    'told first 2',
  ]);
});

scenario('an own message that turns out to be another stays, and the other is shown, too', async () => {
  const answer = later();
  const { chat, last, say, shown } = await makeChat({ send: () => answer.promise });
  last().establish();
  void chat.send('ok');
  say('chat_message', mine('from the phone', 'ok'));
  answer.resolve({ message_id: '2' });
  await settle();
  equal([await shown('message_id'), await shown('status')], [
    ['from the phone', '2'],
    [undefined, 'sent'],
  ]);
  say('chat_message', mine('2', 'ok'));
  equal([await shown('message_id'), await shown('status')], [
    ['from the phone', '2'],
    [undefined, undefined],
  ]);
});

scenario('a message that is sent while the first history is loaded is shown once', async () => {
  const loading = later();
  const { chat, last, say, shown } = await makeChat({
    history: () => loading.promise,
    send: async () => {},
  });
  await chat.send('hello');
  loading.resolve({ messages: [message('1'), mine('2', 'hello')], cursor: 'c' });
  await settle();
  last().establish({ recovered: true, user_id: 'me' });
  equal([await shown(), await shown('status')], [
    ['1', 'hello'],
    [undefined, undefined],
  ]);
  say('chat_message', mine('2', 'hello'));
  equal((await shown()).length, 2);
});

scenario('the history’s older messages are not taken for an own one that is alike', async () => {
  for (const more of [{ user_id: 'me' }, { user_id: undefined }]) {
    const lists = [[message('1')], [{ ...message('0', more), content: 'ok' }, message('1')]];
    const history = async () => ({ messages: lists.shift(), cursor: 'c' });
    const answer = later();
    const { chat, last, say, shown } = await makeChat({ history, send: () => answer.promise });
    last().establish({ recovered: true });
    const sent = chat.send('ok');
    say('resync', {});
    await settle();
    equal([await shown(), await shown('status')], [
      ['ok', '1', 'ok'],
      [undefined, undefined, 'sending'],
    ]);
    answer.reject(new Error('400'));
    equal([await sent, await shown('status')], [false, [undefined, undefined, 'failed']]);
  }
});

scenario('a history that is none changes nothing, and is asked for again', async () => {
  const answers = [{ messages: [message('1')], cursor: 'c' }, { error: 'busy' }, undefined, 7];
  const history = async () =>
    answers.length > 0 ? answers.shift() : { messages: [message('1'), message('2')] };
  const { chat, timers, last, say, shown } = await makeChat({ history });
  last().establish({ recovered: true });
  say('resync', {});
  await settle();
  equal([await shown(), chat.snapshot().error.name], [['1'], 'TypeError']);
  for (const wait of [500, 1_000, 2_000]) await timers.advance(wait);
  equal([await shown(), chat.snapshot().error], [['1', '2'], null]);
});

scenario('an own message that was sent, and is gone from the history, is not shown', async () => {
  const lists = [[], [message('1')], [message('1')]];
  const loading = [later(), later(), later()];
  let loads = 0;
  const history = () => loading[loads++].promise;
  const { chat, last, say, shown } = await makeChat({ history, send: async () => ({ message_id: '2' }) });
  loading[0].resolve({ messages: lists[0], cursor: 'c' });
  await settle();
  last().establish({ recovered: true });
  say('resync', {});
  await settle();
  await chat.send('secret');
  loading[1].resolve({ messages: lists[1], cursor: 'c' });
  await settle();
  equal(await shown(), ['1', 'secret'], 'it was sent after the history was asked for');
  equal(loads, 3, 'whether it is written later, or is gone already, only another history says');
  loading[2].resolve({ messages: lists[2], cursor: 'c' });
  await settle();
  equal(await shown(), ['1']);
});

scenario('an own message that was gone before its answer came is not shown', async () => {
  for (const gone of ['told', 'not told', 'of the first history']) {
    const answer = later();
    let loads = 0;
    const history = async () => ((loads += 1), { messages: [], cursor: 'c' });
    const { chat, last, say, shown } = await makeChat({ history, send: () => answer.promise });
    if (gone !== 'of the first history') last().establish({ recovered: true });
    const sent = chat.send('secret');
    await settle();
    if (gone === 'told') say('chat_message_update', { message_id: '1', action: 'deleted' });
    else if (gone === 'not told') say('resync', {});
    else last().establish();
    await settle();
    equal(await shown(), ['secret'], gone);
    answer.resolve({ message_id: '1' });
    await sent;
    await settle();
    equal([await shown(), loads], [[], gone === 'told' ? 1 : 3], gone);
  }
});

// Its end ------------------------------------------------------------------------------------

scenario('a new token brings a conversation back that ended for want of one', async () => {
  const { chat, timers, sockets, last } = await makeChat({ token: undefined });
  await timers.advance(20);
  equal([chat.snapshot().state, sockets.length], ['closed', 0]);
  chat.refresh('good');
  await settle();
  equal([sockets.length, last().token], [1, 'good']);
  last().establish();
  await last().end(4003, 'access ended');
  chat.refresh('other');
  await settle();
  equal(sockets.length, 1, 'access does not come with a token');
  chat.connect();
  await settle();
  equal(sockets.length, 2);
});

scenario('after the end the history is asked for no more, until it begins again', async () => {
  for (const [code, answer] of [[4003, 'fails'], [4001, 'fails'], [4003, 'hangs']]) {
    const answers = [async () => ({ messages: [], cursor: 'c' })];
    let loads = 0;
    const bad = () => (answer === 'fails' ? Promise.reject(new Error('403')) : later().promise);
    const history = () => ((loads += 1), (answers.shift() ?? bad)());
    const { chat, timers, last, say, shown } = await makeChat({ history });
    last().establish({ recovered: true });
    say('resync', { reason: 'access_changed' });
    await settle();
    await timers.advance(20);
    equal([loads, chat.snapshot().isLoading], [2, true]);
    await last().end(code);
    await timers.advance(100_000);
    equal([chat.snapshot().closed.code, chat.snapshot().isLoading], [code, false]);
    equal([loads, timers.pending], [2, 0]);
    answers.push(async () => ({ messages: [message('1')] }));
    if (code === 4001) chat.refresh('other');
    else chat.connect();
    await settle();
    await timers.advance(20);
    equal(chat.snapshot().isLoading, true);
    last().establish({ recovered: true });
    await settle();
    equal([await shown(), chat.snapshot().isLoading], [['1'], false]);
  }
});

scenario('a bot whose history and chat are refused is not loading', async () => {
  const history = () => Promise.reject(new Error('403'));
  const { chat, timers, last } = await makeChat({ history });
  await last().end(4003);
  await timers.advance(20);
  const { closed, error, isLoading } = chat.snapshot();
  equal([closed.code, error.message, isLoading, timers.pending], [4003, '403', false, 0]);
});

scenario('the end is told until it begins again, however that is', async () => {
  const ways = {
    connect: [4003, ({ chat }) => chat.connect()],
    refresh: [4001, ({ chat }) => chat.refresh('new')],
    'start after the end': [4003, ({ chat, stop }) => (stop(), chat.start())],
    'stop and start': [null, ({ chat, stop }) => (stop(), chat.start())],
  };
  for (const [way, [code, begin]] of Object.entries(ways)) {
    const world = await makeChat();
    world.last().establish();
    if (code !== null) await world.last().end(code);
    await world.timers.advance(20);
    equal(world.chat.snapshot().closed?.code ?? null, code, way);
    begin(world);
    await settle();
    await world.timers.advance(20);
    const { state, closed } = world.chat.snapshot();
    equal([state, closed], ['connecting', null], way);
  }
});

scenario('of two conversations about one bot on a shared connection the second waits', async () => {
  const world = { timers: new FakeTimers(), sockets: [] };
  const options = { timers: world.timers, random: () => 0.5, page: {} };
  const shared = new SharedConnection({ token: 't', WebSocket: socketsOf(world), ...options });
  const first = await makeChat({ ...options, shared });
  const second = await makeChat({ ...options, shared });
  await world.timers.advance(20);
  check(/close it first/.test(second.chat.snapshot().error?.message), 'it says why');
  first.stop();
  await world.timers.advance(600);
  equal([second.chat.snapshot().error, second.chat.snapshot().state], [null, 'connecting']);
  world.sockets[0].say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  world.sockets[0].say({ type: 'subscribed', bot_id: 'bot', data: { cursor: 'c' } });
  await world.timers.advance(20);
  equal(second.chat.snapshot().state, 'open');
  second.stop();
  shared.close();
  equal(world.timers.pending, 0);
});

scenario('a getToken that fails on a shared connection is told to its conversations', async () => {
  const timers = new FakeTimers();
  const world = { sockets: [] };
  const answers = [() => Promise.reject(new Error('401')), () => 'good'];
  const shared = new SharedConnection({
    getToken: async () => answers.shift()(),
    timers,
    random: () => 0.5,
    page: {},
    WebSocket: socketsOf(world),
  });
  const { chat } = await makeChat({ timers, shared });
  await timers.advance(20);
  equal(chat.snapshot().error.message, '401');
  await timers.advance(500);
  world.sockets[0].say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  world.sockets[0].say({ type: 'subscribed', bot_id: 'bot', data: { cursor: 'c' } });
  await timers.advance(20);
  equal([chat.snapshot().error, chat.snapshot().state], [null, 'open']);
});

scenario('a getToken that fails is told, and is forgotten once there is a token', async () => {
  const answers = [() => Promise.reject(new Error('401')), () => 'good'];
  const { chat, timers, last } = await makeChat({
    token: undefined,
    getToken: async () => answers.shift()(),
  });
  await timers.advance(20);
  equal([chat.snapshot().error.message, chat.snapshot().state], ['401', 'reconnecting']);
  await timers.advance(500);
  last().establish();
  await timers.advance(20);
  equal([chat.snapshot().error, chat.snapshot().state], [null, 'open']);
});

scenario('another person’s token shows what is theirs, and nothing of the one before', async () => {
  const lists = [[message('1')], [message('2')]];
  const history = async () => ({ messages: lists.shift(), cursor: 'c' });
  const send = () => Promise.reject(new Error('400'));
  const { chat, timers, last, shown } = await makeChat({ history, send });
  last().establish({ recovered: true });
  await chat.send('failed');
  equal(await shown(), ['1', 'failed']);
  chat.refresh('theirs');
  await last().end(4001, 'the new token is for another user');
  await timers.advance(500);
  equal([last().token, chat.snapshot().closed], ['theirs', null]);
  last().establish({ user_id: 'them', recovered: true });
  await settle();
  equal(await shown(), ['2']);
});

scenario('a conversation that is started again by another person is loaded anew', async () => {
  const lists = [[message('1')], [message('2')]];
  const history = async () => ({ messages: lists.shift(), cursor: 'c' });
  const { chat, last, stop, shown } = await makeChat({ history });
  last().establish({ recovered: true });
  equal(await shown(), ['1']);
  stop();
  chat.start();
  await settle();
  last().establish({ user_id: 'them', recovered: true });
  await settle();
  equal(await shown(), ['2']);
});

scenario('an onEvent that fails is told, and is no unhandled rejection', async () => {
  const unhandled = [];
  const note = (event) => unhandled.push(event.reason);
  window.addEventListener('unhandledrejection', note);
  const { chat, timers, last, say, shown } = await makeChat({
    onEvent: async () => {
      throw new Error('mine');
    },
  });
  last().establish();
  say('chat_message', message('1'));
  equal(await shown(), ['1']);
  await new Promise((resolve) => setTimeout(resolve, 50));
  window.removeEventListener('unhandledrejection', note);
  await timers.advance(20);
  equal([unhandled, chat.snapshot().error.message], [[], 'mine']);
});

// Others -------------------------------------------------------------------------------------

scenario('typists and people come and go, and are unknown without a connection', async () => {
  const { chat, timers, last, say } = await makeChat();
  const seen = async () => {
    await timers.advance(20);
    const { typists, people } = chat.snapshot();
    return [typists.map(({ username }) => username), people.map(({ username }) => username)];
  };
  const [ada, gus] = ['ada', 'gus'].map((username) => ({ user_id: username, username }));
  equal(last().url.searchParams.get('presence'), 'true');
  last().establish();
  say('presence_state', { users: [ada] });
  say('presence_diff', { joined: [gus], left: [ada] });
  say('typing_indicator', { ...gus, is_typing: true });
  say('typing_indicator', { ...ada, is_typing: true });
  equal(await seen(), [['gus', 'ada'], ['gus']]);
  say('chat_message', message('1', gus));
  equal(await seen(), [['ada'], ['gus']]);
  await timers.advance(10_000);
  equal(await seen(), [[], ['gus']], 'a stop that was lost');
  await last().end(1006);
  equal(await seen(), [[], []]);
});

scenario('the end is told with its meaning', async () => {
  const { chat, timers, last } = await makeChat();
  last().establish();
  await last().end(4003, 'access ended');
  await timers.advance(20);
  const { state, closed } = chat.snapshot();
  equal([state, closed.code, closed.final], ['closed', 4003, true]);
});

scenario('a thousand events are few pictures, and each picture stays as it was', async () => {
  const world = await makeChat();
  world.last().establish();
  const before = world.chat.snapshot();
  const { told } = world;
  for (let id = 0; id < 1_000; id += 1) world.say('chat_message', message(`${id}`));
  equal((await world.shown()).length, 1_000);
  check(world.told - told < 5, `${world.told - told} pictures`);
  equal(before.messages, []);
});

scenario('what has not changed stays the same object, and of nothing new nobody is told', async () => {
  const messages = [message('1', { metadata: { a: [1] } }), message('2')];
  const history = async () => ({ messages, cursor: 'c' });
  const world = await makeChat({ history });
  const { chat, timers, last, say } = world;
  const [ada, gus] = ['ada', 'gus'].map((username) => ({ user_id: username, username }));
  last().establish({ recovered: true });
  say('presence_state', { users: [ada] });
  for (const one of [ada, gus]) say('typing_indicator', { ...one, is_typing: true });
  await timers.advance(20);
  const after = async (change) => {
    const [before, told] = [chat.snapshot(), world.told];
    await change();
    await timers.advance(20);
    const now = chat.snapshot();
    check((now === before) === (world.told === told), 'who is told is told of another picture');
    return Object.keys(now).filter((name) => now[name] !== before[name]);
  };
  const changed = async (names, change) => equal(await after(change), names, String(change));
  await changed([], () => timers.advance(5_000));
  await changed([], () => last().say({ type: 'pong', timestamp: 't' }));
  await changed([], () => say('poll', {}));
  await changed([], () => [ada, gus].forEach((one) => say('typing_indicator', { ...one, is_typing: true })));
  await changed([], () => say('presence_state', { users: [{ ...ada }] }));
  await changed([], () => say('presence_diff', { joined: [], left: [gus] }));
  await changed([], () => say('chat_message_update', { message_id: 'old', action: 'deleted' }));
  await changed([], () => say('chat_message', message('1', { metadata: { a: [1] } })));
  await changed(['typists'], () => say('typing_indicator', { ...gus, is_typing: false }));
  await changed(['people'], () => say('presence_diff', { joined: [gus], left: [] }));
  const [, second] = chat.snapshot().messages;
  await changed(['messages'], () => say('chat_message', message('1', { metadata: { a: [2] } })));
  await changed(['messages'], () => say('chat_message_update', { ...message('1', { metadata: { b: [2] } }), action: 'edited' }));
  await changed(['messages'], () => say('chat_message', message('3')));
  await changed(['messages'], () => (chat.reload(), settle()));
  check(chat.snapshot().messages[1] === second, 'a message that is as it was is the same');
});

scenario('wake does not sit out a wait, also of a connection that is shared', async () => {
  const { chat, timers, sockets, last } = await makeChat();
  last().establish();
  await last().end(1006);
  chat.wake();
  await settle();
  equal(sockets.length, 2);
  const world = { sockets: [] };
  const options = { timers, random: () => 0.5, page: {} };
  const shared = new SharedConnection({ token: 't', WebSocket: socketsOf(world), ...options });
  const other = await makeChat({ ...options, shared });
  await world.sockets[0].end(1006);
  other.chat.wake();
  await settle();
  equal(world.sockets.length, 2);
  other.stop();
  other.chat.wake();
  (await makeChat({ botId: '' })).chat.wake();
});

scenario('a conversation that is stopped while its history hangs leaves nothing behind', async () => {
  const { timers, stop } = await makeChat({ history: () => new Promise(() => {}) });
  stop();
  await settle();
  equal(timers.pending, 0);
});

scenario('a stopped conversation leaves nothing behind', async () => {
  const { timers, last, say, stop } = await makeChat();
  last().establish();
  say('typing_indicator', { user_id: 'a', username: 'ada', is_typing: true });
  stop();
  equal([timers.pending, last().closedWith], [0, 1000]);
});
