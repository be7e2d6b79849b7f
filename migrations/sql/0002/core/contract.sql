-- What any SQL may call: relay.grant is new; relay.notify_user refuses the type that only a change of
-- access sends; and relay.emit refuses the protocol's types, of which there are more, in any case and
-- with anything around them that is not printed or not ASCII, which a client may read as the same. It
-- refuses what clients call their own events, and types that are no name: readers hold the type of each
-- row, and count only what is in the payload.
-- Patterns do without backslashes, which mean something else where standard_conforming_strings is
-- off. COLLATE "C": a Turkish database lowers I to another letter, and where the caller's text has a
-- collation that ignores case or accents, there are no patterns, and what differs is the same. A
-- variable has the collation of the function's arguments, unless it says another.
--
-- row_security: a writer may have it off, as who restores a dump has. Then a table whose row security
-- is in force would be an error, also where a policy shows all rows.

-- The message types that a client takes the protocol's word for, or that the log itself uses.
CREATE OR REPLACE FUNCTION relay.protocol_types() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[
    -- server to client
    'connection_established', 'chat_message', 'chat_message_update', 'typing_indicator',
    'permission_change', 'bot_update', 'document_update', 'notification', 'pong', 'error',
    'session_synced', 'authenticated', 'token_expiring', 'resync',
    'presence_state', 'presence_diff', 'going_away', 'subscribed', 'unsubscribed',
    -- client to server
    'ping', 'typing', 'session_sync', 'authenticate', 'subscribe', 'unsubscribe',
    -- rows of the log that are not events
    'eject', 'recheck', 'grant'
];

-- A type as a client may read it.
CREATE FUNCTION relay.bare_type(type text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN lower(regexp_replace(type COLLATE "C", '^[^!-~]+|[^!-~]+$', '', 'g'));

-- As it was, but for the collation.
CREATE OR REPLACE FUNCTION relay.checked_topic(topic text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    id uuid := relay.uuid_or_null(substring(topic COLLATE "C", '^(?:bot|user):(.*)$'));
BEGIN
    IF id IS NULL THEN
        RAISE EXCEPTION 'no such kind of topic: %', coalesce(quote_literal(topic), 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A topic is bot:<uuid> or user:<uuid>.';
    END IF;
    RETURN lower(topic COLLATE "C");
END
$$;

CREATE OR REPLACE FUNCTION relay.emit(
    topic text, type text, data jsonb DEFAULT '{}', actor uuid DEFAULT NULL
)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
DECLARE
    destination text COLLATE "C" := relay.checked_topic(topic);
    bare text COLLATE "C" := relay.bare_type(type);
    of_clients CONSTANT text[] COLLATE "C" := ARRAY['open', 'close', 'reconnecting', 'state', 'latency', '*'];
    told text;
BEGIN
    IF coalesce(type, '') COLLATE "C" !~ '[^[:space:]]' THEN
        RAISE EXCEPTION 'the event''s type is empty'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name it, as in ''poll_opened''.';
    ELSIF length(type) > 256 THEN
        RAISE EXCEPTION 'the event''s type is longer than 256 characters'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name it, as in ''poll_opened''.';
    ELSIF bare = ANY (relay.protocol_types()) THEN
        RAISE EXCEPTION 'the type % belongs to the protocol', quote_literal(type)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Choose a name of your own. Row changes send the protocol''s events; '
                         'relay.notify_user and relay.eject send the others.';
    ELSIF bare = ANY (of_clients) THEN
        RAISE EXCEPTION 'the type % is an event of the clients themselves', quote_literal(type)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Choose a name of your own, as in ''poll_opened''.';
    END IF;
    INSERT INTO relay.events AS e (topic, type, payload)
    VALUES (destination, emit.type, concat(
        '{"type":', to_json(emit.type),
        CASE WHEN destination LIKE 'bot:%' THEN ',"bot_id":"' || substr(destination, 5) || '"' END,
        ',"data":', coalesce(relay.json_data(nullif(data, 'null')::text), '{}'),
        CASE WHEN actor IS NOT NULL THEN ',"actor":"' || actor || '"' END,
        ',"timestamp":', relay.json_now(), '}'))
    RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) INTO told;
    told := relay.ring_event('emit', told);
END
$$;

CREATE OR REPLACE FUNCTION relay.notify_user(
    user_id uuid, notification_type text, data jsonb DEFAULT '{}'
)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
DECLARE
    told text;
BEGIN
    IF user_id IS NULL THEN
        RAISE EXCEPTION 'there is no user to notify: user_id is null'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Notify users one by one.';
    ELSIF coalesce(notification_type, '') COLLATE "C" !~ '[^[:space:]]' THEN
        RAISE EXCEPTION 'the notification_type is empty'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name it, as in ''quota_reached''.';
    ELSIF length(notification_type) > 256 THEN
        RAISE EXCEPTION 'the notification_type is longer than 256 characters'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name it, as in ''quota_reached''.';
    ELSIF relay.bare_type(notification_type) COLLATE "C" = 'permission_change' THEN
        RAISE EXCEPTION 'the notification_type % belongs to the protocol',
            quote_literal(notification_type)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Choose a name of your own. A change of access sends this one.';
    END IF;
    INSERT INTO relay.events AS e (topic, type, payload)
    VALUES ('user:' || notify_user.user_id, 'notification', relay.notification_message(
        notification_type, coalesce(relay.json_data(nullif(data, 'null')::text), '{}'), relay.json_now()))
    RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) INTO told;
    told := relay.ring_event('notify_user', told);
END
$$;

-- Says that a user may have gained access to a topic (null: to any). For access that the tables do
-- not tell of, behind an authorize of one's own: who was refused there is asked about anew, and a
-- client of theirs that returns is not sent what was written before the grant.
CREATE FUNCTION relay.grant(user_id uuid, topic text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
DECLARE
    destination text := CASE WHEN topic IS NOT NULL THEN relay.checked_topic(topic) END;
BEGIN
    IF user_id IS NULL THEN
        RAISE EXCEPTION 'there is no user to grant access to: user_id is null'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name users one by one.';
    END IF;
    INSERT INTO relay.events (topic, type, user_id) VALUES (destination, 'grant', "grant".user_id);
    PERFORM relay.ring('grant');
END
$$;

ALTER FUNCTION relay.eject SET row_security = on;
