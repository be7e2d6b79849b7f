/**
 * The console page: two clients of realtime.js, and who on the page is told of what they hear.
 *
 * Its parts are in console/: each owns one place of the page and knows nothing of the others.
 */

import { connect } from './realtime.js';
import { Cluster } from './console/cluster.js';
import { Conversation } from './console/conversation.js';
import { askForCredentials, readCredentials } from './console/credentials.js';
import { Demo } from './console/demo.js';
import { copy, find, flash, setText, short } from './console/dom.js';
import { EventStream } from './console/event_stream.js';
import { Inspector } from './console/inspector.js';
import { Line } from './console/line.js';
import { People } from './console/people.js';
import { insertMessage } from './console/recipes.js';
import { whyNotReady } from './console/readiness.js';
import { Resume } from './console/resume.js';
import { SqlPanel } from './console/sql_panel.js';
import { Status } from './console/status.js';
import { Toasts } from './console/toasts.js';
import { Typists } from './console/typists.js';
import { botUpdate, closed, documentUpdate, notification, permission } from './console/words.js';

const PING_EVERY = 5_000;
const NO_PERMISSION = 4003;
const TOKEN_REFUSED = 4001;
/** The types that the reader may switch off in the stream, and the switch of each. */
const SWITCHES = { pong: 'show-pong', typing_indicator: 'show-typing_indicator' };

/** Wide enough for the conversation, its events and the SQL side by side. */
const WIDE = matchMedia('(min-width: 1181px)');
/** Wide enough for the conversation and its events. */
const MIDDLE = matchMedia('(min-width: 761px)');

const names = new Map(); // user id → username, as far as messages and typing told
const nameOf = (id) => names.get(id) ?? short(id);
const status = new Status();
const line = new Line();
const demo = new Demo();
const stream = new EventStream(find('events'), new Inspector(), nameOf);
const sql = new SqlPanel(find('recipes'));
const resume = new Resume(line);
const cluster = new Cluster(demo);
const people = new People(find('present'));
const typists = new Typists(find('typists'));
const toasts = new Toasts(find('toasts'));
const conversation = new Conversation({
  box: find('conversation'),
  empty: find('conversation-empty'),
  counter: find('count-messages'),
});
let me = { id: '', role: '' };
let clients = null;
let starts = 0; // moves with each pair of credentials
let arrivals = null; // what came while the history was on its way
let botId = '';

// Connecting ---------------------------------------------------------------------------------

async function start(credentials) {
  const mine = (starts += 1);
  clients?.chat.close();
  clients?.notifications.close();
  if (credentials.botId !== botId) conversation.clear();
  botId = credentials.botId;
  clients = null;
  resume.reset();
  demo.use(credentials.token);
  cluster.use(credentials);
  status.bot(`Bot ${short(botId)}`, botId); // its name comes with the connection
  const cursor = await loadHistory();
  if (mine !== starts) return;
  const common = { token: credentials.token, WebSocket: line.Socket, url: './' };
  clients = {
    chat: connect({ ...common, botId, presence: true, cursor }),
    notifications: connect({ ...common, notifications: true }),
  };
  show({ botId });
  followChat(clients.chat);
  followNotifications(clients.notifications);
  status.state(clients.chat.state);
}

function ask(why) {
  askForCredentials({ botId, why, demo }, start);
}

/** Show what was said before, where the demo tells it; the cursor of that moment. */
async function loadHistory() {
  if (!demo.sends) return null;
  const asked = botId;
  arrivals = [];
  try {
    const { user_id: userId, messages, cursor } = await demo.history(asked);
    if (asked !== botId) return null;
    conversation.me = userId;
    for (const data of messages) learnName(data);
    conversation.load([...messages, ...arrivals]);
    return cursor;
  } catch {
    return null; // the socket is refused too, and says why
  } finally {
    arrivals = null;
  }
}

