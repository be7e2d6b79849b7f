// Peer: Socket.IO, with pg's LISTEN. Broadcasts to a room, as its documentation shows.
'use strict';

const { Client } = require('pg');
const { Server } = require('socket.io');

async function main() {
  const io = new Server();
  io.on('connection', (socket) => socket.join(socket.handshake.query.bot));

  const client = new Client(); // from PGHOST, PGUSER, PGDATABASE
  await client.connect();
  client.on('notification', ({ payload }) => {
    const message = JSON.parse(payload);
    io.to(message.bot_id).emit('chat_message', message);
  });
  await client.query('LISTEN messages');
  io.listen(Number(process.env.PORT));
}

main();
