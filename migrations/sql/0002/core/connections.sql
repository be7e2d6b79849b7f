-- How many sockets a user has in other processes, which each handshake asks.
CREATE INDEX connections_user_id ON relay.connections (user_id);

-- A socket with many subscriptions has a row of its own, whose topic has no events, and one for each
-- subscription. Those name the socket, and count as none.
ALTER TABLE relay.connections ADD COLUMN socket_id uuid;
CREATE INDEX connections_socket_id ON relay.connections (socket_id) WHERE socket_id IS NOT NULL;

-- A client that takes events over HTTP may be a program: it is no person on a bot unless it says so.
ALTER TABLE relay.connections ADD COLUMN is_over_http boolean NOT NULL DEFAULT false,
    ADD COLUMN is_present boolean NOT NULL DEFAULT true;
