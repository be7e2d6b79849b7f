-- Rows of bots become bot_update; a new owner also is a revoke and a grant; a bot that is deleted, or
-- given another id, ends everyone's access to it.

CREATE FUNCTION relay.bot_event(
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
CREATE FUNCTION relay.bot_changes(relation oid, reads boolean) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    details text;
    names text[];
    secret text[] := {{secret}};
    newer text := CASE WHEN reads THEN $rows$LATERAL (
            SELECT b.* FROM {{live.bots}} AS b WHERE {{b.id}} = {{o.id}} AND age(b.xmin) <= 0
            ORDER BY b.xmax <> 0, age(b.xmin) LIMIT 1)$rows$
        ELSE $rows${{live.new}}$rows$ END;
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
        FILTER (WHERE a.attgenerated <> 'v' AND a.attname <> ALL ({{untold}})),
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
            SELECT {{n.id}} AS id, {{n.updated_by}} AS updated_by,
                array_to_string(ARRAY[$query$, details, $query$]::text[], ',') AS details
            FROM {{live.old}} AS o
            JOIN $query$, newer, $query$ AS n ON {{n.id}} = {{o.id}}
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
CREATE FUNCTION relay.owner_change(
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
    SELECT {{b.owner_id}} INTO owner FROM {{live.bots}} AS b
    WHERE {{b.id}} = owner_change.bot_id AND age(b.xmin) <= 0
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
        SELECT true, {{p.role}} INTO has, has_role FROM {{live.permissions}} AS p
        WHERE {{p.bot_id}} = owner_change.bot_id AND {{p.user_id}} = owner_change.user_id
        ORDER BY p.xmax <> 0, age(p.xmin) LIMIT 1;
        owns := coalesce(user_id = owner, false);
        is_owner := coalesce(has_role = {{owner_role}}, false);
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
CREATE FUNCTION relay.bots_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
DECLARE
    mark text;
BEGIN
    INSERT INTO relay.events (topic, type, user_id)
    SELECT concat('bot:', {{n.id}}), 'grant', {{n.owner_id}} FROM {{live.new}} AS n
    WHERE {{n.id}} IS NOT NULL
    UNION ALL
    SELECT concat('bot:', {{n.id}}), 'grant', {{p.user_id}}
    FROM {{live.new}} AS n
    JOIN {{live.permissions}} AS p ON {{p.bot_id}} = {{n.id}}
    WHERE {{p.user_id}} IS NOT NULL;
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
CREATE FUNCTION relay.bots_updated() RETURNS trigger
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
        SELECT FROM {{live.old}} AS o
        FULL JOIN {{live.new}} AS n ON {{n.id}} = {{o.id}}
        WHERE ({{o.id}}, {{o.owner_id}}) IS DISTINCT FROM ({{n.id}}, {{n.owner_id}})
    ) THEN
        INSERT INTO relay.events (topic, type, payload, user_id, code)
        SELECT r.*
        FROM (
            SELECT {{n.id}} AS id, {{o.id}} AS old_id, {{o.owner_id}} AS old_owner,
                {{n.owner_id}} AS new_owner, {{n.updated_by}} AS updated_by
            FROM {{live.old}} AS o
            FULL JOIN {{live.new}} AS n ON {{n.id}} = {{o.id}}
            WHERE ({{o.id}}, {{o.owner_id}}) IS DISTINCT FROM ({{n.id}}, {{n.owner_id}})
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
            SELECT concat('bot:', b.id), 'grant', NULL, {{p.user_id}}, NULL
            FROM {{live.permissions}} AS p
            WHERE b.old_id IS NULL AND {{p.bot_id}} = b.id AND {{p.user_id}} IS NOT NULL
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
CREATE FUNCTION relay.bot_remains(bot_id uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM {{bots}} AS b WHERE {{b.id}} = bot_remains.bot_id);
END
$$;

-- One row ejects everyone, with "deleted" as their final message. It is not an event of the
-- topic: a read's ejections come before its events, so nobody would be left to receive it, and
-- nobody can come back and resume. OLD.updated_by is not who deletes; only the actor can tell.
--
-- Where another trigger put the bot back, everyone is asked again, and told what is different.
CREATE FUNCTION relay.bots_deleted() RETURNS trigger
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
    SELECT concat('bot:', {{o.id}}), CASE WHEN b.is_there THEN 'recheck' ELSE 'eject' END,
        relay.bot_event({{o.id}}, 'deleted', '{}', actor, at), 4003
    FROM {{live.old}} AS o
    LEFT JOIN LATERAL (
        SELECT true AS is_there FROM {{live.bots}} AS b
        WHERE {{b.id}} = {{o.id}} AND age(b.xmin) <= 0 LIMIT 1
    ) AS b ON reads
    WHERE {{o.id}} IS NOT NULL;
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
        FROM {{live.old}} AS o
        CROSS JOIN LATERAL relay.owner_change(
            {{o.id}}, {{o.owner_id}}, NULL, NULL, actor, instant) AS c
        CROSS JOIN LATERAL relay.access_rows({{o.id}}, c.user_id, c.action, c.details, c.is_told,
            true, c.named, c.effect, at) AS a
        WHERE {{o.id}} IS NOT NULL;
    END IF;
    PERFORM relay.ring(TG_TABLE_NAME);
    instant := relay.mark_changed('relay.bots', instant);
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON {{bots}}
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON {{bots}}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON {{bots}}
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_deleted();
CREATE TRIGGER relay_truncate AFTER TRUNCATE ON {{bots}}
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4003');
