/**
 * What realtime.js promises, one scenario each, named by a sentence.
 *
 * test_javascript_client.py finds the names by the calls of `scenario` in these files and runs each by
 * `window.runScenario(name)`. bot_chat.js has the others.
 */

import { chat, check, equal, FakeTimers, makeWorld, scenario, settle, socketsOf } from './harness.js';
import { PAGE_TIMERS } from '/static/client/timers.js';
import { connect, FAILURES, RealtimeClient, SharedConnection, TIMINGS } from '/static/realtime.js';

// Addresses ----------------------------------------------------------------------------------

scenario('the address is the guide’s, on the page’s own origin', async () => {
  const { sockets } = await makeWorld();
  equal(sockets[0].url.href, `ws://${location.host}/api/ws/chat/bot?cursor=`);
  equal(sockets[0].protocols, ['bearer', 'first']);
});

scenario('a given https address becomes wss and keeps its path', async () => {
  const { sockets } = await makeWorld({ url: 'https://example.org/live/' });
  equal(sockets[0].url.href, 'wss://example.org/live/api/ws/chat/bot?cursor=');
});

scenario('the token may travel in the address', async () => {
  const { sockets } = await makeWorld({ tokenIn: 'query' });
  equal([sockets[0].protocols, sockets[0].url.search], [undefined, '?cursor=&token=first']);
});

scenario('notifications have an endpoint of their own', async () => {
  const { sockets } = await makeWorld({ notifications: true });
  equal(sockets[0].url.pathname, '/api/ws/notifications');
});

scenario('presence is asked for at every connection, and its messages are handed over', async () => {
  const { client, sockets, last, redial } = await makeWorld({ presence: true });
  const heard = [];
  client.on('presence_state', ({ data }) => heard.push(data));
  client.on('presence_diff', ({ data }) => heard.push(data));
  const state = { users: [{ user_id: 'u', username: 'ada', since: 's' }] };
  const diff = { joined: [], left: state.users };
  for (const round of [0, 1]) {
    equal(sockets[round].url.searchParams.get('presence'), 'true');
    last().establish();
    last().say({ type: 'presence_state', bot_id: 'bot', data: state });
    last().say({ type: 'presence_diff', bot_id: 'bot', data: diff });
    await last().end(1001);
    await redial();
  }
  equal(heard, [state, diff, state, diff]);
});

scenario('timings that are left out are the usual ones, and what is no time is a mistake', () => {
  const options = { botId: 'b', token: 't', page: {} };
  new RealtimeClient({ ...options, timings: { pingEvery: undefined, backoffMost: Infinity } });
  for (const timings of [{ pingEvery: NaN }, { pongWithin: -1 }, { backoffFirst: '1000' }]) {
    let thrown = null;
    try {
      new RealtimeClient({ ...options, timings });
    } catch (error) {
      thrown = error;
    }
    check(thrown instanceof TypeError && /timings\./.test(thrown.message), thrown?.message);
  }
});

scenario('a wait that no timer can hold is a long one', async () => {
  let fired = false;
  const timer = PAGE_TIMERS.setTimeout(() => (fired = true), Infinity);
  await new Promise((resolve) => setTimeout(resolve, 20));
  PAGE_TIMERS.clearTimeout(timer);
  check(!fired, 'not at once');
});

scenario('neither or both endpoints is a mistake told at once', () => {
  for (const options of [{ token: 't' }, { botId: 'b', notifications: true }]) {
    let thrown = null;
    try {
      new RealtimeClient(options);
    } catch (error) {
      thrown = error;
    }
    check(thrown instanceof TypeError, 'a TypeError is thrown');
  }
});

scenario('a token that no browser can send ends the client instead of looping', async () => {
  const { client, sockets, timers, told } = await makeWorld({ token: 'a b' });
  equal([client.state, sockets.length, timers.pending], ['closed', 0, 0]);
  equal([told('close')[0].code, told('close')[0].reason], [4001, 'the token is malformed']);
});

// Failures -----------------------------------------------------------------------------------

scenario('without a WebSocket the client says so and ends', async () => {
  const { WebSocket } = globalThis;
  try {
    globalThis.WebSocket = undefined;
    const { client, timers, told } = await makeWorld({ WebSocket: undefined });
    equal([client.state, client.failure, timers.pending], ['closed', 'no_websocket', 0]);
    equal([told('close')[0].code, told('close')[0].meaning], [null, FAILURES.no_websocket]);
    equal(told('error')[0].code, 'no_websocket');
  } finally {
    globalThis.WebSocket = WebSocket;
  }
});

scenario('what is no address of a server is told, and ends the client', async () => {
  for (const url of ['https://', 'ftp://example.org', 'mailto:ada@example.org']) {
    const { client, sockets, timers, told } = await makeWorld({ url });
    equal([client.state, client.failure, sockets.length], ['closed', 'bad_address', 0], url);
    equal([told('close')[0].code, told('close')[0].final, timers.pending], [null, true, 0], url);
  }
});

scenario('half a character in an address is told, and ends the client', async () => {
  for (const options of [{ cursor: '\ud800' }, { parameters: { '\udc00': 'x' } }]) {
    const { client, sockets, told } = await makeWorld(options);
    equal([client.state, client.failure, sockets.length], ['closed', 'bad_address', 0]);
    check(/half a character/.test(told('error')[0].message), told('error')[0].message);
  }
});

scenario('the query of an address and its credentials are kept', async () => {
  const parameters = { 'a b': '&' };
  const { sockets } = await makeWorld({ url: 'https://ada:pw@example.org/x?y=1#z', parameters });
  equal(
    sockets[0].url.href,
    'wss://ada:pw@example.org/x/api/ws/chat/bot?y=1&a%20b=%26&cursor=',
  );
  equal(sockets[0].token, 'first');
});

scenario('a server that takes no connection is told apart from one that cuts it', async () => {
  const { client, told, last, redial } = await makeWorld();
  last().onerror({ message: 'connect ECONNREFUSED' });
  await last().end(1006);
  const [{ code, reason, meaning, final, failure }] = told('close');
  equal([code, reason, final, failure], [1006, 'connect ECONNREFUSED', false, 'unreachable']);
  equal([meaning, client.failure], [FAILURES.unreachable, 'unreachable']);
  await redial();
  last().onopen();
  await last().end(1006);
  equal([told('close')[1].failure, client.failure], [undefined, null]);
});

scenario('an error of a socket always has somebody who hears it', async () => {
  const { client, last } = await makeWorld();
  const socket = last();
  socket.readyState = 0;
  client.close();
  socket.onerror(new Event('error'));
});

// Reconnecting -------------------------------------------------------------------------------

scenario(
  'the wait before a reconnect is anywhere within a window that doubles up to a limit',
  async () => {
    for (const [random, share] of [
      [0, 0],
      [0.25, 0.25],
      [0.999, 0.999],
    ]) {
      const { timers, told, last } = await makeWorld({ random: () => random });
      for (let attempt = 0; attempt < 8; attempt += 1) {
        await last().end(1006);
        const window = Math.min(30_000, 1_000 * 2 ** attempt);
        equal(told('reconnecting').at(-1), {
          event: 'reconnecting',
          attempt: attempt + 1,
          delay: share * window,
          code: 1006,
          reason: '',
        });
        await timers.advance(share * window);
      }
    }
  },
);

