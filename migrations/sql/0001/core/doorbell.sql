-- The doorbell: how a writer wakes the relay, and how the relay says "no need, I am awake".

-- 2: silent, the relays are polling; anything else: ring. A sequence, because setval and its
-- reading act at once and outside MVCC; a REPEATABLE READ writer would see a stale table row.
CREATE SEQUENCE relay.bell;

-- One row per live relay process; the bell may be silent only while every one of them is awake.
CREATE TABLE relay.nodes (
    id uuid PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    awake boolean NOT NULL DEFAULT false,
    info jsonb NOT NULL DEFAULT '{}'
);

-- Called after the log insert, in a statement of its own: within one statement the planner reads
-- the bell first, and a relay that falls asleep in between would miss the row.
-- NOTIFY takes a database-wide lock at commit, so it is worth skipping: that is what the bell is
-- for, and 'relay.quiet' for bulk loads and for two-phase commit, which refuses NOTIFY.
-- Only ever called from SECURITY DEFINER functions whose search_path is fixed, so it fixes none.
CREATE FUNCTION relay.ring(source text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('relay.quiet', true) = 'on' THEN
        RETURN;
    END IF;
    IF pg_catalog.pg_sequence_last_value('relay.bell') IS DISTINCT FROM 2 THEN
        PERFORM pg_catalog.pg_notify('relay', source);
    END IF;
END
$$;
