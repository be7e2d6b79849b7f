-- Rows of messages become chat_message and chat_message_update on the bot's topic.
--
-- In all trigger functions here:
-- * A row without an id, or without a bot, sends nothing: no client could tell which row it is.
-- * The log insert comes first; the bell is read after it, in a statement of its own (see
--   relay.ring), and only if something was written: statement triggers fire for no rows, too.
-- * A session keeps the plan of an earlier statement, which may have had one row or a million. So
--   what belongs to another table is looked up by a scalar subquery: a join could be stuck as a
--   hash join, and every single-row insert would read all users. And old rows meet new ones in a
--   full join, which is never a nested loop: that would compare a million rows with a million.
-- * A platform's table may have columns of any name, at and actor among them: use_variable.
-- * A platform's own triggers and functions may have changed the rows since the statement wrote
--   them. relay.is_changed and relay.is_written say so; then the current rows are told.
-- * Under REPEATABLE READ and SERIALIZABLE a key may have two rows: one that another transaction has
--   deleted since the snapshot, and one that this transaction put in its place. So a lookup by a key
--   returns one row, that of the table as it is now: what was deleted has an xmax, and what was put
--   has none. Unless it was locked here: then its xmin is nearly always the younger one. (Not after
--   LOCK TABLE before the snapshot, and not against rows of two billion transactions ago.) Usernames
--   may be of either row: to sort would cost each insert 4 us.
-- * Where this transaction has written to a key, a row of the key that is not its own is gone. So the
--   current row of the trigger's own table is one with age(xmin) <= 0, or there is none.

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
    ',"timestamp":', relay.json_time(created_at), ',"metadata":', coalesce(relay.json_data(metadata), '{}'),
    action, '},"timestamp":', at, '}');

