-- Takes the core back to 0.1.0.

-- Functions that bin/attach made call what goes now: each write would fail.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
                WHERE p.pronamespace = 'relay'::regnamespace
                  AND starts_with(obj_description(p.oid, 'pg_proc'), 'Made by bin/attach')) THEN
        RAISE EXCEPTION 'tables are attached'
            USING HINT = 'Run bin/attach --detach --apply first, and attach with 0.1.0 afterwards.';
    END IF;
END
$$;

DROP TABLE relay.releases;
DROP INDEX relay.connections_user_id;
ALTER TABLE relay.connections DROP COLUMN socket_id, DROP COLUMN is_over_http, DROP COLUMN is_present;
DROP TABLE relay.retention_turn;
DROP TABLE relay.doorbell_turn;
DROP FUNCTION relay.grant(uuid, text);
DROP FUNCTION relay.forget_foreign_log();
DROP FUNCTION relay.cursor(text);
DROP FUNCTION relay.ring_text(bigint, xid8, timestamptz, uuid, text, text);
DROP FUNCTION relay.microseconds(timestamptz);
DROP FUNCTION relay.timeline();
DROP FUNCTION relay.make_cursor_key();
DROP TABLE relay.cursor_keys;
DROP TRIGGER raised ON relay.floor;
DROP FUNCTION relay.floor_raised();
-- Tables of a platform's own have no triggers until 0.1.0 has attached them. What is written until
-- then, no log has: so no cursor of before may be good after it.
UPDATE relay.floor SET last = pg_current_xact_id(), snapshot = pg_current_snapshot();
ALTER TABLE relay.floor
    DROP COLUMN last_id, DROP COLUMN last_written_at, DROP COLUMN system, DROP COLUMN database;
DROP FUNCTION relay.this_database();
ALTER TABLE relay.nodes DROP COLUMN backend;
DROP FUNCTION relay.rotate_channels();
DROP FUNCTION relay.listen();
DROP FUNCTION relay.is_listening();
DROP FUNCTION relay.tell(text, text);
DROP FUNCTION relay.strong_random();
DROP SEQUENCE relay.typing_channel;
DROP SEQUENCE relay.ring_channel;
DROP FUNCTION relay.ring_event(text, text);
DROP FUNCTION relay.carries();
DROP FUNCTION relay.carry(text, text);
DROP FUNCTION relay.epoch_as_told();
DROP SEQUENCE relay.epoch;
ALTER TABLE relay.nodes DROP COLUMN release;
CREATE INDEX events_xid ON relay.events (xid);
CREATE INDEX events_ejections ON relay.events (xid) WHERE code IS NOT NULL;
DROP INDEX relay.events_access;
DROP INDEX relay.events_xid_id;
ALTER TABLE relay.events DROP COLUMN author;

-- As it was: it must not read a sequence that is gone. Replacing takes away what it set.
CREATE OR REPLACE FUNCTION relay.ring(source text) RETURNS void
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

-- As it was, for it must not name a column that is gone.
CREATE OR REPLACE FUNCTION relay.protocol_types() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[
    -- server to client
    'connection_established', 'chat_message', 'chat_message_update', 'typing_indicator',
    'permission_change', 'bot_update', 'document_update', 'notification', 'pong', 'error',
    'session_synced', 'authenticated', 'token_expiring', 'resync',
    'presence_state', 'presence_diff',
    -- client to server
    'ping', 'typing', 'session_sync', 'authenticate',
    -- rows of the log that are not events
    'eject', 'recheck', 'grant'
];

-- The default of data goes only with the functions. Who may call them is kept, and granted again below.
SELECT set_config('relay.callers', string_agg(format(
        'GRANT EXECUTE ON FUNCTION relay.%I TO %s%s;', p.proname,
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END), ''), true)
  FROM pg_proc AS p, aclexplode(p.proacl) AS a
 WHERE p.pronamespace = 'relay'::regnamespace AND p.proname IN ('emit', 'notify_user')
   AND a.grantee <> p.proowner;
DROP FUNCTION relay.emit(text, text, jsonb, uuid);
DROP FUNCTION relay.notify_user(uuid, text, jsonb);