scenario('codes that promise a return are reconnected after', async () => {
  for (const code of [1001, 1005, 1006, 1008, 1011, 1013]) {
    const { client, sockets, last, redial } = await makeWorld();
    last().establish();
    await last().end(code);
    equal(client.state, 'reconnecting', `after ${code}`);
    await redial();
    equal(sockets.length, 2, `sockets after ${code}`);
  }
});

scenario('1000, 4001, 4003 and 4029 are final', async () => {
  for (const code of [1000, 4001, 4003, 4029]) {
    const { client, timers, sockets, told, last } = await makeWorld();
    last().establish();
    await last().end(code, 'because');
    equal(client.state, 'closed', `after ${code}`);
    equal(
      told('close').map(({ code, reason, final }) => [code, reason, final]),
      [[code, 'because', true]],
    );
    await timers.advance(3_600_000);
    equal([sockets.length, timers.pending], [1, 0], `sockets and timers after ${code}`);
  }
});

scenario('a handshake alone does not make the waits short again', async () => {
  const { timers, told, last, redial } = await makeWorld();
  for (let round = 0; round < 4; round += 1) {
    last().establish();
    await timers.advance(1_000);
    await last().end(1013);
    await redial();
  }
  equal(
    told('reconnecting').map(({ delay }) => delay),
    [500, 1_000, 2_000, 4_000],
  );
});

scenario('a connection that held makes the waits short again', async () => {
  const { timers, told, last } = await makeWorld();
  await last().end(1006);
  await timers.advance(500);
  await last().end(1006);
  await timers.advance(1_000);
  last().establish();
  await timers.advance(10_000);
  await last().end(1006);
  equal(
    told('reconnecting').map(({ delay }) => delay),
    [500, 1_000, 500],
  );
});

scenario('a server that goes away says when to return', async () => {
  const { client, last, told } = await makeWorld();
  const waits = [];
  for (const seconds of [5, 0, -1, 'soon', 1e9, null]) {
    last().establish();
    last().say({ type: 'going_away', data: { retry_after_seconds: seconds } });
    await last().end(1001);
    waits.push(told('reconnecting').at(-1).delay);
    client.wake();
    await settle();
  }
  equal(waits, [5_500, 1_000, 2_000, 4_000, 8_000, 15_000]);
});

scenario('after the rate limit the wait starts long', async () => {
  const { told, last } = await makeWorld();
  last().establish();
  await last().end(1008);
  equal(told('reconnecting')[0].delay, 8_000);
});

scenario('a server that takes the connection and says nothing is left', async () => {
  const { client, timers, told, last } = await makeWorld();
  await timers.advance(15_000);
  equal([client.state, last().closedWith, told('close')[0].code], ['reconnecting', 4000, 4000]);
});

scenario('the network’s return or the person’s reconnects at once', async () => {
  for (const wake of [
    ({ page }) => page.window.dispatchEvent(new Event('online')),
    ({ page }) => {
      page.document.visibilityState = 'visible';
      page.document.dispatchEvent(new Event('visibilitychange'));
    },
  ]) {
    const world = await makeWorld();
    await world.last().end(1006);
    wake(world);
    await settle();
    equal([world.client.state, world.sockets.length], ['connecting', 2]);
    await world.timers.advance(2_000);
    equal(world.sockets.length, 2, 'the wait that was cut short does not dial again');
  }
});

scenario('a page that is hidden wakes nothing', async () => {
  const { page, client, last } = await makeWorld();
  await last().end(1006);
  page.document.visibilityState = 'hidden';
  page.document.dispatchEvent(new Event('visibilitychange'));
  equal(client.state, 'reconnecting');
});

scenario('close is 1000, final, and leaves no timer', async () => {
  const { client, timers, page, sockets, told, last } = await makeWorld();
  last().establish();
  client.typing(true);
  client.close();
  client.close();
  equal([client.state, last().closedWith, timers.pending], ['closed', 1000, 0]);
  equal(
    told('close').map(({ code, final }) => [code, final]),
    [[1000, true]],
  );
  page.window.dispatchEvent(new Event('online'));
  last().say(chat('late'));
  await timers.advance(60_000);
  equal([sockets.length, told('chat_message').length], [1, 0]);
});

scenario('close before a socket opened waits for that, so that the browser logs no error', async () => {
  const { client, timers, told, last } = await makeWorld();
  last().readyState = 0;
  client.close();
  equal([client.state, last().closedWith, told('close').length], ['closed', null, 1]);
  last().onopen();
  equal(last().closedWith, 1000);
  await last().end(1000);
  equal([timers.pending, told('close').length], [0, 1]);
});

scenario('close before a socket opened does not wait for ever', async () => {
  const { client, timers, last } = await makeWorld();
  last().readyState = 0;
  client.close();
  await timers.advance(TIMINGS.connectWithin);
  equal([last().closedWith, timers.pending], [1000, 0]);
});

scenario('close during a wait or a dial is final too', async () => {
  const waiting = await makeWorld();
  await waiting.last().end(1006);
  waiting.client.close();
  await waiting.timers.advance(60_000);
  equal([waiting.sockets.length, waiting.timers.pending], [1, 0]);

  const dialling = await makeWorld({ token: undefined, getToken: () => settle().then(() => 't') });
  dialling.client.close();
  await settle();
  await settle();
  equal([dialling.client.state, dialling.sockets.length], ['closed', 0]);
});

scenario('a handler of close may close for good', async () => {
  const { client, timers, sockets, last } = await makeWorld();
  client.once('close', () => client.close());
  await last().end(1006);
  await timers.advance(60_000);
  equal([client.state, sockets.length], ['closed', 1]);
});

scenario('connect starts a closed client again, with its cursor', async () => {
  const { client, sockets, last } = await makeWorld();
  last().establish({ cursor: 'kept' });
  await last().end(4029);
  client.connect();
  client.connect();
  await settle();
  equal([sockets.length, last().url.searchParams.get('cursor')], [2, 'kept']);
});

// Resuming -----------------------------------------------------------------------------------

scenario(
  'the newest cursor of established, events and pongs is sent on the reconnect',
  async () => {
    const { client, last, redial } = await makeWorld({ cursor: 'saved' });
    const reconnected = async () => {
      await last().end(1006);
      await redial();
      return last().url.searchParams.get('cursor');
    };
    equal(last().url.searchParams.get('cursor'), 'saved');
    last().establish({ cursor: 'c1', recovered: false });
    equal(await reconnected(), 'c1');
    last().establish({ cursor: 'c1', recovered: true });
    last().say(chat('1'));
    last().say(chat('2', 'c2'));
    last().say(chat('3'));
    equal(await reconnected(), 'c2');
    last().establish({ cursor: 'c2', recovered: true });
    last().say({ type: 'pong', timestamp: 'x', cursor: 'c3' });
    equal([client.cursor, await reconnected()], ['c3', 'c3']);
  },
);

