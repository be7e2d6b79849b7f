-- What the floor remembers besides: the newest row that was removed, and whose log this is.
--
-- A cursor names the newest row that its reader has seen, its anchor: (xid, id, written_at). It is
-- good only while the log holds exactly that row, or the floor names it. Otherwise it comes from
-- another history: of before a crash that forgot transactions, or of a copy of the database.

-- Which database the process that asks is connected to.
CREATE FUNCTION relay.this_database(OUT system bigint, OUT oid oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.system_identifier, d.oid
      FROM pg_control_system() AS c, pg_database AS d
     WHERE d.datname = current_database();
END;

-- The greatest (xid, id) that was removed is (last, last_id). Fixed values while nothing was.
ALTER TABLE relay.floor
    ADD COLUMN last_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_written_at timestamptz NOT NULL DEFAULT 'epoch',
    ADD COLUMN system bigint NOT NULL DEFAULT 0,
    ADD COLUMN database oid NOT NULL DEFAULT 0;

-- 0.1.0 did not keep the row that it removed last. No cursor names it; any value is as good.
UPDATE relay.floor SET (system, database) = (SELECT d.system, d.oid FROM relay.this_database() AS d),
    last_written_at = CASE WHEN last = '0' THEN last_written_at ELSE clock_timestamp() END;

-- Whoever raises the floor, a process of 0.1.0 too, does so before it removes the rows. So the row
-- is still there. If it is not, nothing is named that a reader could have seen.
CREATE FUNCTION relay.floor_raised() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
DECLARE
    newest record;
BEGIN
    SELECT e.id, e.written_at INTO newest
      FROM relay.events AS e WHERE e.xid = NEW.last ORDER BY e.xid DESC, e.id DESC LIMIT 1;
    IF NEW.last <> OLD.last OR newest.id > OLD.last_id THEN
        NEW.last_id := coalesce(newest.id, 0);
        NEW.last_written_at := coalesce(newest.written_at, clock_timestamp());
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER raised BEFORE UPDATE OF last ON relay.floor
    FOR EACH ROW EXECUTE FUNCTION relay.floor_raised();
