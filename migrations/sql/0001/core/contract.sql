-- What any SQL may call to reach sockets: relay.emit, relay.notify_user, relay.eject.
-- Callers need USAGE on the schema and EXECUTE on the function, nothing else.

-- The message types that a client takes the protocol's word for, or that the log itself uses.
CREATE FUNCTION relay.protocol_types() RETURNS text[]
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

-- The topic in lower case, as the relay spells ids; an error where it is none.
CREATE FUNCTION relay.checked_topic(topic text) RETURNS text
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

-- Sends {"type", "bot_id" (on bot topics), "data", "timestamp"} to all who watch the topic.
-- "data" is {} where null is passed, for clients look into it unasked. "actor" stands at the top
-- level and only when given: "data" is the caller's own, and nothing is slipped into it.
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

-- The "notification" message, as it arrives on the user's notifications sockets.
CREATE FUNCTION relay.notification_message(notification_type text, data text, at text)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"type":"notification","notification_type":', to_json(notification_type),
    ',"data":', data, ',"timestamp":', at, '}');

-- Sends a "notification" to one user's notifications sockets.
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

-- Ends access: of a user (null: everyone) to a topic (null: all of them). Their sockets are
-- stopped, and closed with the code, or with 1013 (come back) where relay.authorize still agrees.
CREATE FUNCTION relay.eject(user_id uuid, topic text, code integer DEFAULT 4003)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    destination text := CASE WHEN topic IS NOT NULL THEN relay.checked_topic(topic) END;
BEGIN
    IF (code IN (1000, 1008, 1011, 1013) OR code BETWEEN 3000 AND 4999) IS NOT TRUE THEN
        RAISE EXCEPTION 'a WebSocket cannot be closed with code %', coalesce(code::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1000, 1008, 1011, 1013 or one of 3000 to 4999, such as 4003.';
    END IF;
    INSERT INTO relay.events (topic, type, user_id, code)
    VALUES (destination, 'eject', eject.user_id, eject.code);
    PERFORM relay.ring('eject');
END
$$;
