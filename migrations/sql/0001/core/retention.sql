-- What retention must remember: which snapshots there were, and how much of the log is gone.
--
-- Clocks cannot tell whether every reader could have seen a row. So snapshots are recorded from
-- time to time, and a partition of relay.events is emptied only when all its transactions are
-- visible in one that is old enough.

CREATE TABLE relay.snapshots (
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    snapshot pg_snapshot NOT NULL DEFAULT pg_current_snapshot()
);

-- One row. A cursor is good as long as "last" is not above it, and none of the transactions that
-- it lists as open is visible in "snapshot": nothing that it has not seen was removed.
CREATE TABLE relay.floor (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    last xid8 NOT NULL DEFAULT '0',
    snapshot pg_snapshot NOT NULL DEFAULT '1:1:'
);
INSERT INTO relay.floor DEFAULT VALUES;
