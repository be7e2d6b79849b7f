-- What 0.2.0 adds to the log. Processes of 0.1.0 go on working: columns are added, none is changed.

-- Not one writer in the middle of this. A read of 0.1.0 locks the floor first and the log second,
-- several times a second in each process. Locked the other way round, the two would wait for each
-- other.
LOCK TABLE relay.floor IN ACCESS EXCLUSIVE MODE;
LOCK TABLE relay.events IN ACCESS EXCLUSIVE MODE;

-- Who wrote what the event tells of, where the row of a message says so.
ALTER TABLE relay.events ADD COLUMN author uuid;

-- In place of the one on xid alone: to find the newest row, and to find out whether a row is still
-- there, is one step each, however many rows its transaction has.
CREATE INDEX events_xid_id ON relay.events (xid, id);
DROP INDEX relay.events_xid;
COMMENT ON TABLE relay.events IS
    'One row per event or change of access, written by triggers and functions of relay in the transaction of the writer';

-- All rows about access: those that take it and those that give it.
CREATE INDEX events_access ON relay.events (xid, id)
    WHERE code IS NOT NULL OR user_id IS NOT NULL OR type = 'grant';
DROP INDEX relay.events_ejections;

-- Only now, for a process whose heartbeat waits too long counts as gone. In the order of most
-- statements of 0.1.0, and both at once, for connections.sql changes the other one.
LOCK TABLE relay.connections, relay.nodes IN ACCESS EXCLUSIVE MODE;

-- Which release a process is of, as a number that grows: those of 0.1.0 do not say, so they are 1.
ALTER TABLE relay.nodes ADD COLUMN release integer NOT NULL DEFAULT 1;

-- Advanced whenever rings stop telling all: before the bell is silenced, and by who writes without a
-- ring. A ring that carries an event has the number of then.
CREATE SEQUENCE relay.epoch;

-- The names of the channels, as numbers. Whoever can connect may LISTEN and NOTIFY on a channel
-- whose name they know, so these are random and secret: nobody but the owner may read them, and
-- no statement holds them as literals.
CREATE SEQUENCE relay.ring_channel;
CREATE SEQUENCE relay.typing_channel;

-- A random number of 62 bits, from PostgreSQL's strong source: gen_random_uuid has 122 of them.
CREATE FUNCTION relay.strong_random() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN ('x' || left(encode(sha256(uuid_send(gen_random_uuid())), 'hex'), 16))::bit(64)::bigint
    & 4611686018427387903;

DO $$
BEGIN
    PERFORM setval('relay.ring_channel', 1 + relay.strong_random());
    PERFORM setval('relay.typing_channel', 1 + relay.strong_random());
END
$$;