scenario('a replay that is cut short is asked for again from where it began', async () => {
  const { last, redial } = await makeWorld({ cursor: 'old' });
  last().establish({ cursor: 'end-of-replay', recovered: true });
  last().say(chat('1'));
  await last().end(1006);
  await redial();
  equal(last().url.searchParams.get('cursor'), 'old');
});

scenario('an event that comes twice around a reconnect is handed over once', async () => {
  const { told, last, client, redial } = await makeWorld();
  last().establish();
  last().say(chat('1'));
  last().say(chat('2'));
  await last().end(1001);
  await redial();
  last().establish({ recovered: true });
  last().say(chat('2', 'c9'));
  last().say(chat('3'));
  equal(
    told('chat_message').map(({ id }) => id),
    ['1', '2', '3'],
  );
  equal(client.cursor, 'c9', 'the cursor of a repeated event');
});

scenario('recovered false forgets the ids and tells the app to refetch', async () => {
  const { told, last, redial } = await makeWorld();
  last().establish();
  last().say(chat('1'));
  await last().end(1001);
  await redial();
  last().establish({ recovered: false, reason: 'foreign', cursor: 'new' });
  last().say(chat('1'));
  equal(told('chat_message').length, 2, 'the id means another event now');
  equal(told('resync'), [{ event: 'resync', type: 'resync', data: { reason: 'foreign' } }]);
  equal(told('open').at(-1).recovered, false);
});

scenario('a first cursor that is refused tells the app to refetch, and why', async () => {
  for (const reason of ['foreign', 'too_old']) {
    const { told, last, client } = await makeWorld({ cursor: 'loaded' });
    equal(last().url.searchParams.get('cursor'), 'loaded');
    last().establish({ recovered: false, reason, cursor: 'new' });
    equal(told('resync'), [{ event: 'resync', type: 'resync', data: { reason } }]);
    equal([told('open').at(-1).recovered, client.cursor], [false, 'new']);
  }
});

scenario('without a first cursor, open says nothing of what was recovered', async () => {
  const { told, last } = await makeWorld({ cursor: null });
  equal(last().url.searchParams.get('cursor'), '');
  last().establish({ cursor: 'new' });
  equal([told('open')[0].recovered, told('resync').length], [undefined, 0]);
});

scenario('a server that knows no cursors makes the app refetch too', async () => {
  const { told, last } = await makeWorld({ cursor: 'saved' });
  last().establish({ cursor: undefined });
  equal([told('resync').length, told('open')[0].recovered], [1, false]);
});

scenario('a first connection has nothing to recover', async () => {
  const { told, last } = await makeWorld();
  last().establish();
  equal(told('resync'), []);
});

scenario('a resync on a live connection reaches the app', async () => {
  const { told, last } = await makeWorld();
  last().establish();
  last().say({ type: 'resync', data: { reason: 'lost' } });
  equal(
    told('resync').map(({ data }) => data.reason),
    ['lost'],
  );
});

scenario('the memory of ids is bounded and drops the oldest', async () => {
  const { told, last } = await makeWorld({ timings: { rememberIds: 2 } });
  last().establish();
  for (const id of ['1', '2', '3', '3', '2', '1']) last().say(chat(id));
  equal(
    told('chat_message').map(({ id }) => id),
    ['1', '2', '3', '1'],
  );
});

// Tokens -------------------------------------------------------------------------------------

scenario('refresh goes into an open connection and into the next one', async () => {
  const { client, last, redial } = await makeWorld();
  last().establish();
  client.refresh('second');
  equal(last().sentOf('authenticate'), [{ type: 'authenticate', data: { token: 'second' } }]);
  await last().end(1006);
  client.refresh('third');
  await redial();
  equal(last().token, 'third');
  last().establish();
  equal(last().sentOf('authenticate'), []);
});

scenario('refresh during a handshake is said as soon as the connection stands', async () => {
  const { client, last } = await makeWorld();
  client.refresh('second');
  equal(last().sent, []);
  last().establish();
  equal(last().sentOf('authenticate').length, 1);
});

scenario('getToken is asked when the token is about to expire', async () => {
  const { last } = await makeWorld({ getToken: async () => 'second' });
  last().establish();
  last().say({ type: 'token_expiring', data: { expires_at: 'soon' } });
  await settle();
  equal(
    last()
      .sentOf('authenticate')
      .map(({ data }) => data.token),
    ['second'],
  );
});

scenario('after 4001 a new token from getToken reconnects', async () => {
  const { sockets, last, told, redial } = await makeWorld({ getToken: async () => 'second' });
  last().establish();
  await last().end(4001);
  equal(told('close')[0].final, false);
  await redial();
  equal([sockets.length, last().token], [2, 'second']);
});

scenario('after 4001 no token is the end', async () => {
  for (const token of [null, undefined, '']) {
    const { client, timers, sockets, told } = await makeWorld({ getToken: async () => token });
    await sockets[0].end(4001);
    await timers.advance(3_600_000);
    equal([client.state, sockets.length, timers.pending], ['closed', 1, 0]);
    equal(told('close').at(-1).final, true);
  }
});

scenario('after 4001 an issuer that gives the refused token for a while is asked again', async () => {
  const answers = ['first', 'first', 'first', 'second'];
  const { client, timers, sockets, last, told } = await makeWorld({
    getToken: async () => answers.shift(),
  });
  await last().end(4001, 'token expired');
  await timers.advance(10_000);
  equal([client.state, sockets.length, last().token], ['connecting', 2, 'second']);
  equal(
    told('reconnecting').map(({ delay, code }) => [delay, code]),
    [[500, 4001], [1_000, null], [2_000, null], [4_000, null]],
  );
});

scenario('answers that are refused on the connection are asked for with waits that grow', async () => {
  const asked = [];
  const { timers, sockets, last, redial } = await makeWorld({
    getToken: async () => `t${asked.push(timers.now())}`,
    timings: { stableAfter: 0 },
  });
  last().establish();
  last().say({ type: 'token_expiring', data: {} });
  const waits = [];
  for (let round = 0; round < 5; round += 1) {
    await settle();
    equal(last().sentOf('authenticate').length, 1);
    await last().end(4001, 'token invalid');
    await redial();
    equal(last().token, 'first');
    const opened = timers.now();
    last().establish({ recovered: true });
    await timers.advance(10_000);
    waits.push(asked.at(-1) - opened);
  }
  equal([waits, sockets.length], [[500, 1_000, 2_000, 4_000, 8_000], 6]);
});

scenario('a client that the page has closed asks who comes next, and forgets what was asked', async () => {
  const answers = [];
  const getToken = () => new Promise((resolve) => answers.push(resolve));
  const { client, sockets, last } = await makeWorld({ getToken });
  last().establish();
  last().say({ type: 'token_expiring', data: {} });
  await settle();
  client.close();
  client.connect();
  await settle();
  equal([answers.length, sockets.length], [2, 1]);
  answers[0]('old');
  answers[1]('theirs');
  await settle();
  equal([sockets.length, last().token], [2, 'theirs']);
});

