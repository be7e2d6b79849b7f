-- The event log: what a relay reads, and the only thing that a trigger writes.
--
-- Four kinds of rows, told apart by "type":
--   events       topic and payload; the payload is the finished wire message, a JSON object to
--                which the relay adds "id" and "cursor" after the opening brace. A user_id says
--                that the event gives this user access to the topic.
--   'eject'      user_id (null: everyone), topic (null: every topic), code: those sockets are
--                stopped before any event of the same read, sent the payload (if any) as a
--                farewell, and closed.
--   'recheck'    the same fields, for where access probably remains: those sockets are authorized
--                again and stay if they may; if not, they are sent the payload and closed.
--   'grant'      nothing else: somebody may have gained access of whom no event tells, so whoever
--                was refused lately is to be asked about anew.

CREATE SEQUENCE relay.events_id CACHE 1;

-- Which partition is being written. A sequence, because its value is read outside MVCC: a
-- long REPEATABLE READ writer must not go on filling a partition that is due to be emptied.
CREATE SEQUENCE relay.current_slot AS smallint MINVALUE 0 MAXVALUE 3 START 0 CYCLE;

-- A ring of four partitions, so that retention empties the oldest with TRUNCATE instead of
-- deleting row by row.
CREATE TABLE relay.events (
    id bigint NOT NULL DEFAULT nextval('relay.events_id'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    slot smallint NOT NULL
        DEFAULT coalesce(pg_sequence_last_value('relay.current_slot'), 0)::smallint,
    topic text,
    type text NOT NULL,
    payload text,
    user_id uuid,
    code integer,
    subject uuid,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY LIST (slot);

CREATE TABLE relay.events_0 PARTITION OF relay.events FOR VALUES IN (0);
CREATE TABLE relay.events_1 PARTITION OF relay.events FOR VALUES IN (1);
CREATE TABLE relay.events_2 PARTITION OF relay.events FOR VALUES IN (2);
CREATE TABLE relay.events_3 PARTITION OF relay.events FOR VALUES IN (3);

-- The relay's own read.
CREATE INDEX events_xid ON relay.events (xid);
-- Clients that come back: what they are owed costs what happened on their own topic.
CREATE INDEX events_topic_xid ON relay.events (topic, xid) WHERE code IS NULL;
CREATE INDEX events_ejections ON relay.events (xid) WHERE code IS NOT NULL;

COMMENT ON TABLE relay.events IS
    'One row per event, written by triggers and relay.emit in the writer''s own transaction';