function followChat(chat) {
  chat.on('*', (message) => hear(message, 'chat', chat));
  followLifecycle(chat, 'chat');
  chat.on('state', ({ state }) => status.state(state));
  chat.on('reconnecting', (wait) => status.reconnecting(wait));
  chat.on('latency', ({ milliseconds }) => status.latency(milliseconds));
  chat.on('close', onClose);
  chat.on('open', (opened) => onOpen(chat, opened));
  chat.on('connection_established', ({ data }) => onEstablished(data));
  chat.on('chat_message', ({ data }) => onMessage(data));
  chat.on('chat_message_update', ({ data }) => conversation.update(data));
  chat.on('typing_indicator', ({ data }) => onTyping(data));
  chat.on('presence_state', ({ data }) => onPresence(data.users, () => people.state(data)));
  chat.on('presence_diff', ({ data }) => onPresence(data.joined, () => people.diff(data)));
  chat.on('permission_change', ({ data }) => onPermission(data));
  chat.on('bot_update', ({ data }) => onBotUpdate(data));
  chat.on('document_update', ({ data }) => conversation.note(documentUpdate(data)));
  chat.on('resync', ({ data }) => onResync(data));
}

function followNotifications(notifications) {
  notifications.on('*', (message) => hear(message, 'notifications', notifications));
  followLifecycle(notifications, 'notifications');
  notifications.on('state', ({ state }) => status.notifications(state));
  notifications.on('connection_established', ({ data }) => cluster.connected(data));
  notifications.on('notification', onNotification);
}

function followLifecycle(client, source) {
  const tell = (type, text) => stream.lifecycle(type, `${source}: ${text}`, source);
  client.on('close', (close) => tell('close', closed(close)));
  client.on('reconnecting', ({ attempt, delay }) =>
    tell('reconnecting', `in ${(delay / 1000).toFixed(1)} s, attempt ${attempt}`),
  );
}

// What is heard ------------------------------------------------------------------------------

function hear(message, source, client) {
  if (isShown(message.type)) stream.message(message, source, line.bytes);
  if (source === 'chat') status.cursor(client.cursor);
  if (message.type !== 'pong') status.event(message.type === 'notification');
}

/** What is hidden is not kept either: a pong every few seconds would push out all else. */
function isShown(type) {
  return find(SWITCHES[type] ?? '')?.checked ?? true;
}

function onEstablished(data) {
  me = { id: data.user_id, role: data.role };
  conversation.me = people.me = me.id;
  status.bot(data.bot_name, botId);
  status.expires(data.expires_at);
  cluster.connected(data);
  show({ userId: me.id, role: me.role });
  showMe();
}

function onOpen(chat, opened) {
  resume.opened(opened);
  chat.ping();
  lookAtServer();
}

async function lookAtServer() {
  status.server(await whyNotReady());
}

/** Where SQL is shown, it is about this bot and this person. */
function show(scene) {
  sql.update(scene);
  resume.update(scene);
}

async function onResync({ reason }) {
  await loadHistory();
  conversation.note(
    demo.sends
      ? `Some events were lost (${reason ?? 'resync'}): the messages were loaded again`
      : `Some events were lost (${reason ?? 'resync'})`,
  );
}

function onMessage(data) {
  learnName(data);
  arrivals?.push(data);
  conversation.add(data);
  resume.heard(data);
  typists.update({ user_id: data.user_id, is_typing: false });
}

function onPresence(newcomers, show) {
  newcomers.forEach(learnName);
  show();
}

function onTyping(data) {
  learnName(data);
  typists.update(data);
}

function onPermission(data) {
  const whom = data.target_user_id === me.id ? 'you' : nameOf(data.target_user_id);
  conversation.note(permission(data, whom));
}

function onBotUpdate(data) {
  if (data.details.name) status.bot(data.details.name, botId);
  conversation.note(botUpdate(data));
}

function onNotification(message) {
  toasts.show(message.notification_type.replaceAll('_', ' '), notification(message));
  const { bot_id: about, action } = message.data ?? {};
  // Shut out and let in again: no need to make the person press a button for that.
  if (about === botId && action === 'granted' && clients.chat.state === 'closed' && wasShutOut)
    clients.chat.connect();
}

let wasShutOut = false;

