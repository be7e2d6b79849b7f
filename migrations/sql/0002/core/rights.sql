-- Last in the core branch: nobody executes the new functions who was not granted it.

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC;

-- A server's role of 0.1.0 is one that may raise the floor: it needs what is new, too.
DO $$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT a.grantee::regrole::text
          FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE c.oid = 'relay.floor'::regclass AND a.privilege_type = 'UPDATE'
           AND a.grantee <> 0 AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT ON relay.cursor_keys, relay.events_id TO %s', role);
        EXECUTE format('GRANT SELECT, UPDATE ON relay.epoch TO %s', role);
        EXECUTE format('GRANT UPDATE ON relay.doorbell_turn, relay.retention_turn TO %s', role);
        EXECUTE format('GRANT EXECUTE ON FUNCTION relay.timeline(), relay.this_database(), '
                       'relay.microseconds(timestamptz), relay.forget_foreign_log(), relay.readable(text), '
                       'relay.listen(), relay.is_listening(), relay.epoch_as_told(), relay.tell(text, text) TO %s', role);
    END LOOP;
END
$$;
