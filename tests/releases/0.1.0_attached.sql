-- What bin/attach of release 0.1.0 printed for tests/adopted.toml. It is a record: never changed.

BEGIN;

-- Who a token's subject is, and whether a user may watch a bot. No row means refused.
--
-- What stands in double braces here and in the files beside it is filled in with the names of
-- tables and columns: by the migration for those of tables.sql, by bin/attach for a platform's own.
-- realtime/postgres/attach_templates.py has the rules. A column that there is none of reads as
-- null, so every message provides for nulls.
--
-- STABLE, because they must see the snapshot of the statement that calls them: a socket starts
-- reading events where its authorization's snapshot ends. SECURITY DEFINER, so that the relay's
-- role needs EXECUTE and no rights on the tables.

-- kind is 'id' or 'username', as the setting JWT_SUBJECT says. It is never guessed: a user who
-- takes another's id as a username must not become them. A malformed id is no row, never an error.
CREATE FUNCTION relay.authenticate(subject text, kind text)
RETURNS TABLE (user_id uuid, username text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.id, u.username::text
    FROM public.users AS u
    WHERE u.is_active
        AND CASE authenticate.kind
            WHEN 'id' THEN u.id = relay.uuid_or_null(authenticate.subject)
            WHEN 'username' THEN u.username::text = authenticate.subject
        END
$$;

-- The owner's role is 'owner', whatever a permission row says. A row of permissions without a role
-- is a permission, too.
CREATE FUNCTION relay.authorize(user_id uuid, bot_id uuid)
RETURNS TABLE (bot_name text, role text, username text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    SELECT b.name::text,
        CASE WHEN b.owner_id = u.id OR p.role::text = 'OWNER' THEN 'owner'
            ELSE coalesce(p.role::text, 'viewer') END,
        u.username::text
    FROM public.users AS u
    CROSS JOIN public.bots AS b
    LEFT JOIN public."bot_permissions" AS p ON p.bot_id = b.id AND p.user_id = u.id
    WHERE u.id = authorize.user_id
        AND u.is_active
        AND b.id = authorize.bot_id
        AND (b.owner_id = u.id OR p.user_id IS NOT NULL)
$$;

-- A user who is deactivated or deleted leaves everywhere; a TRUNCATE of a table that decides
-- about access has everyone asked again.

-- A user whose id was changed is another one: who had the old id leaves.
CREATE FUNCTION relay.users_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrote boolean;
BEGIN
    INSERT INTO relay.events (type, user_id, code)
    SELECT 'eject', u.id, 4001
    FROM (
        SELECT o.id AS id,
            o.is_active AND (n.id IS NULL OR n.is_active IS NOT TRUE) AS deactivated
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.id = o.id
        OFFSET 0
    ) AS u
    WHERE u.deactivated AND u.id IS NOT NULL;
    wrote := FOUND;
    -- Whoever is active again, or has another name, may get in where they were refused.
    INSERT INTO relay.events (type)
    SELECT 'grant'
    WHERE EXISTS (
        SELECT FROM new_rows AS n
        FULL JOIN old_rows AS o ON o.id = n.id
        WHERE n.is_active
            AND (o.is_active, o.username::text) IS DISTINCT FROM (true, n.username::text)
    );
    IF FOUND OR wrote THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- A new user, or the owner of a new bot, may have been refused just before.
CREATE FUNCTION relay.access_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO relay.events (type) SELECT 'grant' WHERE EXISTS (SELECT FROM new_rows);
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION relay.users_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO relay.events (type, user_id, code)
    SELECT 'eject', o.id, 4001 FROM old_rows AS o;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- TRUNCATE has no transition tables; who may not stay is found by asking about everyone.
-- The trigger's argument is the code for those. TRUNCATE of messages or documents sends nothing.
CREATE FUNCTION relay.access_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO relay.events (type, code) VALUES ('recheck', TG_ARGV[0]::integer);
    PERFORM relay.ring(TG_TABLE_NAME);
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON public.users
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON public.users
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON public.users
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_deleted();
CREATE TRIGGER relay_truncate AFTER TRUNCATE ON public.users
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4001');

-- The log rows of a change of access: of a row of permissions, or of a bot's owner.

-- The "details" of both messages. granted_by is the row's, else the actor; for a revoke the actor.
CREATE FUNCTION relay.permission_details(role text, granted_by uuid, old_role text)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"role":', to_json(coalesce(role, 'viewer')),
    ',"granted_by":', relay.json_id(granted_by),
    CASE WHEN old_role IS NOT NULL THEN ',"old_role":' || to_json(old_role)::text END, '}');

-- What a revoke does to the user's sockets, seen after it. An owner keeps access, as far as can
-- be seen here, so they are only asked again. Null, nothing: a bot that is gone has ejected
-- everyone already, and a user who is gone was ejected from everything, with another code.
CREATE FUNCTION relay.ejection_after_revoke(bot_id uuid, user_id uuid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN b.owner_id = ejection_after_revoke.user_id THEN 'recheck'
        WHEN (SELECT true FROM public.users AS u WHERE u.id = ejection_after_revoke.user_id)
            THEN 'eject'
    END
    FROM public.bots AS b
    WHERE b.id = ejection_after_revoke.bot_id
$$;

-- The log rows of one change. The ejected socket is sent the permission_change as its farewell,
-- for it is stopped before it could see the event; a grant says whose it is, for a relay that has
-- to find out whether somebody lost access for a moment. Set-returning and STABLE, so that it is
-- inlined (OFFSET 0 in its callers: arguments are computed once, below it).
CREATE FUNCTION relay.permission_rows(
    bot_id uuid, user_id uuid, action text, details text, bot_exists boolean, ejection text, at text
) RETURNS TABLE (topic text, type text, payload text, about uuid, code integer)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT r.topic, r.type, r.payload, r.about, r.code
    FROM (
        SELECT concat('{"type":"permission_change","bot_id":"', bot_id,
            '","data":{"target_user_id":"', user_id, '","action":"', action,
            '","details":', details, '},"timestamp":', at, '}') AS change
    ) AS m
    CROSS JOIN LATERAL (VALUES
        (bot_exists, concat('bot:', bot_id), 'permission_change', m.change,
            CASE WHEN action = 'granted' THEN user_id END, NULL::int),
        (true, concat('user:', user_id), 'notification', relay.notification_message(
            'permission_change', concat('{"bot_id":"', bot_id, '","action":"', action,
                '","details":', details, '}'), at), NULL, NULL),
        (ejection IS NOT NULL, concat('bot:', bot_id), ejection, m.change, user_id, 4003)
    ) AS r (wanted, topic, type, payload, about, code)
    WHERE r.wanted;
END;

-- Rows of bots become bot_update; a new owner also is a revoke and a grant; a deleted bot ends
-- everyone's access to it.

CREATE FUNCTION relay.bot_event(
    bot_id uuid, update_type text, details text, updated_by uuid, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"type":"bot_update","bot_id":"', bot_id, '","data":{"update_type":"', update_type,
    '","details":', details, ',"updated_by":', relay.json_id(updated_by),
    '},"timestamp":', at, '}');

-- The columns that differ, with their new values, whatever columns the table has: null if none do.
-- Called with TimeZone = UTC, so that a time ends in +00:00, which becomes Z.
CREATE FUNCTION relay.changed_columns(relation oid, old_row jsonb, new_row jsonb) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    SELECT jsonb_object_agg(c.key, CASE
        WHEN a.atttypid = 'timestamptz'::regtype
            THEN to_jsonb(regexp_replace(c.value #>> '{}', '\+00:00$', 'Z'))
        ELSE c.value
    END)::text
    FROM jsonb_each(new_row) AS c
    JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = c.key
    WHERE old_row IS NOT NULL
        AND c.key <> ALL (ARRAY['api_key', 'modified_at'])
        AND c.value IS DISTINCT FROM old_row -> c.key
);

-- What losing a bot does to the former owner's sockets, seen after it: with a permission row of
-- their own they keep access, as far as can be seen here.
CREATE FUNCTION relay.ejection_after_owner(bot_id uuid, user_id uuid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN EXISTS (
        SELECT FROM public."bot_permissions" AS p
        WHERE p.bot_id = ejection_after_owner.bot_id
            AND p.user_id = ejection_after_owner.user_id
    ) THEN 'recheck' ELSE 'eject' END
$$;

-- Values come out as jsonb writes them, so everything that changes how is fixed here: a writer's
-- settings must not show in the message.
CREATE FUNCTION relay.bots_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload)
    SELECT concat('bot:', c.id), 'bot_update',
        relay.bot_event(c.id, 'config', c.details, coalesce(c.updated_by, actor), at)
    FROM (
        SELECT n.id AS id, NULL::uuid AS updated_by,
            relay.changed_columns(TG_RELID, to_jsonb(o.*), to_jsonb(n.*)) AS details
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.id = o.id
        OFFSET 0
    ) AS c
    WHERE c.details IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT n.id AS id, o.id AS old_id, o.owner_id AS old_owner,
            n.owner_id AS new_owner, NULL::uuid AS updated_by
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.id = o.id
        OFFSET 0
    ) AS b
    CROSS JOIN LATERAL (
        SELECT b.old_owner, 'revoked', actor, relay.ejection_after_owner(b.id, b.old_owner)
        UNION ALL
        SELECT b.new_owner, 'granted', coalesce(b.updated_by, actor), NULL
    ) AS c (user_id, action, granted_by, ejection)
    CROSS JOIN LATERAL relay.permission_rows(b.id, c.user_id, c.action,
        relay.permission_details('owner', c.granted_by, NULL), true, c.ejection, at) AS r
    WHERE b.id = b.old_id AND b.old_owner IS DISTINCT FROM b.new_owner AND c.user_id IS NOT NULL;
    PERFORM relay.ring(TG_TABLE_NAME);
    RETURN NULL;
END
$$;

-- One row ejects everyone, with the "deleted" message as their farewell. It is not an event of the
-- topic: a read's ejections come before its events, so nobody would be left to receive it, and
-- nobody can come back and resume. OLD.updated_by is not who deletes; only the actor can tell.
CREATE FUNCTION relay.bots_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload, code)
    SELECT concat('bot:', o.id), 'eject',
        relay.bot_event(o.id, 'deleted', '{}', actor, at), 4003
    FROM old_rows AS o;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON public.bots
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON public.bots
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON public.bots
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_deleted();
CREATE TRIGGER relay_truncate AFTER TRUNCATE ON public.bots
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4003');

-- Rows of permissions become permission_change on the bot's topic and a notification on the
-- user's; a revoke also ejects the user's sockets from the bot's topic.

CREATE FUNCTION relay.permissions_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM new_rows AS n
    CROSS JOIN LATERAL relay.permission_rows(n.bot_id, n.user_id, 'granted',
        relay.permission_details(n.role::text, coalesce(NULL::uuid, actor), NULL),
        true, NULL, at) AS r
    WHERE (n.bot_id, n.user_id) IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- Joined by whom the row is about, not by its id: a row turned to another bot or user is a revoke
-- and a grant, and two rows that swap their users amount to two changed roles.
CREATE FUNCTION relay.permissions_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT coalesce(n.bot_id, o.bot_id) AS bot_id,
            coalesce(n.user_id, o.user_id) AS user_id,
            CASE WHEN n.user_id IS NULL THEN 'revoked' WHEN o.user_id IS NULL THEN 'granted'
                ELSE 'updated' END AS action,
            CASE WHEN n.user_id IS NULL THEN o.role::text ELSE n.role::text END AS role,
            CASE WHEN n.user_id IS NULL THEN actor ELSE coalesce(NULL::uuid, actor) END
                AS granted_by,
            CASE WHEN n.user_id IS NOT NULL THEN o.role::text END AS old_role,
            CASE WHEN n.user_id IS NULL
                THEN relay.ejection_after_revoke(o.bot_id, o.user_id) END AS ejection
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.bot_id = o.bot_id AND n.user_id = o.user_id
        WHERE (o.user_id, o.role::text) IS DISTINCT FROM (n.user_id, n.role::text)
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL relay.permission_rows(c.bot_id, c.user_id, c.action,
        relay.permission_details(c.role, c.granted_by, c.old_role), true, c.ejection, at) AS r
    WHERE (c.bot_id, c.user_id) IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- In a cascade from bots there is no one left to tell on the bot's topic, only the user.
CREATE FUNCTION relay.permissions_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT o.bot_id AS bot_id, o.user_id AS user_id, o.role::text AS role,
            (SELECT true FROM public.bots AS b WHERE b.id = o.bot_id) AS bot_exists,
            relay.ejection_after_revoke(o.bot_id, o.user_id) AS ejection
        FROM old_rows AS o
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL relay.permission_rows(c.bot_id, c.user_id, 'revoked',
        relay.permission_details(c.role, actor, NULL), c.bot_exists, c.ejection, at) AS r
    WHERE (c.bot_id, c.user_id) IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON public."bot_permissions"
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON public."bot_permissions"
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON public."bot_permissions"
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_deleted();
CREATE TRIGGER relay_truncate AFTER TRUNCATE ON public."bot_permissions"
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4003');

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
    SELECT concat('bot:', n.bot_id), 'chat_message', relay.message_event(
        'chat_message', NULL, n.bot_id, n.id, n.session_id, n.user_id,
        (SELECT u.username::text FROM public.users AS u WHERE u.id = n.user_id),
        n.content, n.role::text, (n.created_at AT TIME ZONE 'UTC'), n."message_metadata"::text::text,
        relay.json_time(clock_timestamp()))
    FROM new_rows AS n
    WHERE n.bot_id IS NOT NULL;
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
        concat('bot:', coalesce(n.bot_id, o.bot_id)),
        CASE WHEN o.id IS NULL THEN 'chat_message' ELSE 'chat_message_update' END,
        CASE WHEN n.id IS NULL
            THEN relay.message_deleted_event(o.bot_id, o.id, o.session_id, at)
            ELSE relay.message_event(
                CASE WHEN o.id IS NULL THEN 'chat_message' ELSE 'chat_message_update' END,
                CASE WHEN o.id IS NULL THEN NULL ELSE ',"action":"edited"' END,
                n.bot_id, n.id, n.session_id, n.user_id,
                (SELECT u.username::text FROM public.users AS u WHERE u.id = n.user_id),
                n.content, n.role::text, (n.created_at AT TIME ZONE 'UTC'), n."message_metadata"::text::text, at)
        END,
        o.id
    FROM old_rows AS o
    FULL JOIN new_rows AS n ON n.id = o.id AND n.bot_id = o.bot_id
    WHERE (o.id, o.content, o.role::text, o."message_metadata"::text)
        IS DISTINCT FROM (n.id, n.content, n.role::text, n."message_metadata"::text)
        AND coalesce(n.bot_id, o.bot_id) IS NOT NULL;
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
    SELECT concat('bot:', o.bot_id), 'chat_message_update',
        relay.message_deleted_event(o.bot_id, o.id, o.session_id, at), o.id
    FROM old_rows AS o
    WHERE (SELECT true FROM public.bots AS b WHERE b.id = o.bot_id);
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON public.messages
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON public.messages
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON public.messages
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_deleted();

-- Rows of documents become document_update on the bot's topic.

-- The error stands in it only while the document has failed. user_id is who did it, as far as the
-- writer said so, else who uploaded the document.
CREATE FUNCTION relay.document_event(
    bot_id uuid, action text, document_id uuid, filename text, status text, error text,
    user_id uuid, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"type":"document_update","bot_id":"', bot_id,
    '","data":{"action":', to_json(coalesce(action, 'uploaded')),
    ',"document":{"id":"', document_id, '","filename":', to_json(coalesce(filename, '')),
    ',"status":', to_json(coalesce(status, 'uploaded')),
    CASE WHEN status = 'failed' THEN ',"error":' || relay.json_text(error) END,
    '},"user_id":', relay.json_id(user_id), '},"timestamp":', at, '}');

-- "uploaded" whatever status the row starts with; document.status tells.
CREATE FUNCTION relay.documents_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload)
    SELECT concat('bot:', n.bot_id), 'document_update', relay.document_event(n.bot_id,
        'uploaded', n.id, n.filename::text, NULL::text, NULL::text,
        coalesce(actor, n.uploaded_by), at)
    FROM new_rows AS n
    WHERE n.bot_id IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- A document moved to another bot is deleted from the one and uploaded to the other.
CREATE FUNCTION relay.documents_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload)
    SELECT concat('bot:', d.bot_id), 'document_update', relay.document_event(d.bot_id,
        CASE WHEN n.id IS NULL THEN 'deleted' WHEN o.id IS NULL THEN 'uploaded'
            ELSE d.status END,
        d.id, d.filename, d.status, d.error, coalesce(actor, d.uploaded_by), at)
    FROM old_rows AS o
    FULL JOIN new_rows AS n ON n.id = o.id AND n.bot_id = o.bot_id
    CROSS JOIN LATERAL (
        SELECT n.id, n.bot_id, n.filename::text, NULL::text, NULL::text, n.uploaded_by
        WHERE n.id IS NOT NULL
        UNION ALL
        SELECT o.id, o.bot_id, o.filename::text, NULL::text, NULL::text, o.uploaded_by
        WHERE n.id IS NULL
    ) AS d (id, bot_id, filename, status, error, uploaded_by)
    WHERE (o.id, NULL::text) IS DISTINCT FROM (n.id, NULL::text)
        AND d.bot_id IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- In a cascade from bots the bot is gone already: its sockets are closed, so nothing is sent.