scenario('new tokens that are refused too are not asked for without end', async () => {
  let minted = 0;
  const { client, redial, sockets, last } = await makeWorld({
    getToken: () => `t${(minted += 1)}`,
  });
  for (let round = 0; round < 5; round += 1) {
    await last().end(4001);
    await redial();
  }
  equal([client.state, sockets.length, minted], ['closed', 2, 1]);
});

scenario('a new token that is refused on the connection does not condemn the old one', async () => {
  const { client, sockets, last, redial } = await makeWorld();
  last().establish();
  client.refresh('second');
  await last().end(4001);
  await redial();
  equal([sockets.length, last().token], [2, 'first']);
  last().establish();
  equal(last().sentOf('authenticate'), [], 'what was refused is not offered again');
});

scenario('a new token that the server had no time to take is used where the old one has ended', async () => {
  const { client, sockets, last, redial } = await makeWorld();
  last().establish();
  client.refresh('second');
  for (const token of ['first', 'second']) {
    await last().end(4001);
    await redial();
    equal(last().token, token);
  }
  await last().end(4001);
  equal([client.state, sockets.length], ['closed', 3]);
});

scenario('a server that warns at once of each new token has the issuer asked twice in a life', async () => {
  for (const [life, questions] of [
    [60, 11],
    [20, 31],
    [600, 11],
  ]) {
    let asked = 0;
    const getToken = () => `t${(asked += 1)}`;
    const { timers, last } = await makeWorld({ token: undefined, getToken });
    const greet = (type) => {
      const data = { expires_at: new Date(timers.wallClock() + 1_000 * life).toISOString() };
      last().say({ type, data });
      last().say({ type: 'token_expiring', data });
    };
    greet('connection_established');
    let taken = 0;
    for (let second = 0; second < 300; second += 1) {
      await timers.advance(1_000);
      last().say({ type: 'other' });
      for (; taken < last().sentOf('authenticate').length; taken += 1) greet('authenticated');
    }
    equal(asked, questions, `one at first, and then every ${Math.min(life / 2, 30)} s`);
  }
});

scenario('however often the server warns of one token, one question follows', async () => {
  let asked = 0;
  const getToken = () => ((asked += 1), 'second');
  const { last } = await makeWorld({ getToken });
  last().establish();
  for (let warning = 0; warning < 5; warning += 1) {
    last().say({ type: 'token_expiring', data: {} });
    await settle();
  }
  equal([asked, last().sentOf('authenticate').length], [1, 1]);
});

