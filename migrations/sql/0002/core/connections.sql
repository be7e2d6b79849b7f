-- How many sockets a user has in other processes, which each handshake asks.
CREATE INDEX connections_user_id ON relay.connections (user_id);
