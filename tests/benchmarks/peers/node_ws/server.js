// Peer: Node's ws, with pg's LISTEN. Broadcasts as ws's README shows.
'use strict';

const { Client } = require('pg');
const { WebSocket, WebSocketServer } = require('ws');

const bots = new Map();

async function main() {
  const client = new Client(); // from PGHOST, PGUSER, PGDATABASE
  await client.connect();
  client.on('notification', ({ payload }) => {
    for (const socket of bots.get(JSON.parse(payload).bot_id) ?? []) {
      if (socket.readyState === WebSocket.OPEN) socket.send(payload);
    }
  });
  await client.query('LISTEN messages');

  const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.env.PORT) });
  server.on('connection', (socket, request) => {
    const botId = request.url.slice(request.url.lastIndexOf('/') + 1);
    if (!bots.has(botId)) bots.set(botId, new Set());
    bots.get(botId).add(socket);
    socket.on('error', console.error);
    socket.on('close', () => bots.get(botId).delete(socket));
  });
}

main();