scenario('a bad answer of the issuer is asked again while the old token lasts, and after', async () => {
  const answers = ['<html>502</html>', 7, new Error('down'), 'first', '{"error":1}', 'good'];
  const getToken = async () => {
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const { client, timers, last, told, redial } = await makeWorld({ getToken });
  last().establish();
  last().say({ type: 'token_expiring', data: {} });
  await settle();
  for (const wait of [500, 1_000, 2_000]) await timers.advance(wait);
  equal([client.state, answers.length, told('reconnecting')], ['open', 2, []]);
  await last().end(4001);
  for (let round = 0; round < 2; round += 1) await redial();
  equal([answers.length, last().token], [0, 'good']);
});

scenario('refresh wins over a question that was asked before', async () => {
  let answer;
  const getToken = () => new Promise((resolve) => (answer = resolve));
  const { client, last, redial } = await makeWorld({ getToken });
  last().establish();
  last().say({ type: 'token_expiring', data: {} });
  await settle();
  client.refresh('newest');
  answer('late');
  await settle();
  equal(last().sentOf('authenticate').map(({ data }) => data.token), ['newest']);
  await last().end(1006);
  await redial();
  equal(last().token, 'newest');
});

scenario('a client that is closed waits for no token, and asks anew when it is started', async () => {
  let questions = 0;
  const getToken = () => ((questions += 1), new Promise(() => {}));
  const { client, timers, told } = await makeWorld({ token: undefined, getToken });
  client.close();
  await settle();
  equal([timers.pending, told('error')], [0, []]);
  client.connect();
  await settle();
  equal(questions, 2);
  client.close();
  const open = await makeWorld({ getToken });
  open.last().establish();
  open.last().say({ type: 'token_expiring', data: {} });
  await settle();
  open.client.close();
  await settle();
  equal([open.timers.pending, open.told('error')], [0, []]);
});

scenario('a getToken that fails or hangs is asked again later', async () => {
  const answers = [
    () => Promise.reject(new Error('down')),
    () => new Promise(() => {}),
    () => 'good',
  ];
  const getToken = () => answers.shift()();
  const { timers, sockets, told } = await makeWorld({ token: undefined, getToken });
  equal(
    told('error').map(({ code }) => code),
    ['token_unavailable'],
  );
  await timers.advance(17_000);
  equal([sockets.length, answers.length], [1, 0]);
});

scenario('a getToken that takes too long is told to end, and so is one that nobody waits for', async () => {
  const signals = [];
  const getToken = ({ signal }) => {
    signals.push(signal);
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  };
  const { client, timers, told } = await makeWorld({ token: undefined, getToken });
  await timers.advance(14_999);
  equal(signals.map(({ aborted }) => aborted), [false]);
  await timers.advance(1);
  equal([signals[0].aborted, signals[0].reason.name], [true, 'TimeoutError']);
  equal(told('error').map(({ cause }) => cause.name), ['TimeoutError']);
  await timers.advance(1_000);
  equal(signals.map(({ aborted }) => aborted), [true, false]);
  client.close();
  await settle();
  equal([signals[1].aborted, signals[1].reason.name], [true, 'AbortError']);
  equal([told('error').length, timers.pending], [1, 0]);
});

/** A function whose questions the test answers when it likes: `asked` are those that were put. */
function answeredLater() {
  const asked = [];
  const ask = () => new Promise((resolve, reject) => asked.push({ resolve, reject }));
  return { asked, ask };
}

scenario('a token that comes too late is used, and ends the question after it', async () => {
  for (const state of ['reconnecting', 'connecting']) {
    const { asked, ask: getToken } = answeredLater();
    const { client, timers, sockets, last } = await makeWorld({ token: undefined, getToken });
    await timers.advance(15_000);
    if (state === 'connecting') await timers.advance(500);
    equal([client.state, asked.length], [state, state === 'connecting' ? 2 : 1]);
    asked[0].resolve('late');
    await settle();
    await timers.advance(500);
    equal([sockets.length, last()?.token], [1, 'late'], state);
    last().establish();
    asked[1]?.resolve('later');
    await timers.advance(5_000);
    equal([client.state, last().sentOf('authenticate').length], ['open', 0], state);
    client.close();
    await settle();
    equal(timers.pending, 0, state);
  }
});

scenario('a token that comes too late is said on an open connection, once', async () => {
  for (const isAskedAgain of [false, true]) {
    const { asked, ask: getToken } = answeredLater();
    const { timers, last } = await makeWorld({ getToken });
    last().establish();
    last().say({ type: 'token_expiring', data: {} });
    await timers.advance(15_000);
    if (isAskedAgain) await timers.advance(500);
    asked[0].resolve('late');
    await settle();
    asked[1]?.resolve('later');
    await timers.advance(5_000);
    equal(last().sentOf('authenticate').map(({ data }) => data.token), ['late']);
    equal(asked.length, isAskedAgain ? 2 : 1);
  }
});

scenario('an answer that comes too late does not count where it is bad, or older than the token', async () => {
  const newer = {
    'of the next question': ({ asked }) => asked[1].resolve('newer'),
    'of the page': ({ client }) => client.refresh('newer'),
  };
  for (const [whose, give] of Object.entries(newer)) {
    for (const late of ['late', null, '<html>', 'first']) {
      const { asked, ask: getToken } = answeredLater();
      const { client, timers, last, told, redial } = await makeWorld({ getToken });
      last().establish();
      last().say({ type: 'token_expiring', data: {} });
      await timers.advance(15_500);
      if (late !== 'late') asked[0].resolve(late);
      await settle();
      give({ asked, client });
      await settle();
      if (late === 'late') asked[0].resolve(late);
      await settle();
      equal(last().sentOf('authenticate').map(({ data }) => data.token), ['newer'], whose);
      equal(told('error').length, 1, 'there was no answer in time');
      await last().end(1006);
      await redial();
      equal(last().token, 'newer', `${whose}, ${late}`);
    }
  }
});

scenario('a token that comes after the client was closed is not kept', async () => {
  const { asked, ask: getToken } = answeredLater();
  const { client, timers, sockets } = await makeWorld({ token: undefined, getToken });
  await timers.advance(15_000);
  client.close();
  asked[0].resolve('of the one before');
  await settle();
  client.connect();
  await settle();
  asked[1].resolve('mine');
  await settle();
  equal(sockets.map(({ token }) => token), ['mine']);
});

// Heartbeats ---------------------------------------------------------------------------------

scenario('a socket that hangs while it closes is left', async () => {
  const { client, timers, sockets, told } = await makeWorld();
  sockets[0].establish();
  sockets[0].readyState = 2;
  await timers.advance(27_500 + 10_001);
  equal([client.state, told('close')[0].code], ['reconnecting', 4000]);
  await timers.advance(1_000);
  equal(sockets.length, 2);
});

scenario('a page that comes back from the browser’s cache connects at once', async () => {
  const { page, client, sockets } = await makeWorld();
  sockets[0].establish();
  sockets[0].readyState = 3;
  page.window.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
  await settle();
  equal([client.state, sockets.length], ['connecting', 2]);
});

scenario('pings go out every 25 to 30 seconds and their round trip is told', async () => {
  for (const [random, wait] of [
    [0, 25_000],
    [1, 30_000],
  ]) {
    const { client, timers, last } = await makeWorld({ random: () => random });
    last().establish();
    await timers.advance(wait - 1);
    equal(last().sentOf('ping').length, 0);
    await timers.advance(1);
    equal(last().sentOf('ping').length, 1);
    await timers.advance(40);
    last().say({ type: 'pong', timestamp: last().sentOf('ping')[0].timestamp });
    equal(client.latency, 40);
    await timers.advance(wait);
    equal(last().sentOf('ping').length, 2);
  }
});

scenario('a ping that nothing answers is the end of that socket', async () => {
  const { client, timers, sockets, told } = await makeWorld();
  sockets[0].establish();
  await timers.advance(27_500 + 9_000);
  equal(client.state, 'open');
  await timers.advance(1_001);
  equal([client.state, sockets[0].closedWith], ['reconnecting', 4000]);
  equal(told('close')[0].code, 4000);
  await timers.advance(500);
  equal(sockets.length, 2);
});

scenario('after a ping that nothing answered, the next socket may take four times as long', async () => {
  const { client, timers, sockets, last } = await makeWorld();
  // A large message on a slow line is silence, and comes anew on each socket.
  for (const seconds of [10, 40, 160, 640, 2_560, 10_240, 10_240]) {
    last().establish();
    await timers.advance(27_500);
    await timers.advance(seconds * 1_000 - 1);
    equal(client.state, 'open');
    await timers.advance(1);
    equal(client.state, 'reconnecting');
    await timers.advance(500);
  }
  last().establish();
  await timers.advance(27_500 + 9_000_000);
  last().say(chat('large'));
  last().say({ type: 'pong' });
  equal(sockets.length, 8);
  await timers.advance(27_500 + 10_000);
  equal(sockets.length, 9);
});

scenario('any frame is a sign of life', async () => {
  const { client, timers, last } = await makeWorld();
  last().establish();
  await timers.advance(28_000);
  equal(last().sentOf('ping').length, 1);
  last().say(chat('1'));
  await timers.advance(15_000);
  equal(client.state, 'open');
});

scenario('coming back to the page asks for a sign of life', async () => {
  const { page, last } = await makeWorld();
  last().establish();
  page.window.dispatchEvent(new Event('online'));
  equal(last().sentOf('ping').length, 1);
});

// Typing and the rest ------------------------------------------------------------------------

scenario('keystrokes are few messages and their end is told', async () => {
  const { client, timers, last } = await makeWorld();
  const said = () =>
    last()
      .sentOf('typing')
      .map(({ data }) => data.is_typing);
  client.typing(true);
  equal(last().sent, [], 'nothing is said before the connection stands');
  last().establish();
  for (let key = 0; key < 30; key += 1) {
    client.typing(true);
    await timers.advance(100);
  }
  equal(said(), [true, true]);
  await timers.advance(4_000);
  equal(said(), [true, true, false]);
  client.typing(false);
  client.typing(true);
  client.typing(false);
  equal(said(), [true, true, false, true, false]);
});

scenario('sessionSync is said when open and refused otherwise', async () => {
  const { client, last } = await makeWorld();
  equal(client.sessionSync('s'), false);
  last().establish();
  equal(client.sessionSync('s'), true);
  equal(last().sent, [{ type: 'session_sync', data: { session_id: 's' } }]);
});

scenario('a handler that throws or rejects is reported and stops no one', async () => {
  const { client, told, last } = await makeWorld();
  const after = [];
  client.on('wave', () => {
    throw new Error('thrown');
  });
  client.on('wave', async () => {
    throw new Error('rejected');
  });
  client.on('wave', ({ data }) => after.push(data));
  client.on('error', () => {
    throw new Error('even here');
  });
  last().establish();
  last().say({ type: 'wave', id: '1', data: 'hello' });
  await settle();
  equal(after, ['hello']);
  equal(
    told('error').map(({ code }) => code),
    ['handler_failed', 'handler_failed'],
  );
  equal(client.state, 'open');
});

scenario('handlers come and go: on, once and the wildcard', async () => {
  const { client, last } = await makeWorld();
  const calls = [];
  const off = client.on('wave', ({ id }) => calls.push(`on ${id}`));
  client.once('wave', ({ id }) => calls.push(`once ${id}`));
  client.on('*', ({ type, id }) => id && calls.push(`* ${type} ${id}`));
  last().establish();
  last().say({ type: 'wave', id: '1' });
  off();
  last().say({ type: 'wave', id: '2' });
  equal(calls, ['on 1', 'once 1', '* wave 1', '* wave 2']);
});

scenario('a handler that another has ended is not called any more', async () => {
  const { client, last } = await makeWorld();
  const calls = [];
  const offs = [
    client.on('wave', () => (calls.push('first'), offs[1]())),
    client.on('wave', () => calls.push('second')),
    client.on('wave', () => calls.push('third')),
  ];
  last().establish();
  last().say({ type: 'wave', id: '1' });
  equal(calls, ['first', 'third']);
});

scenario('what a handler brings about is told after what it was called for', async () => {
  const { client, last } = await makeWorld();
  const seen = [];
  for (const name of ['a', 'b']) {
    client.on('state', ({ state }) => {
      seen.push(`${name} ${state}`);
      if (name === 'a' && state === 'open') client.close();
    });
  }
  last().establish();
  equal(seen, ['a open', 'b open', 'a closed', 'b closed']);
  equal(client.state, 'closed');
});

scenario('an emitted event cannot pose as one of the client’s own', async () => {
  const { client, told, last } = await makeWorld();
  const seen = [];
  client.on('*', ({ type }) => seen.push(type));
  last().establish();
  for (const type of ['close', 'open', 'state', '*']) last().say({ type, data: {} });
  equal(seen, ['connection_established', 'close', 'open', 'state', '*']);
  equal([told('close').length, told('open').length, client.state], [0, 1, 'open']);
});

scenario('a frame that is not a message is reported and handed over as it came', async () => {
  const { client, told, last } = await makeWorld();
  last().establish();
  const frames = ['{', 'null', '[]', '"text"', '{"type":7}', '['.repeat(200_000), '{"a":NaN}'];
  for (const frame of frames) last().say(frame);
  last().onmessage({ data: new Blob(['{"type":"chat_message"}']) });
  last().say(chat('1'));
  equal(
    told('error').map(({ code }) => code),
    Array(8).fill('invalid_json'),
  );
  equal(told('resync').map(({ data }) => data.reason), Array(8).fill('unreadable'));
  equal(told('resync').slice(0, 7).map(({ frame }) => frame), frames);
  equal(await told('resync')[7].frame.text(), '{"type":"chat_message"}');
  equal([told('chat_message').length, client.state, client.cursor], [1, 'open', 'c0']);
});

scenario('the longest number and the deepest value that the server sends are read', async () => {
  const { client, last } = await makeWorld();
  const heard = [];
  client.on('*', (event) => heard.push(event));
  last().establish();
  heard.length = 0;
  const deep = '['.repeat(500) + ']'.repeat(500);
  const metadata = `{"number": ${'9'.repeat(250)}, "string": "${'9'.repeat(5000)}"}`;
  for (const value of [metadata, deep]) {
    last().say(`{"type":"chat_message","id":"${value.length}","data":{"metadata":${value}}}`);
  }
  equal(heard.map(({ type }) => type), ['chat_message', 'chat_message']);
  equal(heard[0].data.metadata, { number: 1e250, string: '9'.repeat(5000) });
});

scenario('members of a message that are of the wrong type cost no message', async () => {
  const { client, told, last } = await makeWorld();
  last().establish();
  const odd = [null, 7, true, [], {}, ''];
  for (const id of odd) for (const _ of [1, 2]) last().say({ ...chat('1'), id, cursor: id });
  for (const cursor of ['x'.repeat(5000), '\ud800', 'ü']) last().say({ ...chat(cursor), cursor });
  last().say({ type: 'chat_message' });
  equal([told('chat_message').length, client.cursor], [16, 'c0']);
  equal([told('error'), told('resync')], [[], []]);
});

scenario('a connection after one that gave no cursor has lost what came between', async () => {
  const { client, told, last, redial } = await makeWorld();
  last().establish({ cursor: null });
  equal([client.cursor, told('resync'), told('open')[0].recovered], [null, [], undefined]);
  await last().end(1006);
  await redial();
  equal(last().url.searchParams.get('cursor'), '');
  last().establish();
  equal([client.cursor, told('resync').length, told('open')[1].recovered], ['c0', 1, false]);
});

scenario('a greeting that lacks its members is one all the same', async () => {
  for (const data of [undefined, null, 7, 'text', [], { cursor: 7, recovered: null }]) {
    const { client, told, last } = await makeWorld({ cursor: 'saved' });
    last().say({ type: 'connection_established', data });
    equal([client.state, client.cursor, told('resync').length], ['open', null, 1]);
  }
  for (const recovered of [0, 1, 'true', {}]) {
    const { client, told, last } = await makeWorld({ cursor: 'saved' });
    last().establish({ recovered, cursor: 'new' });
    equal([client.cursor, told('resync').length], ['new', 1], 'only true is recovered');
  }
});

scenario('a second greeting on a connection starts no second heartbeat', async () => {
  const { timers, last } = await makeWorld();
  last().establish();
  const { pending } = timers;
  last().establish();
  equal(timers.pending, pending);
});

/** A shared connection that is open, without clients yet. */
async function makeShared(options = {}) {
  const world = { timers: new FakeTimers(), sockets: [] };
  const shared = new SharedConnection({
    token: 't',
    timers: world.timers,
    random: () => 0.5,
    page: {},
    WebSocket: socketsOf(world),
    ...options,
  });
  return Object.assign(world, {
    shared,
    socket: async () => {
      await settle();
      return world.sockets.at(-1);
    },
  });
}

/** The types of what was said of subscriptions, in order. */
const asked = (socket) => socket.sent.map(({ type }) => type).filter((type) => type !== 'ping');

scenario('a shared connection that was closed asks for the token of who comes next', async () => {
  const tokens = ['second'];
  const { shared, sockets, socket } = await makeShared({ getToken: async () => tokens.shift() });
  shared.chat('ada');
  (await socket()).say({ type: 'connection_established', data: { user_id: 'me' } });
  shared.close();
  shared.chat('ada');
  await settle();
  equal(sockets.map(({ token }) => token), ['t', 'second']);
});

scenario('a bot that is left where the server is too busy to hear it comes back', async () => {
  const { shared, timers, socket: opened } = await makeShared();
  const old = shared.chat('ada');
  const socket = await opened();
  socket.say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  socket.say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'c' } });
  old.close();
  const client = shared.chat('ada', { cursor: 'c' });
  await settle();
  // Neither was done: the server has the old one still, and then refuses another.
  socket.say({ type: 'error', code: 'rate_limited', message: 'too many', bot_id: 'ada' });
  socket.say({ type: 'chat_message', id: '1', bot_id: 'ada', data: {}, cursor: 'old' });
  socket.say({ type: 'error', code: 'already_subscribed', message: 'again', bot_id: 'ada' });
  equal([client.state, client.cursor], ['reconnecting', 'c']);
  equal(asked(socket), ['subscribe', 'unsubscribe', 'subscribe', 'unsubscribe']);
  socket.say({ type: 'unsubscribed', bot_id: 'ada', data: { code: 1000 } });
  await timers.advance(500);
  socket.say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'c', recovered: true } });
  socket.say({ type: 'chat_message', id: '1', bot_id: 'ada', data: {}, cursor: 'c1' });
  equal([client.state, client.cursor], ['open', 'c1']);
  equal(asked(socket).slice(4), ['subscribe']);
});

