-- Cursors that only this database can make: their keys, and relay.cursor.

-- HMAC-SHA-256 (RFC 2104) without an extension: sha256(outer_key || sha256(inner_key || message)),
-- where both are the key of 64 bytes, XORed with 0x5c and 0x36. One key signs; all are good, so
-- that cursors outlive a change of the key.
CREATE TABLE relay.cursor_keys (
    number integer PRIMARY KEY,
    signs boolean NOT NULL,
    inner_key bytea NOT NULL CHECK (octet_length(inner_key) = 64),
    outer_key bytea NOT NULL CHECK (octet_length(outer_key) = 64),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX cursor_keys_signs ON relay.cursor_keys (signs) WHERE signs;
REVOKE ALL ON relay.cursor_keys FROM PUBLIC;

-- The new key signs if there is no other.
CREATE FUNCTION relay.make_cursor_key() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
<<pads>>
DECLARE
    key bytea := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
    inner_key bytea := key;
    outer_key bytea := key;
BEGIN
    FOR i IN 0..63 LOOP
        inner_key := set_byte(inner_key, i, get_byte(key, i) # 54);
        outer_key := set_byte(outer_key, i, get_byte(key, i) # 92);
    END LOOP;
    INSERT INTO relay.cursor_keys (number, signs, inner_key, outer_key)
    SELECT coalesce(max(k.number), 0) + 1, coalesce(NOT bool_or(k.signs), true),
           pads.inner_key, pads.outer_key
      FROM relay.cursor_keys AS k;
END
$$;

-- The timeline, from the current WAL file: the control file's lags after a promotion. 0 where the
-- host does not let anybody see it; cursors are then told apart by their anchors alone.
CREATE FUNCTION relay.timeline() RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint;
EXCEPTION
    WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN
        RETURN 0;
END
$$;

-- Microseconds since 1970. A row that was written by hand may be of any time, infinity included.
-- STABLE, as what it calls is: else it would be a call of its own each time.
CREATE FUNCTION relay.microseconds(value timestamptz) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN least(greatest(extract(epoch FROM value) * 1000000, 0), 4e18)::bigint;

-- The cursor of the snapshot in which the calling statement reads: whoever selects the state and
-- this in one statement, or in one REPEATABLE READ transaction, misses nothing of what comes after
-- and is sent nothing twice. Null where none can be given: then subscribe first and load after.
--
-- STABLE, for a volatile function would see what was committed after its statement began. The
-- transaction's own rows are not covered, for it may yet roll back: it is listed as open, which
-- pg_current_snapshot does not do, and none of its rows is the anchor. The form of the text is
-- realtime/relay/cursor.py's.
CREATE FUNCTION relay.cursor(topic text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = on
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    destination text := relay.checked_topic(topic);
    own xid8 := coalesce(pg_current_xact_id_if_assigned(), '18446744073709551615');
    beyond xid8 := pg_snapshot_xmax(pg_current_snapshot());
    anchor record;
    open text;
    head text;
    body text;
    signed text;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'relay.cursor cannot be called on a standby'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Load the state and its cursor from the primary.';
    END IF;
    SELECT concat_ws('.', '2', to_hex(d.system), to_hex(d.oid::bigint), to_hex(relay.timeline()))
      INTO head
      FROM relay.this_database() AS d
      JOIN relay.floor AS f ON f.is_only AND (f.system, f.database) = (d.system, d.oid);
    -- One branch for each side of the transaction's own rows, however many there are. A row of the
    -- future, which came with a dump or was written by hand, is nothing that was seen.
    SELECT newest.* INTO anchor
      FROM ((SELECT e.xid, e.id, e.written_at FROM relay.events AS e
              WHERE e.xid > own AND e.xid < beyond
              ORDER BY e.xid DESC, e.id DESC LIMIT 1)
            UNION ALL
            (SELECT e.xid, e.id, e.written_at FROM relay.events AS e
              WHERE e.xid < least(own, beyond)
              ORDER BY e.xid DESC, e.id DESC LIMIT 1)
            UNION ALL
            SELECT f.last, f.last_id, f.last_written_at FROM relay.floor AS f WHERE f.is_only
           ) AS newest
     ORDER BY newest.xid DESC, newest.id DESC LIMIT 1;
    SELECT string_agg(to_hex(below.difference), '-' ORDER BY below.xid DESC) INTO open
      FROM (SELECT o.xid, lag(o.xid, 1, anchor.xid::text::bigint) OVER (ORDER BY o.xid DESC) - o.xid
              FROM (SELECT nullif(own, '18446744073709551615')::text::bigint WHERE own < anchor.xid
                    UNION SELECT x::text::bigint FROM pg_snapshot_xip(pg_current_snapshot()) AS x
                           WHERE x < anchor.xid) AS o (xid)) AS below (xid, difference);
    body := concat(head, '.', to_hex(anchor.xid::text::bigint), '.', open, '.',
        to_hex(anchor.xid::text::bigint), '.', to_hex(anchor.id), '.',
        to_hex(relay.microseconds(anchor.written_at)), '.');
    SELECT body || encode(substr(sha256(k.outer_key || sha256(
               k.inner_key || convert_to(body || destination, 'UTF8'))), 1, 16), 'hex')
      INTO signed FROM relay.cursor_keys AS k WHERE k.signs;
    RETURN CASE WHEN head IS NOT NULL AND length(signed) <= 1000 THEN signed END;
END
$$;

-- Begins the log anew where it came with a dump from another database, whose transaction ids mean
-- nothing here: all that it says is removed, and no cursor of before is good. Returns whether it
-- was so; where the log is this database's own, nothing happens. The floor's "last" is this very
-- transaction, so that every reader from before finds itself below it. Where the floor has no row,
-- nobody knows whose the log is: a dump may be in the middle of its restore.
CREATE FUNCTION relay.forget_foreign_log() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
DECLARE
    here record;
BEGIN
    IF NOT EXISTS (SELECT FROM relay.floor) THEN
        RAISE EXCEPTION 'relay.floor has no row'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Wait until a dump is restored. If none is, INSERT INTO relay.floor DEFAULT VALUES.';
    END IF;
    SELECT d.system, d.oid INTO here FROM relay.this_database() AS d;
    IF EXISTS (SELECT FROM relay.floor AS f
                WHERE (f.system, f.database) = (here.system, here.oid)) THEN
        RETURN false;
    END IF;
    LOCK TABLE relay.events IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM relay.floor AS f
                WHERE (f.system, f.database) = (here.system, here.oid)) THEN
        RETURN false;
    END IF;
    TRUNCATE relay.events;
    DELETE FROM relay.snapshots;
    DELETE FROM relay.cursor_keys;
    PERFORM relay.make_cursor_key();
    PERFORM relay.keep_readable();
    UPDATE relay.floor SET last = pg_current_xact_id(), snapshot = pg_current_snapshot(),
        system = here.system, database = here.oid;
    RETURN true;
END
$$;

SELECT relay.make_cursor_key();
