-- Who is connected, in all processes: what /api/ws/stats and /api/ws/connections count, which
-- processes are told of typing, and who is present on a bot.
--
-- One row per socket that was let in, written by its own process a few times a second. Unlogged,
-- for it is only true while those processes run: a crash of the database empties it, and they write
-- it anew. Whoever removes a dead process's row removes its sockets' with it.
CREATE UNLOGGED TABLE relay.connections (
    id uuid PRIMARY KEY,
    node_id uuid NOT NULL REFERENCES relay.nodes ON DELETE CASCADE,
    topic text NOT NULL,
    user_id uuid NOT NULL,
    username text NOT NULL,
    opened_at timestamptz NOT NULL
);

-- Taking a process out, and counting its rows.
CREATE INDEX connections_node_id ON relay.connections (node_id);
-- Whether another process has a bot, and who is on it.
CREATE INDEX connections_topic ON relay.connections (topic, node_id);