function onClose(close) {
  wasShutOut = close.code === NO_PERMISSION;
  status.close(close);
  typists.clear();
  people.clear();
  if (close.final && close.code !== 1000)
    conversation.note(`The connection ended: ${closed(close)}.`);
  if (close.final && close.code === TOKEN_REFUSED)
    ask('The token was refused or has expired. Another one?');
}

function learnName({ user_id: id, username }) {
  names.set(id, username);
  if (names.size > 1_000) names.delete(names.keys().next().value);
  if (id === me.id) showMe();
}

function showMe() {
  status.me({ name: names.get(me.id), ...me });
}

// What the person does -----------------------------------------------------------------------

function toggle() {
  if (!clients) return ask();
  const isOn = ['open', 'connecting'].includes(clients.chat.state);
  for (const client of Object.values(clients)) {
    if (isOn || client.state === 'reconnecting') client.close();
    if (!isOn) client.connect();
  }
}

async function compose(event) {
  event.preventDefault();
  const text = find('text').value.trim();
  if (!text) return;
  const insert = insertMessage(sql.scene, text);
  clients?.chat.typing(false);
  find('text').value = '';
  sql.update({ text: '' });
  if (demo.sends) return send(text);
  conversation.ghost(text, insert);
  if (await copy(insert)) flash(find('send'), 'SQL copied');
}

/** One id for all attempts: whoever has no answer cannot know whether the message was written. */
function send(text) {
  const write = demo.writer(botId);
  const id = crypto.randomUUID();
  const failed = conversation.pending(text, attempt);
  attempt();

  async function attempt() {
    try {
      await write(text, id);
    } catch ({ message }) {
      failed(message);
      lookAtServer();
    }
  }
}

function onInput() {
  const text = find('text').value;
  clients?.chat.typing(text !== '');
  sql.update({ text: text.trim() });
}

function onKey(event) {
  // While an input method composes a character, Enter belongs to it.
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing)
    find('composer').requestSubmit();
  else return;
  event.preventDefault();
}

function showTab(wanted) {
  // What is beside the conversation anyway needs no tab.
  const isBeside = (WIDE.matches && wanted === 'sql') || (MIDDLE.matches && wanted === 'events');
  const tab = isBeside ? 'conversation' : wanted;
  document.body.dataset.tab = tab;
  cluster.show(tab === 'cluster');
  for (const button of document.querySelectorAll('.tabs button')) {
    button.setAttribute('aria-pressed', String(button.dataset.tab === tab));
  }
}

function bind() {
  find('toggle').addEventListener('click', toggle);
  find('change').addEventListener('click', () => ask());
  find('composer').addEventListener('submit', compose);
  find('text').addEventListener('input', onInput);
  find('text').addEventListener('keydown', onKey);
  find('clear-events').addEventListener('click', () => stream.clear());
  find('empty-sql').addEventListener('click', () => {
    showTab('sql');
    find('recipes').querySelector('summary').focus();
  });
  for (const button of document.querySelectorAll('.tabs button')) {
    button.addEventListener('click', () => showTab(button.dataset.tab));
  }
  for (const [type, box] of Object.entries(SWITCHES)) {
    find(box).addEventListener('change', () =>
      find('events').classList.toggle(`no-${type}`, !find(box).checked),
    );
  }
  for (const width of [WIDE, MIDDLE])
    width.addEventListener('change', () => showTab(document.body.dataset.tab));
  setInterval(() => document.hidden || check(), PING_EVERY);
}

function check() {
  clients?.chat.ping();
  if (clients?.chat.state === 'open') lookAtServer();
}

/** The page as it is with the demo's API: it sends, and runs. */
function offerDemo() {
  if (demo.sends) {
    setText(find('send'), 'Send');
    find('text').placeholder = 'Type a message';
  }
  if (!demo.runs) return;
  document.body.dataset.runs = '';
  setText(find('sql-how'), 'Run executes it with the rights that a service has, and no others.');
  sql.run = (statements) => demo.run(statements);
  resume.runsBy(sql.run);
}

async function main() {
  bind();
  const credentials = readCredentials();
  await demo.look();
  offerDemo();
  sql.update({});
  botId = credentials.botId;
  if (credentials.botId && credentials.token) start(credentials);
  else ask();
}

main();