scenario('what is of the notifications is for nobody else, also once they are left', async () => {
  const { shared, socket: opened } = await makeShared();
  const heard = [];
  const [ada, bell] = [shared.chat('ada'), shared.notifications()];
  for (const type of ['notification', 'resync']) ada.on(type, () => heard.push(type));
  const socket = await opened();
  socket.say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  socket.say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'a' } });
  socket.say({ type: 'subscribed', notifications: true, data: { cursor: 'n' } });
  bell.close();
  socket.say({ type: 'notification', id: '1', data: {}, cursor: 'n2' });
  socket.say({ type: 'resync', data: {}, cursor: 'n3' });
  equal([heard, ada.cursor], [[], 'a']);
});

scenario('a shared connection may be closed and used again in any handler', async () => {
  const places = {
    'a client that was cut': (shared, ada, act) => ada.on('close', act),
    'its end': (shared, ada, act) => shared.on('close', act),
    'its states': (shared, ada, act) => shared.on('state', ({ state }) => state === 'open' || act()),
    'its return': (shared, ada, act) => shared.on('reconnecting', act),
  };
  for (const [name, on] of Object.entries(places)) {
    const { shared, sockets, timers, socket: opened } = await makeShared();
    const ada = shared.chat('ada');
    const socket = await opened();
    socket.say({ type: 'connection_established', data: { user_id: 'me' } });
    await settle();
    socket.say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'a' } });
    let gus = null;
    on(shared, ada, () => {
      if (gus !== null) return;
      gus = 'not yet';
      shared.close();
      gus = shared.chat('gus');
    });
    await socket.end(1006);
    await timers.advance(1);
    equal([sockets.length, ada.state, gus.state], [2, 'closed', 'connecting'], name);
    sockets[1].say({ type: 'connection_established', data: { user_id: 'me' } });
    await settle();
    equal(asked(sockets[1]), ['subscribe'], name);
    sockets[1].say({ type: 'subscribed', bot_id: 'gus', data: { cursor: 'g' } });
    equal([gus.state, shared.state], ['open', 'open'], name);
    shared.close();
    equal(timers.pending, 0, name);
  }
});