CREATE FUNCTION relay.emit(topic text, type text, data jsonb, actor uuid DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    destination text := relay.checked_topic(topic);
BEGIN
    IF coalesce(type, '') !~ '\S' THEN
        RAISE EXCEPTION 'the event''s type is empty'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name it, as in ''poll_opened''.';
    ELSIF type = ANY (relay.protocol_types()) THEN
        RAISE EXCEPTION 'the type % belongs to the protocol', quote_literal(type)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Choose a name of your own. Row changes send the protocol''s events; '
                         'relay.notify_user and relay.eject send the others.';
    END IF;
    INSERT INTO relay.events (topic, type, payload)
    VALUES (destination, emit.type, concat(
        '{"type":', to_json(emit.type),
        CASE WHEN destination LIKE 'bot:%' THEN ',"bot_id":"' || substr(destination, 5) || '"' END,
        ',"data":', coalesce(data, '{}'),
        CASE WHEN actor IS NOT NULL THEN ',"actor":"' || actor || '"' END,
        ',"timestamp":', relay.json_time(clock_timestamp()), '}'));
    PERFORM relay.ring('emit');
END
$$;

CREATE FUNCTION relay.notify_user(user_id uuid, notification_type text, data jsonb)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF user_id IS NULL THEN
        RAISE EXCEPTION 'there is no user to notify: user_id is null'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Notify users one by one.';
    ELSIF coalesce(notification_type, '') !~ '\S' THEN
        RAISE EXCEPTION 'the notification_type is empty'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name it, as in ''quota_reached''.';
    END IF;
    INSERT INTO relay.events (topic, type, payload)
    VALUES ('user:' || notify_user.user_id, 'notification', relay.notification_message(
        notification_type, coalesce(data, '{}')::text, relay.json_time(clock_timestamp())));
    PERFORM relay.ring('notify_user');
END
$$;

REVOKE EXECUTE ON FUNCTION relay.emit, relay.notify_user FROM PUBLIC;
DO $$
BEGIN
    EXECUTE coalesce(current_setting('relay.callers'), '');
END
$$;

CREATE OR REPLACE FUNCTION relay.json_time(value timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(
    to_char(value AT TIME ZONE 'UTC', '\"YYYY-MM-DD"T"HH24:MI:SS.US"Z"\"'), 'null');

CREATE OR REPLACE FUNCTION relay.uuid_or_null(value text) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN value ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' THEN value::uuid
END;

CREATE OR REPLACE FUNCTION relay.checked_topic(topic text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    id uuid := relay.uuid_or_null(pg_catalog.substring(topic, '^(?:bot|user):(.*)$'));
BEGIN
    IF id IS NULL THEN
        RAISE EXCEPTION 'no such kind of topic: %', coalesce(quote_literal(topic), 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A topic is bot:<uuid> or user:<uuid>.';
    END IF;
    RETURN lower(topic);
END
$$;

DROP FUNCTION relay.is_on(text);
DROP FUNCTION relay.read_switch(text, text);
ALTER FUNCTION relay.eject RESET row_security;
DROP FUNCTION relay.bare_type(text);
DROP FUNCTION relay.has_changed_access();
DROP FUNCTION relay.mark_changed(text, text);
DROP FUNCTION relay.mark_written(text, text);
DROP FUNCTION relay.is_written(text, text, oid);
DROP FUNCTION relay.is_changed(text, text, oid);
DROP FUNCTION relay.hides_rows(oid);
DROP FUNCTION relay.instant();
DROP TRIGGER IF EXISTS readable ON relay.events;
DROP FUNCTION relay.keep_readable();
DROP FUNCTION relay.make_readable();
DROP FUNCTION relay.readable(text);
DROP FUNCTION relay.is_trusted(oid);
DROP FUNCTION relay.written(anyelement);
DROP FUNCTION relay.json_data(text);
DROP FUNCTION relay.json_bounded(text);
DROP FUNCTION relay.is_too_deep(text);
DROP FUNCTION relay.json_now();
DROP FUNCTION relay.json_of(json);
DROP FUNCTION relay.json_of(jsonb);
DROP FUNCTION relay.time_of(date);
DROP FUNCTION relay.time_of(timestamp);
DROP FUNCTION relay.time_of(timestamptz);

COMMENT ON TABLE relay.events IS
    'One row per event, written by triggers and relay.emit in the writer''s own transaction';
