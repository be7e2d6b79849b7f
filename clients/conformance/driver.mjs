/**
 * The driver of the JavaScript client, for Node: README.md beside this file describes it.
 * Before Node 22 it takes `WebSocket` from the package `ws`, where that is installed.
 */

import { createInterface } from 'node:readline';
import { connect, SharedConnection } from '../javascript/src/realtime.js';

const WebSocket = globalThis.WebSocket ?? (await import('ws')).default;

const tell = (told, more) => process.stdout.write(`${JSON.stringify({ told, ...more })}\n`);

/** ping_every is pingEvery there. */
const camel = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());

/** One client, and what the application around it is told. */
class Client {
  #name;
  #client;
  #questions = [];
  #code = null;

  constructor(name, options) {
    this.#name = name;
    this.#client = this.#make(options);
  }

  get client() {
    return this.#client;
  }

  #make({ url, bot_id, notifications, token, asks, cursor, presence, timings, random, socket }) {
    const names = Object.entries(timings).map(([name, value]) => [camel(name), value]);
    const line = {
      url,
      token,
      ...(asks ? { getToken: () => this.#ask() } : {}),
      timings: Object.fromEntries(names),
      random: () => random,
      WebSocket,
    };
    const stream = { cursor, presence };
    const target = bot_id ? { botId: bot_id } : { notifications };
    const client = socket
      ? this.#share(socket, line, stream, bot_id)
      : connect({ ...line, ...stream, ...target });
    this.#listen(client);
    return client;
  }

  /** The first one makes the connection. */
  #share(name, line, stream, botId) {
    if (!shared.has(name)) {
      shared.set(name, new SharedConnection(line));
      shared.get(name).on('error', () => {});
    }
    const connection = shared.get(name);
    return botId ? connection.chat(botId, stream) : connection.notifications(stream);
  }

  /** What the client makes itself comes as `resync`; all else of the server's comes as '*'. */
  #listen(client) {
    const message = (one) => this.#tell('message', { message: one });
    client.on('resync', message);
    client.on('*', (one) => ['pong', 'resync'].includes(one.type) || message(one));
    client.on('error', () => {}); // or it goes to the console
    client.on('close', ({ code, reason, final }) => {
      if (final) this.#tell('closed', { code, reason });
      else this.#code = code;
    });
    client.on('reconnecting', ({ attempt, delay }) => {
      this.#tell('reconnecting', { attempt, delay: Math.round(delay * 1000) / 1000, code: this.#code });
      this.#code = null;
    });
  }

  #tell(told, more) {
    tell(told, { client: this.#name, ...more });
  }

  #ask() {
    return new Promise((resolve, reject) => {
      this.#questions.push({ resolve, reject });
      this.#tell('token_wanted');
    });
  }

  answer({ token, error }) {
    const { resolve, reject } = this.#questions.shift();
    if (error === undefined) resolve(token);
    else reject(new Error(error));
  }

  sayState() {
    this.#tell('state', { state: this.#client.state, cursor: this.#client.cursor });
  }
}

const clients = new Map();
const shared = new Map();

function obey(command) {
  const name = command.client ?? 'main';
  const one = clients.get(name);
  switch (command.do) {
    case 'connect':
      if (one) return one.client.connect();
      return clients.set(name, new Client(name, command.options));
    case 'reset':
      for (const { client } of clients.values()) client.close();
      for (const connection of shared.values()) connection.close();
      clients.clear();
      shared.clear();
      return tell('ready', { shares: true });
    case 'quit':
      return process.exit(0);
    case 'close':
      return one.client.close();
    case 'state':
      return one ? one.sayState() : tell('state', { client: name, state: 'idle', cursor: null });
    case 'typing':
      return one.client.typing(command.value);
    case 'session_sync':
      return one.client.sessionSync(command.session_id);
    case 'ping':
      return one.client.ping();
    case 'refresh':
      return one.client.refresh(command.token);
    case 'token':
      return one.answer(command);
    default:
      throw new Error(`no such command: ${command.do}`);
  }
}

createInterface({ input: process.stdin }).on('line', (line) => obey(JSON.parse(line)));
tell('ready', { shares: true });