scenario('the clients of a shared connection return as soon as it does', async () => {
  const { shared, sockets, timers, socket: opened } = await makeShared();
  const ada = shared.chat('ada');
  const greet = async (socket) => {
    socket.say({ type: 'connection_established', data: { user_id: 'me' } });
    await settle();
  };
  await greet(await opened());
  sockets[0].say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'a' } });
  for (let cut = 1; cut < 7; cut += 1) {
    await sockets.at(-1).end(1006);
    shared.wake();
    await settle();
    equal([sockets.length, ada.state], [cut + 1, cut === 1 ? 'connecting' : ada.state]);
    await greet(sockets.at(-1));
    equal(asked(sockets.at(-1)), ['subscribe']);
  }
  sockets.at(-1).say({ type: 'unsubscribed', bot_id: 'ada', data: { code: 1013 } });
  equal(ada.state, 'reconnecting');
  shared.wake();
  await settle();
  equal(asked(sockets.at(-1)), ['subscribe', 'subscribe']);
  shared.close();
  equal(timers.pending, 0);
});

scenario('a client that comes while the connection is found dead subscribes on the next one', async () => {
  const { shared, sockets, socket: opened } = await makeShared();
  shared.chat('ada');
  const socket = await opened();
  socket.say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  socket.readyState = 3;
  const gus = shared.chat('gus');
  shared.wake();
  await settle();
  shared.wake();
  await settle();
  sockets.at(-1).say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  equal([sockets.length, asked(sockets.at(-1))], [2, ['subscribe', 'subscribe']]);
  sockets.at(-1).say({ type: 'subscribed', bot_id: 'gus', data: { cursor: 'g' } });
  equal(gus.state, 'open');
});

scenario('a token that was announced to expire is not asked for once a client has closed all', async () => {
  let questions = 0;
  const { shared, timers, socket: opened } = await makeShared({
    getToken: async () => `t${(questions += 1)}`,
  });
  const ada = shared.chat('ada');
  const socket = await opened();
  socket.say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  socket.say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'a' } });
  ada.on('token_expiring', () => shared.close());
  socket.say({ type: 'token_expiring', data: {} });
  await timers.advance(60_000);
  equal([questions, timers.pending], [0, 0]);
});

scenario('what is for its clients is no answer to a ping of a shared connection', async () => {
  const { shared, sockets, timers, socket: opened } = await makeShared();
  const ada = shared.chat('ada');
  await opened();
  for (const seconds of [10, 40, 160]) {
    const socket = sockets.at(-1);
    socket.say({ type: 'connection_established', data: { user_id: 'me' } });
    await settle();
    socket.say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'a', recovered: true } });
    await timers.advance(27_501);
    equal(socket.sentOf('ping').length, 1);
    await timers.advance(seconds * 1_000 - 2);
    equal(shared.state, 'open', `${seconds} s`);
    await timers.advance(2);
    equal(shared.state, 'reconnecting', `${seconds} s`);
    await timers.advance(500);
  }
  const socket = sockets.at(-1);
  socket.say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  socket.say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'a', recovered: true } });
  await timers.advance(27_501);
  await timers.advance(40);
  socket.say({ type: 'chat_message', id: '1', bot_id: 'ada', data: {} });
  socket.say({ type: 'pong', timestamp: socket.sentOf('ping')[0].timestamp });
  equal([Math.round(shared.latency), ada.state], [41, 'open']);
});

scenario('what the server ends by itself is not taken for the answer to an unsubscribe', async () => {
  const { shared, socket: opened } = await makeShared();
  shared.chat('ada').close();
  const socket = await opened();
  socket.say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  const first = shared.chat('ada');
  await settle();
  first.close();
  const second = shared.chat('ada');
  await settle();
  second.close();
  const third = shared.chat('ada');
  await settle();
  const about = { bot_id: 'ada' };
  // The first ended as it was being left; the second was let in, and left.
  socket.say({ type: 'unsubscribed', ...about, data: { code: 1013, reason: 'busy' } });
  socket.say({ type: 'error', ...about, code: 'not_subscribed', message: '' });
  socket.say({ type: 'subscribed', ...about, data: { cursor: 'second' } });
  socket.say({ type: 'unsubscribed', ...about, data: { code: 1000 } });
  equal([third.state, third.cursor], ['connecting', null]);
  socket.say({ type: 'subscribed', ...about, data: { cursor: 'third' } });
  equal([third.state, third.cursor], ['open', 'third']);
});

