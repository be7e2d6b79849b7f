-- What processes take turns by: a lock on one of these tables, which stay empty.
--
-- Any role that can connect may take any advisory lock, and would hold everybody up with it. A
-- table is locked only by a role that was granted more than SELECT on it.

-- Who says that it sleeps or is awake, and changes the bell.
CREATE TABLE relay.doorbell_turn ();
-- Who empties the log.
CREATE TABLE relay.retention_turn ();

-- Also where default privileges give new tables away.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
          FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE c.oid IN ('relay.doorbell_turn'::regclass, 'relay.retention_turn'::regclass)
           AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON relay.doorbell_turn, relay.retention_turn FROM %s', grantee);
    END LOOP;
END
$$;
