// A service: Node 20 has no WebSocket of its own.
import WebSocket from 'ws';
import { connect } from 'rowcast';

const { URL: url, BOT: botId, TOKEN: token } = process.env;
const chat = connect({ url, botId, token, WebSocket });
chat.on('open', ({ recovered }) => console.log('open', recovered));
chat.on('close', ({ meaning }) => console.log('close', meaning));
chat.on('chat_message', ({ data }) => console.log('message', data.content));