CREATE FUNCTION relay.documents_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload)
    SELECT concat('bot:', o.bot_id), 'document_update', relay.document_event(o.bot_id,
        'deleted', o.id, o.filename::text, NULL::text, NULL::text,
        coalesce(actor, o.uploaded_by), at)
    FROM old_rows AS o
    WHERE (SELECT true FROM public.bots AS b WHERE b.id = o.bot_id);
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON public.documents
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.documents_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON public.documents
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.documents_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON public.documents
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.documents_deleted();

REVOKE EXECUTE ON FUNCTION relay.authenticate, relay.authorize, relay.users_updated, relay.access_inserted, relay.users_deleted, relay.access_truncated, relay.permission_details, relay.ejection_after_revoke, relay.permission_rows, relay.bot_event, relay.changed_columns, relay.ejection_after_owner, relay.bots_updated, relay.bots_deleted, relay.permissions_inserted, relay.permissions_updated, relay.permissions_deleted, relay.message_event, relay.message_deleted_event, relay.messages_inserted, relay.messages_updated, relay.messages_deleted, relay.document_event, relay.documents_inserted, relay.documents_updated, relay.documents_deleted FROM PUBLIC;
COMMENT ON FUNCTION relay.authenticate IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.authorize IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.users_updated IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.access_inserted IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.users_deleted IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.access_truncated IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.permission_details IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.ejection_after_revoke IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.permission_rows IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.bot_event IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.changed_columns IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.ejection_after_owner IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.bots_updated IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.bots_deleted IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.permissions_inserted IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.permissions_updated IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.permissions_deleted IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.message_event IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.message_deleted_event IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.messages_inserted IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.messages_updated IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.messages_deleted IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.document_event IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.documents_inserted IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.documents_updated IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.documents_deleted IS 'Made by bin/attach; bin/attach --detach takes it off.';
COMMENT ON FUNCTION relay.authorize IS E'Made by bin/attach; bin/attach --detach takes it off.
{"digest": "a840f98bee47a46e4a6c4fc5a06e0a5fa24d4dff9cdb9653da4a9bd787acfd08", "grants": []}';

COMMIT;
