// A service: Node 20 has no WebSocket of its own.
import WebSocket from 'ws';
import { SharedConnection } from 'rowcast';

const { URL: url, BOT: botId, TOKEN: token } = process.env;
const shared = new SharedConnection({ url, token, WebSocket });
const chat = shared.chat(botId);
shared.on('close', ({ meaning }) => console.log('close', meaning));
chat.on('open', ({ recovered }) => console.log('open', recovered));
chat.on('chat_message', ({ data }) => console.log('message', data.content));
