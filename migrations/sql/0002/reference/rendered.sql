-- Made from migrations/templates by: python -m migrations.render 0002
-- Change the templates, not this file, and run that again.

-- Who a token's subject is, and whether a user may watch a bot. No row means refused.
--
-- A column that a platform does not have reads as null, so every message provides for nulls.
--
-- STABLE, because they must see the snapshot of the statement that calls them: a socket starts
-- reading events where its authorization's snapshot ends. SECURITY DEFINER, so that the relay's
-- role needs EXECUTE and no rights on the tables.
--
-- Here and in all triggers row_security is on: whoever writes may have it off, as who restores a dump
-- has. Then a table whose row security is in force would be an error, also where all rows are shown.

-- kind is 'id' or 'username', as the setting JWT_SUBJECT says. It is never guessed: a user who
-- takes another's id as a username must not become them. A malformed id is no row, never an error.
--
-- A username is compared exactly, also where the column's collation ignores case or accents.
--
-- A query for each kind: one for both could use no index, for its plan is made for any kind.
CREATE OR REPLACE FUNCTION relay.authenticate(subject text, kind text)
RETURNS TABLE (user_id uuid, username text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
    SELECT u.id, u.username COLLATE "C"
    FROM public.users AS u
    WHERE authenticate.kind = 'id' AND u.id = relay.uuid_or_null(authenticate.subject)
        AND u.is_active
    UNION ALL
    SELECT u.id, u.username COLLATE "C"
    FROM public.users AS u
    WHERE authenticate.kind = 'username' AND u.username = authenticate.subject
        AND u.username COLLATE "C" = authenticate.subject
        AND u.is_active
$$;

-- The owner's role is 'owner', whatever a permission row says. A row of permissions without a role
-- is a permission, too.
CREATE OR REPLACE FUNCTION relay.authorize(user_id uuid, bot_id uuid)
RETURNS TABLE (bot_name text, role text, username text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
    SELECT b.name COLLATE "C",
        CASE WHEN b.owner_id = u.id OR p.role COLLATE "C" = 'owner' THEN 'owner'
            ELSE coalesce(p.role COLLATE "C", 'viewer') END,
        u.username COLLATE "C"
    FROM public.users AS u
    CROSS JOIN public.bots AS b
    LEFT JOIN public.permissions AS p ON p.bot_id = b.id AND p.user_id = u.id
    WHERE u.id = authorize.user_id
        AND u.is_active
        AND b.id = authorize.bot_id
        AND (b.owner_id = u.id OR p.user_id IS NOT NULL)
$$;

-- A user who is deactivated or deleted leaves everywhere; a TRUNCATE of a table that decides
-- about access has everyone asked again.
--
-- A row without an id is nobody's: an ejection without a user would be everyone's.

-- A user whose id was changed is another one: who had the old id leaves.
CREATE OR REPLACE FUNCTION relay.users_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
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
    -- Who is active now and was not is named: what was written meanwhile is not for them.
    INSERT INTO relay.events (type, user_id)
    SELECT 'grant', n.id
    FROM new_rows AS n
    LEFT JOIN old_rows AS o ON o.id = n.id
    WHERE n.id IS NOT NULL AND n.is_active
        AND (o.id IS NULL OR o.is_active IS NOT TRUE);
    wrote := FOUND OR wrote;
    -- Tokens may name users by their username. One with the new name may have been refused, so the
    -- servers are to forget refusals. The row names no user: a new name gives no new access, for its user was
    -- active before, too.
    INSERT INTO relay.events (type)
    SELECT 'grant'
    WHERE EXISTS (
        SELECT FROM new_rows AS n
        JOIN old_rows AS o ON o.id = n.id
        WHERE n.is_active AND o.is_active
            AND o.username COLLATE "C" IS DISTINCT FROM n.username COLLATE "C"
    );
    IF FOUND OR wrote THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- A new user may have been refused just before, and may have the id of one who was there before.
CREATE OR REPLACE FUNCTION relay.users_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
BEGIN
    INSERT INTO relay.events (type, user_id)
    SELECT 'grant', n.id FROM new_rows AS n WHERE n.id IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION relay.users_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
BEGIN
    INSERT INTO relay.events (type, user_id, code)
    SELECT 'eject', o.id, 4001 FROM old_rows AS o WHERE o.id IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- TRUNCATE has no transition tables; who may not stay is found by asking about everyone.
-- The trigger's argument is the code for those. TRUNCATE of messages or documents sends nothing.
CREATE OR REPLACE FUNCTION relay.access_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
BEGIN
    INSERT INTO relay.events (type, code) VALUES ('recheck', TG_ARGV[0]::integer);
    PERFORM relay.ring(TG_TABLE_NAME);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER relay_insert AFTER INSERT ON public.users
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_inserted();
CREATE OR REPLACE TRIGGER relay_update AFTER UPDATE ON public.users
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_updated();
CREATE OR REPLACE TRIGGER relay_delete AFTER DELETE ON public.users
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_deleted();
CREATE OR REPLACE TRIGGER relay_truncate AFTER TRUNCATE ON public.users
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4001');

-- The log rows of a change of access: of a row of permissions, or of a bot's owner.
--
-- Somebody may be a bot's owner twice, in bots.owner_id and by a row of permissions. What is told is
-- what became of their access by both. So a transfer that writes both tables, in whichever order,
-- is one message for each person. A trigger of one table sees the other as it is then:
-- * Who loses one of the two keeps the other: nothing is told. They are asked again, since another
--   transaction may take the other at the same time.
-- * Who gets the second one was told of the first: nothing is told.
-- * Unless triggers of both tables run in one statement of the client, which the marks show. Then
--   each may find the other's change made, but not told yet. So each tells what the user has now,
--   if that is not what was told of them last, which relay.is_news remembers.

-- The "details" of both messages. granted_by is the row's, else the actor; for a revoke the actor.
-- Clients know the role and who did it by either of two names.
CREATE OR REPLACE FUNCTION relay.permission_details(
    action text, role text, granted_by uuid, old_role text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"role":', to_json(coalesce(role, 'viewer')),
    ',"granted_by":', relay.json_id(granted_by),
    CASE action
        WHEN 'updated' THEN concat(',"old_role":', to_json(coalesce(old_role, 'viewer')),
            ',"new_role":', to_json(coalesce(role, 'viewer')))
        WHEN 'revoked' THEN concat(',"revoked_role":', to_json(coalesce(role, 'viewer')),
            ',"revoked_by":', relay.json_id(granted_by))
    END, '}');

-- What a revoke does to the user's sockets, seen after it. An owner keeps access, as far as can be
-- seen here, so they are only asked again. So is everybody whose bot or user is not seen here:
-- another transaction may have brought them back before this one commits, and let the user in.
CREATE OR REPLACE FUNCTION relay.ejection_after_revoke(bot_id uuid, user_id uuid) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN (SELECT b.owner_id IS DISTINCT FROM ejection_after_revoke.user_id
                FROM public.bots AS b WHERE b.id = ejection_after_revoke.bot_id
                ORDER BY b.xmax <> 0, age(b.xmin) LIMIT 1)
            AND (SELECT true FROM public.users AS u
                WHERE u.id = ejection_after_revoke.user_id LIMIT 1)
        THEN 'eject'
        ELSE 'recheck'
    END
$$;

-- Whether something else was told of the user's access last in this transaction, or nothing. Who was
-- told of as granted has what an update to the same role would say. If they were an owner (had 2:
-- before this statement; 1: unless it made them one), being one is no news as long as nothing was told.
--
-- The action 'untold' notes that the trigger of the other table may have to tell that they own it.
--
-- Remembers what is told now, of a few users: a transaction with many transfers may tell some twice.
CREATE OR REPLACE FUNCTION relay.is_news(
    bot_id uuid, user_id uuid, action text, role text, had integer DEFAULT 0
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    told text := coalesce(current_setting('relay.told', true), '');
    about text := concat(bot_id, '/', user_id, '=');
    start integer := strpos(told, about);
    last text := CASE WHEN start > 0
        THEN split_part(substr(told, start + length(about)), ';', 1) END;
    news text := concat(action, ':', replace(role, ';', ''));
    knows_all boolean := octet_length(told) < 4000;
BEGIN
    IF (action = 'untold' AND last IS NOT NULL)
        OR (had > 0 AND last IS NULL AND knows_all)
        OR (had > 1 AND last = 'untold:') THEN
        RETURN false;
    END IF;
    IF last = news OR (action = 'updated' AND last = replace(news, 'updated:', 'granted:')) THEN
        RETURN false;
    END IF;
    IF start > 0 THEN
        told := replace(told, concat(about, last, ';'), '');
    END IF;
    IF octet_length(told) < 4000 THEN
        told := concat(told, about, news, ';');
    END IF;
    PERFORM set_config('relay.told', told, true);
    RETURN true;
END
$$;

-- The log rows of one change. An ejected socket is sent the permission_change as its final message:
-- it is stopped before it could see the event. Set-returning and STABLE, so that it is inlined
-- (OFFSET 0 in its callers: arguments are computed once, below it).
--
-- is_told: whether there are messages. on_topic: whether the bot is there, and its watchers told.
-- named: whom it gives access, as the message on the bot's topic says, or a row without a message; a
-- relay that has to find out whether somebody lost access for a moment looks for it. effect: what else
-- is for the user's sockets, 'eject' or 'recheck', or null for nothing.
CREATE OR REPLACE FUNCTION relay.access_rows(
    bot_id uuid, user_id uuid, action text, details text, is_told boolean, on_topic boolean,
    named uuid, effect text, at text
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
        (is_told AND on_topic, concat('bot:', bot_id), 'permission_change', m.change, named,
            NULL::int),
        (is_told, concat('user:', user_id), 'notification', relay.notification_message(
            'permission_change', concat('{"bot_id":"', bot_id, '","action":"', action,
                '","details":', details, '}'), at), NULL, NULL),
        (named IS NOT NULL AND NOT is_told, concat('bot:', bot_id), 'grant', NULL, named, NULL),
        (effect IS NOT NULL, concat('bot:', bot_id), effect, m.change, user_id, 4003)
    ) AS r (wanted, topic, type, payload, about, code)
    WHERE r.wanted;
END;

-- Rows of bots become bot_update; a new owner also is a revoke and a grant; a bot that is deleted, or
-- given another id, ends everyone's access to it.

CREATE OR REPLACE FUNCTION relay.bot_event(
    bot_id uuid, update_type text, details text, updated_by uuid, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"type":"bot_update","bot_id":"', bot_id, '","data":{"update_type":"', update_type,
    '","details":', details, ',"updated_by":', relay.json_id(updated_by),
    '},"timestamp":', at, '}');

-- The query for the bots with changed columns, and these with their new values as JSON, whatever
-- columns the table has. It names each one by itself: the row as a whole would fetch what did not
-- change, and what no client may see. So it is made anew for each run, and is to be cheap to plan.
--
-- The old rows are compared with the new ones or, if it reads, with the table's. A value that lies
-- outside of its row, where it did before, is the same and is not fetched. (Before PostgreSQL 17
-- nobody can tell, and both are compared.) Not every type has equality, and json may hold what jsonb cannot, also
-- within an array or a composite. So types that are not named here are compared byte by byte, and
-- become JSON only where they differ. A column that is computed when it is read has no value in a
-- trigger, and is left out.
--
-- to_json follows casts, which a type's owner may make. So a value whose type is somebody else's
-- becomes a string, and an array of such values an array of strings.
--
-- A column that is to stay untold, and is gone, has another name now, under which it would be told.
CREATE OR REPLACE FUNCTION relay.bot_changes(relation oid, reads boolean) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    details text;
    names text[];
    secret text[] := '{}'::text[];
    newer text := CASE WHEN reads THEN $rows$LATERAL (
            SELECT b.* FROM public.bots AS b WHERE b.id = o.id AND age(b.xmin) <= 0
            ORDER BY b.xmax <> 0, age(b.xmin) LIMIT 1)$rows$
        ELSE $rows$new_rows$rows$ END;
    unmoved text := CASE WHEN current_setting('server_version_num')::int >= 170000
        THEN 'CASE WHEN pg_column_toast_chunk_id(o.%1$I) = pg_column_toast_chunk_id(n.%1$I)'
            ' THEN NULL '
        ELSE 'CASE ' END;
BEGIN
    SELECT string_agg(format(
        CASE WHEN a.attlen = -1 THEN unmoved ELSE 'CASE ' END || CASE
            WHEN t.base = 'bytea'::regtype
                THEN 'WHEN o.%1$I IS DISTINCT FROM n.%1$I THEN %2$L || CASE'
                    ' WHEN octet_length(n.%1$I) > 16777216 THEN ''{"omitted":"too large"}'''
                    ' ELSE coalesce(to_json(n.%1$I)::text, ''null'') END END'
            WHEN t.base IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
                THEN 'WHEN o.%1$I::text COLLATE "C" IS DISTINCT FROM n.%1$I::text COLLATE "C"'
                    ' THEN %2$L || CASE'
                    ' WHEN octet_length(n.%1$I) > 16777216 THEN ''{"omitted":"too large"}'''
                    ' ELSE coalesce(to_json(n.%1$I)::text, ''null'') END END'
            WHEN t.base = 'json'::regtype
                THEN 'WHEN o.%1$I::text IS DISTINCT FROM n.%1$I::text'
                    ' THEN %2$L || coalesce(relay.json_data(n.%1$I::text), ''null'') END'
            WHEN t.base = 'timestamptz'::regtype
                THEN 'WHEN o.%1$I IS DISTINCT FROM n.%1$I THEN %2$L || relay.json_time(n.%1$I) END'
            WHEN t.base IN ('uuid'::regtype, 'bool'::regtype, 'int4'::regtype, 'int8'::regtype)
                THEN 'WHEN o.%1$I IS DISTINCT FROM n.%1$I'
                    ' THEN %2$L || coalesce(to_json(n.%1$I)::text, ''null'') END'
            ELSE 'WHEN record_image_ne(ROW(o.%1$I), ROW(n.%1$I)) THEN %2$L || CASE'
                ' WHEN pg_column_size(n.%1$I) > 16777216 THEN ''{"omitted":"too large"}'''
                ' WHEN octet_length(relay.written(n.%1$I)) > 16777216 THEN ''{"omitted":"too large"}'''
                ' ELSE coalesce(relay.json_data(to_json(' || CASE
                    WHEN relay.is_trusted(t.base) THEN 'n.%1$I'
                    WHEN t.category = 'A' THEN 'relay.written(n.%1$I)::text[]'
                    ELSE 'relay.written(n.%1$I)' END || ')::text), ''null'') END END'
        END, a.attname, to_json(a.attname)::text || ':'), ', ' ORDER BY a.attnum)
        FILTER (WHERE a.attgenerated <> 'v' AND a.attname <> ALL (ARRAY['updated_by', 'updated_at'])),
        array_agg(a.attname)
    INTO details, names
    FROM pg_attribute AS a
    JOIN (
        SELECT y.oid, y.typcategory AS category, CASE WHEN y.typbasetype = 0 THEN y.oid ELSE (
            WITH RECURSIVE bases (oid) AS (
                SELECT y.typbasetype
                UNION ALL
                SELECT d.typbasetype FROM bases JOIN pg_type AS d USING (oid)
                WHERE d.typbasetype <> 0
            )
            SELECT bases.oid FROM bases JOIN pg_type AS d USING (oid) WHERE d.typbasetype = 0
        ) END AS base
        FROM pg_type AS y
    ) AS t ON t.oid = a.atttypid
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT secret <@ names THEN
        RAISE EXCEPTION 'rowcast: bots.untold names a column that is gone: %',
            (SELECT string_agg(s, ', ') FROM unnest(secret) AS s WHERE s <> ALL (names))
            USING HINT = 'Run bin/attach again, with its new name in the mapping.';
    END IF;
    RETURN concat($query$
        SELECT c.id, c.updated_by, c.details
        FROM (
            SELECT n.id AS id, n.updated_by AS updated_by,
                array_to_string(ARRAY[$query$, details, $query$]::text[], ',') AS details
            FROM old_rows AS o
            JOIN $query$, newer, $query$ AS n ON n.id = o.id
            OFFSET 0
        ) AS c
        WHERE c.details <> ''$query$);
END
$$;

-- What each user is told when a bot's owner may have changed, for relay.access_rows. It runs after the
-- change, and reads what the user has now. The users are the old owner (old_owner), the owner now, and
-- whom the statement made the owner (new_owner). The last two differ where another trigger has written
-- the bot again. Then nobody else ever saw new_owner as the owner, who is left out unless the permissions
-- were written in the same statement of the client (both_tables).
--
--   what the user has now                        action     their sockets (effect)
--   the bot: bots.owner_id is the user           granted    stay (null)
--   a row of permissions with the owner's role   granted    are asked again (recheck)
--   another row, and was the old owner           updated    are asked again (recheck)
--   another row, and was not the old owner       granted    are asked again (recheck)
--   neither                                      revoked    are closed (eject)
--
-- The action is told (is_told) unless relay.is_news knows that it was told before. Who has the owner's
-- role by a row is not told: they are an owner, as before. With both_tables they may not have been told
-- yet, so there relay.is_news alone decides. Who has neither, and is not told now, is asked again in
-- place of closed: the other table's trigger has told them, or a writer says that nothing is to be told.
CREATE OR REPLACE FUNCTION relay.owner_change(
    bot_id uuid, old_owner uuid, new_owner uuid, updated_by uuid, actor uuid, instant text
) RETURNS TABLE (
    user_id uuid, action text, details text, is_told boolean, named uuid, effect text
)
LANGUAGE plpgsql ROWS 2 AS $$
DECLARE
    owner uuid;
    owns boolean;
    has boolean;
    has_role text;
    is_owner boolean;
    both_tables boolean
        := coalesce(rtrim(current_setting('relay.permissions', true), '!') = instant, false);
BEGIN
    SELECT b.owner_id INTO owner FROM public.bots AS b
    WHERE b.id = owner_change.bot_id AND age(b.xmin) <= 0
    ORDER BY b.xmax <> 0, age(b.xmin) LIMIT 1;
    IF NOT FOUND THEN
        -- Gone again by another trigger, or hidden by row security: whose it was is asked again.
        IF old_owner IS NOT NULL AND old_owner IS DISTINCT FROM new_owner THEN
            user_id := old_owner;
            action := 'revoked';
            details := relay.permission_details(action, 'owner', actor, 'owner');
            is_told := false;
            effect := 'recheck';
            RETURN NEXT;
        END IF;
        RETURN;
    END IF;
    IF owner IS NOT DISTINCT FROM old_owner AND NOT both_tables THEN
        RETURN;
    END IF;
    FOR user_id IN
        SELECT u.id
        FROM (VALUES (old_owner, 1), (new_owner, 2), (owner, 3)) AS u (id, place)
        WHERE u.id IS NOT NULL AND (both_tables OR u.id IN (old_owner, owner))
        GROUP BY u.id
        ORDER BY min(u.place)
    LOOP
        SELECT true, p.role COLLATE "C" INTO has, has_role FROM public.permissions AS p
        WHERE p.bot_id = owner_change.bot_id AND p.user_id = owner_change.user_id
        ORDER BY p.xmax <> 0, age(p.xmin) LIMIT 1;
        owns := coalesce(user_id = owner, false);
        is_owner := coalesce(has_role = 'owner', false);
        action := CASE WHEN owns OR is_owner THEN 'granted'
            WHEN has IS NULL THEN 'revoked'
            WHEN user_id = old_owner THEN 'updated'
            ELSE 'granted' END;
        is_told := (both_tables OR NOT is_owner) AND relay.is_news(bot_id, user_id, action,
            CASE WHEN owns OR is_owner THEN 'owner' ELSE has_role END,
            CASE WHEN user_id = old_owner AND action = 'granted' THEN 2 ELSE 0 END);
        IF owns AND is_owner AND NOT both_tables THEN
            PERFORM relay.is_news(bot_id, user_id, 'untold', '');
        END IF;
        effect := CASE WHEN owns THEN NULL
            WHEN has THEN 'recheck'
            WHEN is_told THEN 'eject'
            ELSE 'recheck' END;  -- told by the other table's trigger, or so a writer says
        -- Also a new owner who has a row, as far as can be seen here: it may be gone by the commit.
        -- One name too many costs that user a fetch.
        named := CASE WHEN action = 'granted' AND (both_tables OR owns OR is_told)
            THEN user_id END;
        -- The final message of who turns out to have lost access after all.
        action := CASE WHEN effect = 'recheck' AND NOT is_told THEN 'revoked' ELSE action END;
        details := relay.permission_details(
            action,
            CASE WHEN owns OR is_owner OR has IS NULL THEN 'owner' ELSE has_role END,
            CASE WHEN owns THEN coalesce(updated_by, actor) ELSE actor END,
            'owner');
        RETURN NEXT;
    END LOOP;
END
$$;

-- The owner of a new bot may have been refused just before, and so may others. A bot may be back
-- whose permissions never went: who has one gains access with the bot, and is named, too.
CREATE OR REPLACE FUNCTION relay.bots_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
DECLARE
    mark text;
BEGIN
    INSERT INTO relay.events (topic, type, user_id)
    SELECT concat('bot:', n.id), 'grant', n.owner_id FROM new_rows AS n
    WHERE n.id IS NOT NULL
    UNION ALL
    SELECT concat('bot:', n.id), 'grant', p.user_id
    FROM new_rows AS n
    JOIN public.permissions AS p ON p.bot_id = n.id
    WHERE p.user_id IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
        mark := relay.mark_written('relay.bots', relay.instant());
    END IF;
    RETURN NULL;
END
$$;

-- Values come out as jsonb writes them, so everything that changes how is fixed here: a writer's
-- settings must not show in the message.
--
-- A bot that was given another id is another one. What may be a later bot of the old id is nobody's
-- who watched this one.
CREATE OR REPLACE FUNCTION relay.bots_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = on
SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex' SET standard_conforming_strings = on
AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    reads boolean := coalesce(relay.is_written('relay.bots', instant, TG_RELID), false);
    changed record;
    wrote boolean := false;
BEGIN
    IF NOT EXISTS (SELECT FROM old_rows) THEN
        RETURN NULL;
    END IF;
    FOR changed IN EXECUTE relay.bot_changes(TG_RELID, reads) LOOP
        INSERT INTO relay.events (topic, type, payload)
        VALUES (concat('bot:', changed.id), 'bot_update', relay.bot_event(changed.id, 'config',
            concat('{', changed.details, '}'), coalesce(changed.updated_by, actor), at));
        wrote := true;
    END LOOP;
    -- Else permissions would be locked, too; see relay.bot_remains.
    IF EXISTS (
        SELECT FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.id = o.id
        WHERE (o.id, o.owner_id) IS DISTINCT FROM (n.id, n.owner_id)
    ) THEN
        INSERT INTO relay.events (topic, type, payload, user_id, code)
        SELECT r.*
        FROM (
            SELECT n.id AS id, o.id AS old_id, o.owner_id AS old_owner,
                n.owner_id AS new_owner, n.updated_by AS updated_by
            FROM old_rows AS o
            FULL JOIN new_rows AS n ON n.id = o.id
            WHERE (o.id, o.owner_id) IS DISTINCT FROM (n.id, n.owner_id)
            OFFSET 0
        ) AS b
        CROSS JOIN LATERAL (
            SELECT concat('bot:', b.old_id), 'eject',
                relay.bot_event(b.old_id, 'deleted', '{}', actor, at), NULL::uuid, 4003
            WHERE b.id IS NULL AND b.old_id IS NOT NULL
            UNION ALL
            SELECT concat('bot:', b.id), 'grant', NULL, b.new_owner, NULL
            WHERE b.old_id IS NULL AND b.id IS NOT NULL
            UNION ALL
            SELECT concat('bot:', b.id), 'grant', NULL, p.user_id, NULL
            FROM public.permissions AS p
            WHERE b.old_id IS NULL AND p.bot_id = b.id AND p.user_id IS NOT NULL
            UNION ALL
            SELECT a.*
            FROM relay.owner_change(
                b.id, b.old_owner, b.new_owner, b.updated_by, actor, instant) AS c
            CROSS JOIN LATERAL relay.access_rows(b.id, c.user_id, c.action, c.details, c.is_told,
                true, c.named, c.effect, at) AS a
            WHERE b.id = b.old_id
        ) AS r;
        wrote := wrote OR FOUND;
    END IF;
    IF wrote THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    instant := relay.mark_changed('relay.bots', instant);
    RETURN NULL;
END
$$;

-- Whether a bot that counts as deleted has a row. A function of its own, for a statement locks all
-- tables that it names, whether it reads them or not: whoever deletes a message would wait for a
-- migration that alters bots, and with the wrong order of locks one of the two would fail.
CREATE OR REPLACE FUNCTION relay.bot_remains(bot_id uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM public.bots AS b WHERE b.id = bot_remains.bot_id);
END
$$;

-- One row ejects everyone, with "deleted" as their final message. It is not an event of the
-- topic: a read's ejections come before its events, so nobody would be left to receive it, and
-- nobody can come back and resume. OLD.updated_by is not who deletes; only the actor can tell.
--
-- Where another trigger put the bot back, everyone is asked again, and told what is different.
CREATE OR REPLACE FUNCTION relay.bots_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = on
SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex' SET standard_conforming_strings = on
AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    reads boolean := coalesce(relay.is_written('relay.bots', instant, TG_RELID), false);
    changed record;
BEGIN
    IF NOT EXISTS (SELECT FROM old_rows) THEN
        RETURN NULL;
    END IF;
    -- What is deleted in a cascade has its triggers after this one; also with bots that count as
    -- deleted already, of which nothing is told here.
    PERFORM set_config('relay.bots_gone', instant, true);
    INSERT INTO relay.events (topic, type, payload, code)
    SELECT concat('bot:', o.id), CASE WHEN b.is_there THEN 'recheck' ELSE 'eject' END,
        relay.bot_event(o.id, 'deleted', '{}', actor, at), 4003
    FROM old_rows AS o
    LEFT JOIN LATERAL (
        SELECT true AS is_there FROM public.bots AS b
        WHERE b.id = o.id AND age(b.xmin) <= 0 LIMIT 1
    ) AS b ON reads
    WHERE o.id IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF reads THEN
        FOR changed IN EXECUTE relay.bot_changes(TG_RELID, reads) LOOP
            INSERT INTO relay.events (topic, type, payload)
            VALUES (concat('bot:', changed.id), 'bot_update', relay.bot_event(changed.id, 'config',
                concat('{', changed.details, '}'), coalesce(changed.updated_by, actor), at));
        END LOOP;
        INSERT INTO relay.events (topic, type, payload, user_id, code)
        SELECT a.*
        FROM old_rows AS o
        CROSS JOIN LATERAL relay.owner_change(
            o.id, o.owner_id, NULL, NULL, actor, instant) AS c
        CROSS JOIN LATERAL relay.access_rows(o.id, c.user_id, c.action, c.details, c.is_told,
            true, c.named, c.effect, at) AS a
        WHERE o.id IS NOT NULL;
    END IF;
    PERFORM relay.ring(TG_TABLE_NAME);
    instant := relay.mark_changed('relay.bots', instant);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER relay_insert AFTER INSERT ON public.bots
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_inserted();
CREATE OR REPLACE TRIGGER relay_update AFTER UPDATE ON public.bots
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_updated();
CREATE OR REPLACE TRIGGER relay_delete AFTER DELETE ON public.bots
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_deleted();
CREATE OR REPLACE TRIGGER relay_truncate AFTER TRUNCATE ON public.bots
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4003');

-- Rows of permissions become permission_change on the bot's topic and a notification on the
-- user's; a revoke also ejects the user's sockets from the bot's topic. access_changes.sql says what
-- is told of owners.

-- What one row's change comes to, seen after it, for relay.access_rows. had and has: whether there
-- was a row before, and is one now.
CREATE OR REPLACE FUNCTION relay.permission_change(
    bot_id uuid, user_id uuid, had boolean, has boolean, old_role text, new_role text,
    granted_by uuid, actor uuid, instant text
) RETURNS TABLE (
    action text, details text, is_told boolean, on_topic boolean, named uuid, effect text
)
LANGUAGE plpgsql ROWS 1 AS $$
DECLARE
    owner uuid;
    owns boolean;
    was_owner boolean := coalesce(had AND old_role = 'owner', false);
    is_owner boolean := coalesce(has AND new_role = 'owner', false);
    both_tables boolean := coalesce(current_setting('relay.bots', true) = instant || '!', false);
BEGIN
    SELECT true, b.owner_id INTO on_topic, owner
    FROM public.bots AS b WHERE b.id = permission_change.bot_id
    ORDER BY b.xmax <> 0, age(b.xmin) LIMIT 1;
    -- In a cascade from bots nobody is left to tell. Else a bot that is not seen may be back by the commit.
    on_topic := has OR coalesce(on_topic, false)
        OR coalesce(current_setting('relay.bots_gone', true), '') <> instant;
    owns := coalesce(owner = user_id, false);
    action := CASE WHEN NOT (has OR owns) THEN 'revoked'
        WHEN had AND has AND NOT owns THEN 'updated'
        ELSE 'granted' END;
    IF owns OR was_owner OR is_owner THEN
        is_told := (both_tables OR NOT owns) AND relay.is_news(bot_id, user_id, action,
            CASE WHEN owns OR is_owner THEN 'owner' ELSE new_role END,
            CASE WHEN NOT owns THEN 0 WHEN was_owner THEN 2 ELSE 1 END);
    ELSE
        is_told := true;
        IF current_setting('relay.told', true) <> '' THEN
            PERFORM relay.is_news(bot_id, user_id, action, new_role);
        END IF;
    END IF;
    effect := CASE
        WHEN owns AND NOT has THEN 'recheck'
        WHEN is_told AND NOT has THEN relay.ejection_after_revoke(bot_id, user_id)
        -- Told by the other table's trigger, or so a writer says.
        WHEN NOT (is_told OR has OR owns) THEN 'recheck'
    END;
    -- If triggers of both tables run, nobody can tell who had access before. And who has it by the other
    -- table, as far as can be seen here, may have lost that by the commit. One name too many costs that
    -- user a fetch.
    named := CASE WHEN action = 'granted' AND (is_told OR both_tables OR (has AND NOT had))
        THEN user_id END;
    -- The final message of who turns out to have lost access after all.
    action := CASE WHEN effect = 'recheck' AND NOT is_told THEN 'revoked' ELSE action END;
    details := relay.permission_details(
        action,
        CASE WHEN owns AND is_told THEN 'owner' WHEN has THEN new_role ELSE old_role END,
        CASE WHEN has THEN coalesce(granted_by, actor) ELSE actor END,
        old_role);
    RETURN NEXT;
END
$$;

-- The row as it is now; no row where it is gone. There may be two where no index forbids it.
CREATE OR REPLACE FUNCTION relay.permission_now(bot_id uuid, user_id uuid)
RETURNS TABLE (is_there boolean, role text, granted_by uuid)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT true, p.role COLLATE "C", p.granted_by
    FROM public.permissions AS p
    WHERE p.bot_id = permission_now.bot_id AND p.user_id = permission_now.user_id
        AND age(p.xmin) <= 0
    ORDER BY p.xmax <> 0, age(p.xmin) LIMIT 1
$$;

-- Whether the user is the bot's owner by the bot itself.
CREATE OR REPLACE FUNCTION relay.owns(bot_id uuid, user_id uuid) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT b.owner_id = owns.user_id FROM public.bots AS b
        WHERE b.id = owns.bot_id
        ORDER BY b.xmax <> 0, age(b.xmin) LIMIT 1), false)
$$;

-- In all three: where the current row is read and is gone, though it was there after the statement,
-- another trigger has told that. Unless it found that they own the bot, too, and left it to this one.
CREATE OR REPLACE FUNCTION relay.permissions_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    reads boolean := coalesce(relay.is_changed('relay.permissions', instant, TG_RELID), false);
BEGIN
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT n.bot_id AS bot_id, n.user_id AS user_id,
            (f.is_there IS TRUE OR NOT reads) AS has,
            CASE WHEN reads THEN f.role ELSE n.role COLLATE "C" END AS role,
            CASE WHEN reads THEN f.granted_by ELSE n.granted_by END AS granted_by
        FROM new_rows AS n
        LEFT JOIN LATERAL relay.permission_now(n.bot_id, n.user_id) AS f ON reads
        WHERE (n.bot_id, n.user_id) IS NOT NULL
            AND (f.is_there OR NOT reads OR relay.owns(n.bot_id, n.user_id))
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL relay.permission_change(c.bot_id, c.user_id, false, c.has, NULL, c.role,
        c.granted_by, actor, instant) AS p
    CROSS JOIN LATERAL relay.access_rows(c.bot_id, c.user_id, p.action, p.details, p.is_told,
        p.on_topic, p.named, p.effect, at) AS r;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    IF EXISTS (SELECT FROM new_rows) THEN
        instant := relay.mark_written('relay.permissions', instant);
    END IF;
    RETURN NULL;
END
$$;

-- Joined by whom the row is about, not by its id: a row turned to another bot or user is a revoke
-- and a grant, and two rows that swap their users amount to two changed roles.
CREATE OR REPLACE FUNCTION relay.permissions_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    reads boolean := coalesce(relay.is_written('relay.permissions', instant, TG_RELID), false);
BEGIN
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT coalesce(n.bot_id, o.bot_id) AS bot_id,
            coalesce(n.user_id, o.user_id) AS user_id,
            o.user_id IS NOT NULL AS had,
            CASE WHEN reads THEN f.is_there IS TRUE ELSE n.user_id IS NOT NULL END AS has,
            o.role COLLATE "C" AS old_role,
            CASE WHEN reads THEN f.role ELSE n.role COLLATE "C" END AS new_role,
            CASE WHEN reads THEN f.granted_by ELSE n.granted_by END AS granted_by
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.bot_id = o.bot_id AND n.user_id = o.user_id
        LEFT JOIN LATERAL relay.permission_now(coalesce(n.bot_id, o.bot_id),
            coalesce(n.user_id, o.user_id)) AS f ON reads
        WHERE (o.user_id, o.role COLLATE "C") IS DISTINCT FROM (n.user_id, n.role COLLATE "C")
            AND (f.is_there OR NOT reads OR n.user_id IS NULL
                OR relay.owns(n.bot_id, n.user_id))
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL relay.permission_change(c.bot_id, c.user_id, c.had, c.has, c.old_role,
        c.new_role, c.granted_by, actor, instant) AS p
    CROSS JOIN LATERAL relay.access_rows(c.bot_id, c.user_id, p.action, p.details, p.is_told,
        p.on_topic, p.named, p.effect, at) AS r
    WHERE (c.bot_id, c.user_id) IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    IF EXISTS (SELECT FROM old_rows) THEN
        instant := relay.mark_changed('relay.permissions', instant);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION relay.permissions_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    reads boolean := coalesce(relay.is_written('relay.permissions', instant, TG_RELID), false);
BEGIN
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT o.bot_id AS bot_id, o.user_id AS user_id, f.is_there IS TRUE AS has,
            o.role COLLATE "C" AS old_role, f.role AS new_role, f.granted_by
        FROM old_rows AS o
        LEFT JOIN LATERAL relay.permission_now(o.bot_id, o.user_id) AS f ON reads
        WHERE (o.bot_id, o.user_id) IS NOT NULL
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL relay.permission_change(c.bot_id, c.user_id, true, c.has, c.old_role,
        c.new_role, c.granted_by, actor, instant) AS p
    CROSS JOIN LATERAL relay.access_rows(c.bot_id, c.user_id, p.action, p.details, p.is_told,
        p.on_topic, p.named, p.effect, at) AS r;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    IF EXISTS (SELECT FROM old_rows) THEN
        instant := relay.mark_changed('relay.permissions', instant);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER relay_insert AFTER INSERT ON public.permissions
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_inserted();
CREATE OR REPLACE TRIGGER relay_update AFTER UPDATE ON public.permissions
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_updated();
CREATE OR REPLACE TRIGGER relay_delete AFTER DELETE ON public.permissions
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_deleted();
CREATE OR REPLACE TRIGGER relay_truncate AFTER TRUNCATE ON public.permissions
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4003');

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

CREATE OR REPLACE FUNCTION relay.message_event(
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

CREATE OR REPLACE FUNCTION relay.message_deleted_event(
    bot_id uuid, message_id uuid, session_id uuid, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat(
    '{"type":"chat_message_update","bot_id":"', bot_id,
    '","data":{"message_id":"', message_id, '","session_id":', relay.json_id(session_id),
    ',"action":"deleted"},"timestamp":', at, '}');

-- Who wrote what the event tells of, if that is known: the user whose message it is. An assistant's
-- message is nobody's, nor is a change that the actor made to somebody else's message.
CREATE OR REPLACE FUNCTION relay.message_author(role text, user_id uuid, actor uuid) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN coalesce(role, 'user') = 'user' AND coalesce(actor = user_id, true)
    THEN user_id END;

-- The message as it is now; no row where it is gone, or on another bot.
CREATE OR REPLACE FUNCTION relay.message_now(
    type text, action text, bot_id uuid, message_id uuid, actor uuid, at text
) RETURNS TABLE (payload text, author uuid)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT relay.message_event(message_now.type, message_now.action, n.bot_id, n.id,
        n.session_id, n.user_id,
        (SELECT u.username COLLATE "C" FROM public.users AS u WHERE u.id = n.user_id LIMIT 1),
        n.content COLLATE "C", n.role COLLATE "C", relay.time_of(n.created_at), relay.json_of(n.metadata)::text, message_now.at),
        relay.message_author(n.role COLLATE "C", n.user_id, message_now.actor)
    FROM public.messages AS n
    WHERE n.id = message_now.message_id AND n.bot_id = message_now.bot_id
        AND age(n.xmin) <= 0
    ORDER BY n.xmax <> 0, age(n.xmin) LIMIT 1
$$;

-- The hot path: one row, most of the time. Its insert has no variable in it, since a statement
-- with parameters may be planned anew each time, which costs more than running it. What is written
-- as one row is told by the ring. To have all rows returned would keep a large import twice. (Of
-- the rows that were written, for which of them count as live may be another answer a moment later.)
CREATE OR REPLACE FUNCTION relay.messages_inserted() RETURNS trigger
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
        SELECT concat('bot:', n.bot_id), 'chat_message', m.payload, m.author
        FROM new_rows AS n
        CROSS JOIN LATERAL relay.message_now(
            'chat_message', NULL, n.bot_id, n.id, NULL, relay.json_now()) AS m;
    ELSIF is_carried THEN
        INSERT INTO relay.events AS e (topic, type, payload, author)
        SELECT concat('bot:', n.bot_id), 'chat_message', relay.message_event(
            'chat_message', NULL, n.bot_id, n.id, n.session_id, n.user_id,
            (SELECT u.username COLLATE "C" FROM public.users AS u WHERE u.id = n.user_id LIMIT 1),
            n.content COLLATE "C", n.role COLLATE "C", relay.time_of(n.created_at), relay.json_of(n.metadata)::text, relay.json_now()),
            relay.message_author(n.role COLLATE "C", n.user_id, NULL)
        FROM new_rows AS n
        WHERE n.bot_id IS NOT NULL AND n.id IS NOT NULL
        RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) INTO told;
    ELSE
        INSERT INTO relay.events (topic, type, payload, author)
        SELECT concat('bot:', n.bot_id), 'chat_message', relay.message_event(
            'chat_message', NULL, n.bot_id, n.id, n.session_id, n.user_id,
            (SELECT u.username COLLATE "C" FROM public.users AS u WHERE u.id = n.user_id LIMIT 1),
            n.content COLLATE "C", n.role COLLATE "C", relay.time_of(n.created_at), relay.json_of(n.metadata)::text, relay.json_now()),
            relay.message_author(n.role COLLATE "C", n.user_id, NULL)
        FROM new_rows AS n
        WHERE n.bot_id IS NOT NULL AND n.id IS NOT NULL;
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
CREATE OR REPLACE FUNCTION relay.messages_updated() RETURNS trigger
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
            SELECT coalesce(n.bot_id, o.bot_id) AS bot_id,
                coalesce(n.id, o.id) AS id, o.id AS old_id,
                n.id IS NULL AS is_gone, o.session_id AS session_id,
                CASE WHEN n.id IS NULL
                    THEN relay.message_author(o.role COLLATE "C", o.user_id, actor) END AS author,
                CASE WHEN o.id IS NULL THEN 'chat_message' ELSE 'chat_message_update' END
                    AS type,
                CASE WHEN o.id IS NULL THEN NULL ELSE ',"action":"edited"' END AS action
            FROM old_rows AS o
            FULL JOIN new_rows AS n ON n.id = o.id AND n.bot_id = o.bot_id
            WHERE (o.id, o.content COLLATE "C", o.role COLLATE "C", relay.json_of(o.metadata))
                IS DISTINCT FROM (n.id, n.content COLLATE "C", n.role COLLATE "C", relay.json_of(n.metadata))
            OFFSET 0
        ) AS c
        LEFT JOIN LATERAL relay.message_now(c.type, c.action, c.bot_id, c.id, actor, at) AS m ON true
        WHERE m.payload IS NOT NULL OR (c.is_gone AND (c.bot_id, c.id) IS NOT NULL);
    ELSE
        INSERT INTO relay.events (topic, type, payload, subject, author)
        SELECT
            concat('bot:', coalesce(n.bot_id, o.bot_id)),
            CASE WHEN o.id IS NULL THEN 'chat_message' ELSE 'chat_message_update' END,
            CASE WHEN n.id IS NULL
                THEN relay.message_deleted_event(o.bot_id, o.id, o.session_id, at)
                ELSE relay.message_event(
                    CASE WHEN o.id IS NULL THEN 'chat_message' ELSE 'chat_message_update' END,
                    CASE WHEN o.id IS NULL THEN NULL ELSE ',"action":"edited"' END,
                    n.bot_id, n.id, n.session_id, n.user_id,
                    (SELECT u.username COLLATE "C" FROM public.users AS u WHERE u.id = n.user_id LIMIT 1),
                    n.content COLLATE "C", n.role COLLATE "C", relay.time_of(n.created_at), relay.json_of(n.metadata)::text, at)
            END,
            o.id,
            CASE WHEN n.id IS NULL THEN relay.message_author(o.role COLLATE "C", o.user_id, actor)
                ELSE relay.message_author(n.role COLLATE "C", n.user_id, actor) END
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.id = o.id AND n.bot_id = o.bot_id
        WHERE (o.id, o.content COLLATE "C", o.role COLLATE "C", relay.json_of(o.metadata))
            IS DISTINCT FROM (n.id, n.content COLLATE "C", n.role COLLATE "C", relay.json_of(n.metadata))
            AND coalesce(n.bot_id, o.bot_id) IS NOT NULL
            AND coalesce(n.id, o.id) IS NOT NULL;
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
CREATE OR REPLACE FUNCTION relay.messages_deleted() RETURNS trigger
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
        SELECT concat('bot:', o.bot_id), 'chat_message_update', coalesce(m.payload,
            relay.message_deleted_event(o.bot_id, o.id, o.session_id, at)), o.id,
            relay.message_author(o.role COLLATE "C", o.user_id, actor)
        FROM old_rows AS o
        LEFT JOIN LATERAL relay.message_now('chat_message_update', ',"action":"edited"',
            o.bot_id, o.id, actor, at) AS m ON true
        WHERE (o.bot_id, o.id) IS NOT NULL AND (NOT cascades OR relay.bot_remains(o.bot_id));
    ELSE
        INSERT INTO relay.events (topic, type, payload, subject, author)
        SELECT concat('bot:', o.bot_id), 'chat_message_update',
            relay.message_deleted_event(o.bot_id, o.id, o.session_id, at), o.id,
            relay.message_author(o.role COLLATE "C", o.user_id, actor)
        FROM old_rows AS o
        WHERE (o.bot_id, o.id) IS NOT NULL AND (NOT cascades OR relay.bot_remains(o.bot_id));
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

CREATE OR REPLACE TRIGGER relay_insert AFTER INSERT ON public.messages
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_inserted();
CREATE OR REPLACE TRIGGER relay_update AFTER UPDATE ON public.messages
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_updated();
CREATE OR REPLACE TRIGGER relay_delete AFTER DELETE ON public.messages
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.messages_deleted();

-- Rows of documents become document_update on the bot's topic.

-- The error stands in it only while the document has failed. user_id is who did it, as far as the
-- writer said so, else who uploaded the document.
CREATE OR REPLACE FUNCTION relay.document_event(
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

-- The document as it is now; no row where it is gone, or on another bot.
CREATE OR REPLACE FUNCTION relay.document_now(bot_id uuid, document_id uuid)
RETURNS TABLE (is_there boolean, filename text, status text, error text, uploaded_by uuid)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT true, n.filename COLLATE "C", n.status COLLATE "C", n.error COLLATE "C", n.uploaded_by
    FROM public.documents AS n
    WHERE n.id = document_now.document_id AND n.bot_id = document_now.bot_id
        AND age(n.xmin) <= 0
    ORDER BY n.xmax <> 0, age(n.xmin) LIMIT 1
$$;

-- "uploaded" whatever status the row starts with; document.status tells.
CREATE OR REPLACE FUNCTION relay.documents_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    told text;
    wrote bigint;  -- 2 stands for more, too
BEGIN
    IF relay.is_changed('relay.documents', instant, TG_RELID) THEN
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', n.bot_id), 'document_update', relay.document_event(n.bot_id,
                'uploaded', n.id, d.filename, d.status, d.error, coalesce(actor, d.uploaded_by), at)
            FROM new_rows AS n
            CROSS JOIN LATERAL relay.document_now(n.bot_id, n.id) AS d
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    ELSE
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', n.bot_id), 'document_update', relay.document_event(n.bot_id,
                'uploaded', n.id, n.filename COLLATE "C", n.status COLLATE "C", n.error COLLATE "C",
                coalesce(actor, n.uploaded_by), at)
            FROM new_rows AS n
            WHERE (n.bot_id, n.id) IS NOT NULL
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    END IF;
    IF wrote > 0 THEN
        told := relay.ring_event(TG_TABLE_NAME, CASE WHEN wrote = 1 THEN told END);
        instant := relay.mark_written('relay.documents', instant);
    END IF;
    RETURN NULL;
END
$$;

-- A document moved to another bot is deleted from the one and uploaded to the other. Where the
-- current rows are read and one is gone that was here after this statement, it was told already.
CREATE OR REPLACE FUNCTION relay.documents_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    told text;
    wrote bigint;  -- 2 stands for more, too
BEGIN
    IF relay.is_written('relay.documents', instant, TG_RELID) THEN
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', c.bot_id), 'document_update', CASE WHEN d.is_there
                THEN relay.document_event(c.bot_id, CASE WHEN c.is_new THEN 'uploaded' ELSE d.status END,
                    c.id, d.filename, d.status, d.error, coalesce(actor, d.uploaded_by), at)
                ELSE relay.document_event(c.bot_id, 'deleted', c.id, c.filename, c.status, c.error,
                    coalesce(actor, c.uploaded_by), at)
            END
            FROM (
                SELECT coalesce(n.bot_id, o.bot_id) AS bot_id,
                    coalesce(n.id, o.id) AS id, o.id IS NULL AS is_new,
                    n.id IS NULL AS is_gone, o.filename COLLATE "C" AS filename, o.status COLLATE "C" AS status,
                    o.error COLLATE "C" AS error, o.uploaded_by AS uploaded_by
                FROM old_rows AS o
                FULL JOIN new_rows AS n ON n.id = o.id AND n.bot_id = o.bot_id
                WHERE (o.id, o.status COLLATE "C") IS DISTINCT FROM (n.id, n.status COLLATE "C")
                OFFSET 0
            ) AS c
            LEFT JOIN LATERAL relay.document_now(c.bot_id, c.id) AS d ON true
            WHERE d.is_there OR (c.is_gone AND (c.bot_id, c.id) IS NOT NULL)
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    ELSE
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', d.bot_id), 'document_update', relay.document_event(d.bot_id,
                CASE WHEN n.id IS NULL THEN 'deleted' WHEN o.id IS NULL THEN 'uploaded'
                    ELSE d.status END,
                d.id, d.filename, d.status, d.error, coalesce(actor, d.uploaded_by), at)
            FROM old_rows AS o
            FULL JOIN new_rows AS n ON n.id = o.id AND n.bot_id = o.bot_id
            CROSS JOIN LATERAL (
                SELECT n.id, n.bot_id, n.filename COLLATE "C", n.status COLLATE "C", n.error COLLATE "C",
                    n.uploaded_by
                WHERE n.id IS NOT NULL
                UNION ALL
                SELECT o.id, o.bot_id, o.filename COLLATE "C", o.status COLLATE "C", o.error COLLATE "C",
                    o.uploaded_by
                WHERE n.id IS NULL
            ) AS d (id, bot_id, filename, status, error, uploaded_by)
            WHERE (o.id, o.status COLLATE "C") IS DISTINCT FROM (n.id, n.status COLLATE "C")
                AND (d.bot_id, d.id) IS NOT NULL
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    END IF;
    IF wrote > 0 THEN
        told := relay.ring_event(TG_TABLE_NAME, CASE WHEN wrote = 1 THEN told END);
        instant := relay.mark_changed('relay.documents', instant);
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        instant := relay.mark_changed('relay.documents', instant);
    END IF;
    RETURN NULL;