CREATE FUNCTION relay.message_deleted_event(
    bot_id uuid, message_id uuid, session_id uuid, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat(
    '{"type":"chat_message_update","bot_id":"', bot_id,
    '","data":{"message_id":"', message_id, '","session_id":', relay.json_id(session_id),
    ',"action":"deleted"},"timestamp":', at, '}');

-- Who wrote what the event tells of, if that is known: the user whose message it is. An assistant's
-- message is nobody's, nor is a change that the actor made to somebody else's message.
CREATE FUNCTION relay.message_author(role text, user_id uuid, actor uuid) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN coalesce(role, 'user') = 'user' AND coalesce(actor = user_id, true)
    THEN user_id END;

-- The message as it is now; no row where it is gone, or on another bot.
CREATE FUNCTION relay.message_now(
    type text, action text, bot_id uuid, message_id uuid, actor uuid, at text
) RETURNS TABLE (payload text, author uuid)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT relay.message_event(message_now.type, message_now.action, {{n.bot_id}}, {{n.id}},
        {{n.session_id}}, {{n.user_id}},
        (SELECT {{u.username}} FROM {{live.users}} AS u WHERE {{u.id}} = {{n.user_id}} LIMIT 1),
        {{n.content}}, {{n.role}}, {{n.created_at}}, {{n.metadata}}::text, message_now.at),
        relay.message_author({{n.role}}, {{n.user_id}}, message_now.actor)
    FROM {{live.messages}} AS n
    WHERE {{n.id}} = message_now.message_id AND {{n.bot_id}} = message_now.bot_id
        AND age(n.xmin) <= 0
    ORDER BY n.xmax <> 0, age(n.xmin) LIMIT 1
$$;

-- The hot path: one row, most of the time. Its insert has no variable in it, since a statement
-- with parameters may be planned anew each time, which costs more than running it. What is written
-- as one row is told by the ring. To have all rows returned would keep a large import twice. (Of
-- the rows that were written, for which of them count as live may be another answer a moment later.)
CREATE FUNCTION relay.messages_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    instant text := relay.instant();
    is_carried boolean := relay.carries();
    told text;
    wrote bigint;
BEGIN
    IF is_carried THEN
        is_carried := (SELECT count(*) = 1 FROM (SELECT FROM new_rows LIMIT 2) AS few);
    END IF;
    IF relay.is_changed('relay.messages', instant, TG_RELID) THEN
        INSERT INTO relay.events (topic, type, payload, author)
        SELECT concat('bot:', {{n.bot_id}}), 'chat_message', m.payload, m.author
        FROM {{live.new}} AS n
        CROSS JOIN LATERAL relay.message_now(
            'chat_message', NULL, {{n.bot_id}}, {{n.id}}, NULL, relay.json_now()) AS m;
    ELSIF is_carried THEN
        INSERT INTO relay.events AS e (topic, type, payload, author)
        SELECT concat('bot:', {{n.bot_id}}), 'chat_message', relay.message_event(
            'chat_message', NULL, {{n.bot_id}}, {{n.id}}, {{n.session_id}}, {{n.user_id}},
            (SELECT {{u.username}} FROM {{live.users}} AS u WHERE {{u.id}} = {{n.user_id}} LIMIT 1),
            {{n.content}}, {{n.role}}, {{n.created_at}}, {{n.metadata}}::text, relay.json_now()),
            relay.message_author({{n.role}}, {{n.user_id}}, NULL)
        FROM {{live.new}} AS n
        WHERE {{n.bot_id}} IS NOT NULL AND {{n.id}} IS NOT NULL
        RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) INTO told;
    ELSE
        INSERT INTO relay.events (topic, type, payload, author)
        SELECT concat('bot:', {{n.bot_id}}), 'chat_message', relay.message_event(
            'chat_message', NULL, {{n.bot_id}}, {{n.id}}, {{n.session_id}}, {{n.user_id}},
            (SELECT {{u.username}} FROM {{live.users}} AS u WHERE {{u.id}} = {{n.user_id}} LIMIT 1),
            {{n.content}}, {{n.role}}, {{n.created_at}}, {{n.metadata}}::text, relay.json_now()),
            relay.message_author({{n.role}}, {{n.user_id}}, NULL)
        FROM {{live.new}} AS n
        WHERE {{n.bot_id}} IS NOT NULL AND {{n.id}} IS NOT NULL;
    END IF;
    GET DIAGNOSTICS wrote = ROW_COUNT;
    IF wrote > 0 THEN
        told := relay.ring_event(TG_TABLE_NAME, told);
        instant := relay.mark_written('relay.messages', instant);
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
BEGIN
    IF relay.is_written('relay.messages', instant, TG_RELID) THEN
        -- Where a row is gone, and was here after this statement, another trigger has told it.
        INSERT INTO relay.events (topic, type, payload, subject, author)
        SELECT concat('bot:', c.bot_id), c.type,
            coalesce(m.payload, relay.message_deleted_event(c.bot_id, c.id, c.session_id, at)),
            c.old_id, coalesce(m.author, c.author)
        FROM (
            SELECT coalesce({{n.bot_id}}, {{o.bot_id}}) AS bot_id,
                coalesce({{n.id}}, {{o.id}}) AS id, {{o.id}} AS old_id,
                {{n.id}} IS NULL AS is_gone, {{o.session_id}} AS session_id,
                CASE WHEN {{n.id}} IS NULL
                    THEN relay.message_author({{o.role}}, {{o.user_id}}, actor) END AS author,
                CASE WHEN {{o.id}} IS NULL THEN 'chat_message' ELSE 'chat_message_update' END
                    AS type,
                CASE WHEN {{o.id}} IS NULL THEN NULL ELSE ',"action":"edited"' END AS action
            FROM {{live.old}} AS o
            FULL JOIN {{live.new}} AS n ON {{n.id}} = {{o.id}} AND {{n.bot_id}} = {{o.bot_id}}
            WHERE ({{o.id}}, {{o.content}}, {{o.role}}, {{o.metadata}})
                IS DISTINCT FROM ({{n.id}}, {{n.content}}, {{n.role}}, {{n.metadata}})
            OFFSET 0
        ) AS c
        LEFT JOIN LATERAL relay.message_now(c.type, c.action, c.bot_id, c.id, actor, at) AS m ON true
        WHERE m.payload IS NOT NULL OR (c.is_gone AND (c.bot_id, c.id) IS NOT NULL);
    ELSE
        INSERT INTO relay.events (topic, type, payload, subject, author)
        SELECT
            concat('bot:', coalesce({{n.bot_id}}, {{o.bot_id}})),
            CASE WHEN {{o.id}} IS NULL THEN 'chat_message' ELSE 'chat_message_update' END,
            CASE WHEN {{n.id}} IS NULL
                THEN relay.message_deleted_event({{o.bot_id}}, {{o.id}}, {{o.session_id}}, at)
                ELSE relay.message_event(
                    CASE WHEN {{o.id}} IS NULL THEN 'chat_message' ELSE 'chat_message_update' END,
                    CASE WHEN {{o.id}} IS NULL THEN NULL ELSE ',"action":"edited"' END,
                    {{n.bot_id}}, {{n.id}}, {{n.session_id}}, {{n.user_id}},
                    (SELECT {{u.username}} FROM {{live.users}} AS u WHERE {{u.id}} = {{n.user_id}} LIMIT 1),
                    {{n.content}}, {{n.role}}, {{n.created_at}}, {{n.metadata}}::text, at)
            END,
            {{o.id}},
            CASE WHEN {{n.id}} IS NULL THEN relay.message_author({{o.role}}, {{o.user_id}}, actor)
                ELSE relay.message_author({{n.role}}, {{n.user_id}}, actor) END
        FROM {{live.old}} AS o
        FULL JOIN {{live.new}} AS n ON {{n.id}} = {{o.id}} AND {{n.bot_id}} = {{o.bot_id}}
        WHERE ({{o.id}}, {{o.content}}, {{o.role}}, {{o.metadata}})
            IS DISTINCT FROM ({{n.id}}, {{n.content}}, {{n.role}}, {{n.metadata}})
            AND coalesce({{n.bot_id}}, {{o.bot_id}}) IS NOT NULL
            AND coalesce({{n.id}}, {{o.id}}) IS NOT NULL;
    END IF;
    IF FOUND THEN
        PERFORM relay.ring_event(TG_TABLE_NAME, NULL);  -- these have a subject
        instant := relay.mark_changed('relay.messages', instant);
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        instant := relay.mark_changed('relay.messages', instant);
    END IF;
    RETURN NULL;
