-- Rows of messages become chat_message and chat_message_update on the bot's topic.
--
-- In all trigger functions here:
-- * The log insert comes first; the bell is read after it, in a statement of its own (see
--   relay.ring), and only if something was written: statement triggers fire for no rows, too.
-- * A session keeps the plan of an earlier statement, which may have had one row or a million. So
--   what belongs to another table is looked up by a scalar subquery: a join could be stuck as a
--   hash join, and every single-row insert would read all users. And old rows meet new ones in a
--   full join, which is never a nested loop: that would compare a million rows with a million.
-- * A platform's table may have columns of any name, at and actor among them: use_variable.

CREATE FUNCTION relay.message_event(
    type text, action text, bot_id uuid, message_id uuid, session_id uuid, user_id uuid,
    username text, content text, role text, created_at timestamptz, metadata text, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat(
    '{"type":"', type, '","bot_id":"', bot_id,
    '","data":{"message_id":"', message_id, '","session_id":', relay.json_id(session_id),
    ',"user_id":', relay.json_id(user_id), ',"username":', relay.json_text(username),
    ',"content":', to_json(coalesce(content, '')), ',"role":', to_json(coalesce(role, 'user')),
    ',"timestamp":', relay.json_time(created_at), ',"metadata":', coalesce(metadata, '{}'),
    action, '},"timestamp":', at, '}');

CREATE FUNCTION relay.message_deleted_event(
    bot_id uuid, message_id uuid, session_id uuid, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat(
    '{"type":"chat_message_update","bot_id":"', bot_id,
    '","data":{"message_id":"', message_id, '","session_id":', relay.json_id(session_id),
    ',"action":"deleted"},"timestamp":', at, '}');

-- The hot path: one row, most of the time. The insert has no variable in it, since a statement
-- with parameters may be planned anew each time, which costs more than running it.
CREATE FUNCTION relay.messages_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO relay.events (topic, type, payload)
    SELECT concat('bot:', {{n.bot_id}}), 'chat_message', relay.message_event(
        'chat_message', NULL, {{n.bot_id}}, {{n.id}}, {{n.session_id}}, {{n.user_id}},
        (SELECT {{u.username}} FROM {{users}} AS u WHERE {{u.id}} = {{n.user_id}}),
        {{n.content}}, {{n.role}}, {{n.created_at}}, {{n.metadata}}::text,
        relay.json_time(clock_timestamp()))
    FROM new_rows AS n
    WHERE {{n.bot_id}} IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- A message that is there already is the subject of its updates: an assistant's answer grows by
-- many in a second, and each carries the whole row.
--
-- A message moved to another bot (or given another id) is gone for those who watch the one and
-- new to those who watch the other; the full join finds both sides alone.
CREATE FUNCTION relay.messages_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
BEGIN
    INSERT INTO relay.events (topic, type, payload, subject)
    SELECT
        concat('bot:', coalesce({{n.bot_id}}, {{o.bot_id}})),
        CASE WHEN {{o.id}} IS NULL THEN 'chat_message' ELSE 'chat_message_update' END,
        CASE WHEN {{n.id}} IS NULL
            THEN relay.message_deleted_event({{o.bot_id}}, {{o.id}}, {{o.session_id}}, at)
            ELSE relay.message_event(
                CASE WHEN {{o.id}} IS NULL THEN 'chat_message' ELSE 'chat_message_update' END,
                CASE WHEN {{o.id}} IS NULL THEN NULL ELSE ',"action":"edited"' END,
                {{n.bot_id}}, {{n.id}}, {{n.session_id}}, {{n.user_id}},
                (SELECT {{u.username}} FROM {{users}} AS u WHERE {{u.id}} = {{n.user_id}}),
                {{n.content}}, {{n.role}}, {{n.created_at}}, {{n.metadata}}::text, at)
        END,
        {{o.id}}
    FROM old_rows AS o
    FULL JOIN new_rows AS n ON {{n.id}} = {{o.id}} AND {{n.bot_id}} = {{o.bot_id}}
    WHERE ({{o.id}}, {{o.content}}, {{o.role}}, {{o.metadata}})
        IS DISTINCT FROM ({{n.id}}, {{n.content}}, {{n.role}}, {{n.metadata}})
        AND coalesce({{n.bot_id}}, {{o.bot_id}}) IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- In a cascade from bots the bot is gone already: its sockets are closed, so nothing is sent.
CREATE FUNCTION relay.messages_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
BEGIN
    INSERT INTO relay.events (topic, type, payload, subject)
    SELECT concat('bot:', {{o.bot_id}}), 'chat_message_update',
        relay.message_deleted_event({{o.bot_id}}, {{o.id}}, {{o.session_id}}, at), {{o.id}}
    FROM old_rows AS o
    WHERE (SELECT true FROM {{bots}} AS b WHERE {{b.id}} = {{o.bot_id}});
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON {{messages}}
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON {{messages}}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON {{messages}}
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_deleted();