END
$$;

-- In a cascade from bots the bot's row is gone already: its sockets are closed, so nothing is sent. Only
-- then: a bot that is not seen here otherwise may be back, for all others, before this commits.
CREATE OR REPLACE FUNCTION relay.documents_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    cascades boolean := coalesce(current_setting('relay.bots_gone', true) = instant, false);
    told text;
    wrote bigint;  -- 2 stands for more, too
BEGIN
    IF relay.is_written('relay.documents', instant, TG_RELID) THEN
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', o.bot_id), 'document_update', CASE WHEN d.is_there
                THEN relay.document_event(o.bot_id, d.status, o.id, d.filename, d.status,
                    d.error, coalesce(actor, d.uploaded_by), at)
                ELSE relay.document_event(o.bot_id, 'deleted', o.id, o.filename COLLATE "C",
                    o.status COLLATE "C", o.error COLLATE "C", coalesce(actor, o.uploaded_by), at)
            END
            FROM old_rows AS o
            LEFT JOIN LATERAL relay.document_now(o.bot_id, o.id) AS d ON true
            WHERE (o.bot_id, o.id) IS NOT NULL AND (NOT cascades OR relay.bot_remains(o.bot_id))
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    ELSE
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', o.bot_id), 'document_update', relay.document_event(o.bot_id,
                'deleted', o.id, o.filename COLLATE "C", o.status COLLATE "C", o.error COLLATE "C",
                coalesce(actor, o.uploaded_by), at)
            FROM old_rows AS o
            WHERE (o.bot_id, o.id) IS NOT NULL AND (NOT cascades OR relay.bot_remains(o.bot_id))
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    END IF;
    IF wrote > 0 THEN
        told := relay.ring_event(TG_TABLE_NAME, CASE WHEN wrote = 1 THEN told END);
        instant := relay.mark_changed('relay.documents', instant);
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        instant := relay.mark_changed('relay.documents', instant);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER relay_insert AFTER INSERT ON public.documents
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.documents_inserted();
CREATE OR REPLACE TRIGGER relay_update AFTER UPDATE ON public.documents
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.documents_updated();
CREATE OR REPLACE TRIGGER relay_delete AFTER DELETE ON public.documents
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.documents_deleted();