END
$$;

-- In a cascade from bots the bot's row is gone already: its sockets are closed, so nothing is sent. Only
-- then: a bot that is not seen here otherwise may be back, for all others, before this commits.
CREATE FUNCTION relay.messages_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    cascades boolean := coalesce(current_setting('relay.bots_gone', true) = instant, false);
BEGIN
    IF relay.is_written('relay.messages', instant, TG_RELID) THEN
        INSERT INTO relay.events (topic, type, payload, subject, author)
        SELECT concat('bot:', {{o.bot_id}}), 'chat_message_update', coalesce(m.payload,
            relay.message_deleted_event({{o.bot_id}}, {{o.id}}, {{o.session_id}}, at)), {{o.id}},
            relay.message_author({{o.role}}, {{o.user_id}}, actor)
        FROM {{live.old}} AS o
        LEFT JOIN LATERAL relay.message_now('chat_message_update', ',"action":"edited"',
            {{o.bot_id}}, {{o.id}}, actor, at) AS m ON true
        WHERE ({{o.bot_id}}, {{o.id}}) IS NOT NULL AND (NOT cascades OR relay.bot_remains({{o.bot_id}}));
    ELSE
        INSERT INTO relay.events (topic, type, payload, subject, author)
        SELECT concat('bot:', {{o.bot_id}}), 'chat_message_update',
            relay.message_deleted_event({{o.bot_id}}, {{o.id}}, {{o.session_id}}, at), {{o.id}},
            relay.message_author({{o.role}}, {{o.user_id}}, actor)
        FROM {{live.old}} AS o
        WHERE ({{o.bot_id}}, {{o.id}}) IS NOT NULL AND (NOT cascades OR relay.bot_remains({{o.bot_id}}));
    END IF;
    IF FOUND THEN
        PERFORM relay.ring_event(TG_TABLE_NAME, NULL);  -- these have a subject
        instant := relay.mark_changed('relay.messages', instant);
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        instant := relay.mark_changed('relay.messages', instant);
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