scenario('an error about something else is no answer to an unsubscribe', async () => {
  const { shared, socket: opened } = await makeShared();
  const old = shared.chat('ada');
  const socket = await opened();
  const about = { bot_id: 'ada' };
  socket.say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  socket.say({ type: 'subscribed', ...about, data: { cursor: 'c' } });
  old.sessionSync('too often');
  old.close();
  const client = shared.chat('ada', { cursor: 'c' });
  await settle();
  socket.say({ type: 'error', code: 'rate_limited', message: 'too often', ...about });
  socket.say({ type: 'unsubscribed', ...about, data: { code: 1000 } });
  socket.say({ type: 'subscribed', ...about, data: { cursor: 'c', recovered: true } });
  equal(client.state, 'open');
});

scenario('an old client of a bot does not push out the newer one', async () => {
  const { shared, socket: opened } = await makeShared();
  const old = shared.chat('ada');
  old.close();
  const client = shared.chat('Ada');
  const socket = await opened();
  socket.say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  socket.say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'c' } });
  let refused = null;
  try {
    old.connect();
  } catch (error) {
    refused = error;
  }
  check(/close it first/.test(refused?.message), 'it says what to do');
  equal([old.state, client.state, asked(socket)], ['closed', 'open', ['subscribe']]);
  client.close();
  old.connect();
  await settle();
  equal(old.state, 'connecting');
  equal(asked(socket), ['subscribe', 'unsubscribe', 'subscribe']);
});

scenario('a shared connection that is closed leaves nothing behind', async () => {
  const world = { timers: new FakeTimers(), sockets: [] };
  const shared = new SharedConnection({
    token: 't',
    timers: world.timers,
    page: {},
    WebSocket: socketsOf(world),
  });
  const [ada, gus] = ['Ada', 'gus'].map((bot) => shared.chat(bot));
  const endings = [];
  for (const client of [ada, gus]) client.on('close', ({ code }) => endings.push(code));
  await settle();
  const [socket] = world.sockets;
  equal([world.sockets.length, socket.url.pathname], [1, '/api/ws']);
  socket.say({ type: 'connection_established', data: { user_id: 'me' } });
  await settle();
  socket.say({ type: 'subscribed', bot_id: 'ada', data: { cursor: 'c' } });
  socket.say({ type: 'unsubscribed', bot_id: 'gus', data: { code: 1013, reason: 'busy' } });
  equal([ada.state, gus.state], ['open', 'reconnecting']);
  let refused = null;
  try {
    shared.chat('ADA');
  } catch (error) {
    refused = error;
  }
  check(refused !== null, 'a bot has one client at a time');
  shared.close();
  equal([ada.state, gus.state, endings], ['closed', 'closed', [1013, 1000, 1000]]);
  equal(world.timers.pending, 0);
});

scenario('in a worker the client works as in a page', async () => {
  const worker = new Worker('/javascript/worker.js', { type: 'module' });
  const { data } = await new Promise((resolve) => (worker.onmessage = resolve));
  worker.terminate();
  equal(data, { state: 'open', url: `ws://${location.host}/api/ws/chat/bot?cursor=` });
});

scenario('a client that is closed by a handler says nothing more, and leaves nothing behind', async () => {
  const leavers = {
    connecting: ['state', ({ state }) => state === 'connecting'],
    'open, as a state': ['state', ({ state }) => state === 'open'],
    open: ['open', () => true],
    resync: ['resync', () => true],
    lost: ['close', () => true],
    reconnecting: ['state', ({ state }) => state === 'reconnecting'],
    'an attempt that is planned': ['reconnecting', () => true],
  };
  for (const [name, [type, isTheTime]] of Object.entries(leavers)) {
    const { client, timers, sockets, heard, last } = await makeWorld({ cursor: 'saved' });
    client.on('*', (message) => heard.push({ event: message.type, ...message }));
    let isLeft = false;
    client.on(type, (event) => {
      if (isLeft || !isTheTime(event)) return;
      isLeft = true;
      client.close();
    });
    last().establish({ recovered: false, reason: 'too_old' });
    if (!isLeft) await last().end(1006);
    await timers.advance(60_000);
    const { event, code, final } = heard.at(-1);
    equal([client.state, event, code, final], ['closed', 'close', 1000, true], name);
    equal([timers.pending, sockets.length], [0, 1], name);
  }
});

scenario('a first connection of which a handler kept the app from being told is told the next time', async () => {
  for (const type of ['state', 'open']) {
    const { client, told, last } = await makeWorld();
    let isLeft = false;
    client.on(type, ({ state = 'open' }) => {
      if (isLeft || state !== 'open') return;
      isLeft = true;
      client.close();
      client.connect();
    });
    last().establish();
    await settle();
    equal(last().url.searchParams.get('cursor'), '', type);
    last().establish();
    equal(told('open').at(-1).recovered, undefined, type);
  }
});

scenario('a loss of which a handler kept the app from being told is told the next time', async () => {
  for (const type of ['state', 'open']) {
    const { client, told, last } = await makeWorld({ cursor: 'saved' });
    client.once(type, () => client.close());
    last().establish({ recovered: false, reason: 'too_old' });
    equal([client.state, client.cursor, told('resync')], ['closed', 'saved', []], type);
    client.connect();
    await settle();
    equal(last().url.searchParams.get('cursor'), 'saved', type);
    last().establish({ recovered: false, reason: 'too_old' });
    equal([client.cursor, told('resync').length], ['c0', 1], type);
  }
});

scenario('what is asked of a client while it is told of a lost connection does no harm', async () => {
  const { client, timers, sockets, told, last } = await makeWorld();
  const answers = [];
  client.on('close', ({ final }) => {
    if (final) return;
    client.typing(true);
    client.refresh('second');
    client.wake();
    answers.push(client.ping(), client.sessionSync('s'), client.connect() === client);
  });
  last().establish();
  await last().end(1006);
  equal([answers, told('error')], [[false, false, true], []]);
  equal([client.state, timers.pending], ['reconnecting', 1]);
  await timers.advance(500);
  equal([sockets.length, last().token], [2, 'second']);
});

scenario('the states are told in order', async () => {
  const { client, timers, told, last } = await makeWorld();
  last().establish();
  await last().end(1001);
  await timers.advance(500);
  last().establish();
  client.close();
  equal(
    told('state').map(({ state }) => state),
    ['connecting', 'open', 'reconnecting', 'connecting', 'open', 'closed'],
  );
});

scenario('the browser’s own WebSocket, timers and page do as well', async () => {
  const client = connect({ botId: 'bot', token: 't', tokenIn: 'protocol' });
  const heard = new Promise((resolve) => client.on('chat_message', resolve));
  const { message } = await new Promise((resolve) => client.on('open', resolve));
  equal(message.data.bot_name, 'Ada');
  client.ping();
  await new Promise((resolve) => client.on('latency', resolve));
  equal((await heard).data.content, 'hello');
  client.close();
  equal(client.state, 'closed');
});
