-- Rows of bots become bot_update; a new owner also is a revoke and a grant; a bot that is deleted, or
-- given another id, ends everyone's access to it.

CREATE FUNCTION relay.bot_event(
    bot_id uuid, update_type text, details text, updated_by uuid, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"type":"bot_update","bot_id":"', bot_id, '","data":{"update_type":"', update_type,
    '","details":', details, ',"updated_by":', relay.json_id(updated_by),
    '},"timestamp":', at, '}');

-- How a column is compared and written, in the statement below: as SQL over o and n.
--
-- A value that lies outside of its row, where it did before, is not fetched: it is the same. (Before
-- PostgreSQL 17 nobody can tell, and both are compared.) Whether two values differ is asked of their
-- JSON, since not every type has equality; text and bytea may be too long for that.
CREATE FUNCTION relay.column_change(name name, type oid, is_long boolean) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format(
        CASE WHEN column_change.is_long AND current_setting('server_version_num')::int >= 170000
            THEN 'CASE WHEN pg_column_toast_chunk_id(o.%1$I) = pg_column_toast_chunk_id(n.%1$I)'
                ' THEN NULL'
            ELSE 'CASE' END
        || CASE
            WHEN t.base = 'bytea'::regtype THEN ' WHEN o.%1$I IS DISTINCT FROM n.%1$I'
            WHEN t.is_text THEN ' WHEN o.%1$I::text COLLATE "C"'
                ' IS DISTINCT FROM n.%1$I::text COLLATE "C"'
            ELSE ' WHEN to_jsonb(o.%1$I) IS DISTINCT FROM to_jsonb(n.%1$I)' END
        || ' THEN concat(%2$L, '
        || CASE
            WHEN t.is_text OR t.base = 'bytea'::regtype
                THEN 'CASE WHEN octet_length(n.%1$I) > 16777216 THEN ''{"omitted":"too large"}'''
                    ' ELSE coalesce(to_json(n.%1$I)::text, ''null'') END'
            WHEN t.base = 'timestamptz'::regtype
                THEN 'CASE WHEN relay.json_time(n.%1$I) = ''null'' THEN ''null'''
                    ' ELSE replace(to_json(n.%1$I)::text, ''+00:00"'', ''Z"'') END'
            ELSE 'coalesce(relay.json_data(to_jsonb(n.%1$I)::text), ''null'')' END
        || ') END', column_change.name, to_json(column_change.name)::text || ':')
    FROM (
        SELECT coalesce(nullif(b.typbasetype, 0), b.oid) AS base,
            coalesce(nullif(b.typbasetype, 0), b.oid)
                IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) AS is_text
        FROM pg_type AS b
        WHERE b.oid = column_change.type
    ) AS t
$$;

-- The statement that writes a bot_update for each bot with changed columns, with their new values,
-- whatever columns the table has. It names each one by itself: the row as a whole would fetch what
-- did not change, and what no client may see. So it is made anew for each run.
--
-- newer is what the old rows are compared with: new_rows, or the table. A column that is computed
-- when it is read has no value in a trigger, and is left out.
CREATE FUNCTION relay.bot_changes(relation oid, newer text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT concat($query$
        INSERT INTO relay.events (topic, type, payload)
        SELECT concat('bot:', c.id), 'bot_update', relay.bot_event(c.id, 'config',
            concat('{', c.details, '}'), coalesce(c.updated_by, $2), $1)
        FROM (
            SELECT {{n.id}} AS id, {{n.updated_by}} AS updated_by, array_to_string(ARRAY[$query$,
                string_agg(relay.column_change(a.attname, a.atttypid, a.attlen = -1), ', '
                    ORDER BY a.attnum),
                $query$]::text[], ',') AS details
            FROM old_rows AS o
            JOIN $query$, bot_changes.newer, $query$ AS n ON {{n.id}} = {{o.id}}
            OFFSET 0
        ) AS c
        WHERE c.details <> ''$query$)
    FROM pg_attribute AS a
    WHERE a.attrelid = bot_changes.relation AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attgenerated <> 'v' AND a.attname <> ALL ({{untold}})
$$;

-- What a new owner comes to, for relay.access_rows: a row for the old one and one for the new one.
-- Only what is so now: whoever was owner for a moment was told of by another trigger.
CREATE FUNCTION relay.owner_change(
    bot_id uuid, old_owner uuid, updated_by uuid, actor uuid, instant text
) RETURNS TABLE (
    user_id uuid, action text, details text, is_told boolean, named uuid, effect text
)
LANGUAGE plpgsql ROWS 2 AS $$
DECLARE
    owner uuid;
    has boolean;
    role text;
    both_tables boolean
        := coalesce(rtrim(current_setting('relay.permissions', true), '!') = instant, false);
BEGIN
    SELECT {{b.owner_id}} INTO owner FROM {{bots}} AS b WHERE {{b.id}} = owner_change.bot_id;
    IF NOT FOUND OR owner IS NOT DISTINCT FROM old_owner THEN
        RETURN;
    END IF;
    IF old_owner IS NOT NULL THEN
        SELECT true, {{p.role}} INTO has, role FROM {{permissions}} AS p
        WHERE {{p.bot_id}} = owner_change.bot_id AND {{p.user_id}} = old_owner LIMIT 1;
        user_id := old_owner;
        action := CASE WHEN has THEN 'updated' ELSE 'revoked' END;
        is_told := role IS DISTINCT FROM {{owner_role}} OR has IS NULL;
        is_told := is_told AND relay.is_news(bot_id, user_id, '-');
        effect := CASE WHEN has THEN 'recheck' WHEN is_told THEN 'eject' END;
        details := relay.permission_details(CASE WHEN has THEN role ELSE 'owner' END, actor,
            CASE WHEN has THEN 'owner' END);
        RETURN NEXT;
    END IF;
    IF owner IS NOT NULL THEN
        SELECT true, {{p.role}} INTO has, role FROM {{permissions}} AS p
        WHERE {{p.bot_id}} = owner_change.bot_id AND {{p.user_id}} = owner LIMIT 1;
        user_id := owner;
        action := 'granted';
        is_told := has IS NULL OR role IS DISTINCT FROM {{owner_role}} OR both_tables;
        is_told := is_told AND relay.is_news(bot_id, user_id, '+');
        -- Who had access before gains none.
        named := CASE WHEN has IS NULL OR role = {{owner_role}} THEN owner END;
        effect := NULL;
        details := relay.permission_details('owner', coalesce(updated_by, actor), NULL);
        RETURN NEXT;
    END IF;
END
$$;

-- The owner of a new bot may have been refused just before, and so may others.
CREATE FUNCTION relay.bots_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mark text;
BEGIN
    INSERT INTO relay.events (topic, type, user_id)
    SELECT concat('bot:', {{n.id}}), 'grant', {{n.owner_id}} FROM new_rows AS n;
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
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex' SET standard_conforming_strings = on
AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    newer text := CASE WHEN relay.is_written('relay.bots', instant, TG_RELID)
        THEN TG_RELID::regclass::text ELSE 'new_rows' END;
    updates bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM old_rows) THEN
        RETURN NULL;
    END IF;
    EXECUTE relay.bot_changes(TG_RELID, newer) USING at, actor;
    GET DIAGNOSTICS updates = ROW_COUNT;
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT {{n.id}} AS id, {{o.id}} AS old_id, {{o.owner_id}} AS old_owner,
            {{n.owner_id}} AS new_owner, {{n.updated_by}} AS updated_by
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON {{n.id}} = {{o.id}}
        WHERE ({{o.id}}, {{o.owner_id}}) IS DISTINCT FROM ({{n.id}}, {{n.owner_id}})
        OFFSET 0
    ) AS b
    CROSS JOIN LATERAL (
        SELECT concat('bot:', b.old_id), 'eject',
            relay.bot_event(b.old_id, 'deleted', '{}', actor, at), NULL::uuid, 4003
        WHERE b.id IS NULL
        UNION ALL
        SELECT concat('bot:', b.id), 'grant', NULL, b.new_owner, NULL
        WHERE b.old_id IS NULL
        UNION ALL
        SELECT a.*
        FROM relay.owner_change(b.id, b.old_owner, b.updated_by, actor, instant) AS c
        CROSS JOIN LATERAL relay.access_rows(b.id, c.user_id, c.action, c.details, c.is_told,
            true, c.named, c.effect, at) AS a
        WHERE b.id = b.old_id
    ) AS r;
    IF FOUND OR updates > 0 THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    instant := relay.mark_changed('relay.bots', instant);
    RETURN NULL;
END
$$;

-- One row ejects everyone, with the "deleted" message as their farewell. It is not an event of the
-- topic: a read's ejections come before its events, so nobody would be left to receive it, and
-- nobody can come back and resume. OLD.updated_by is not who deletes; only the actor can tell.
--
-- Where another trigger put the bot back, everyone is asked again, and told what is different.
CREATE FUNCTION relay.bots_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex' SET standard_conforming_strings = on
AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    reads boolean := coalesce(relay.is_written('relay.bots', instant, TG_RELID), false);
BEGIN
    INSERT INTO relay.events (topic, type, payload, code)
    SELECT concat('bot:', {{o.id}}), CASE WHEN b.is_there THEN 'recheck' ELSE 'eject' END,
        relay.bot_event({{o.id}}, 'deleted', '{}', actor, at), 4003
    FROM old_rows AS o
    LEFT JOIN LATERAL (
        SELECT true AS is_there FROM {{bots}} AS b WHERE {{b.id}} = {{o.id}}
    ) AS b ON reads;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF reads THEN
        EXECUTE relay.bot_changes(TG_RELID, TG_RELID::regclass::text) USING at, actor;
        INSERT INTO relay.events (topic, type, payload, user_id, code)
        SELECT a.*
        FROM old_rows AS o
        CROSS JOIN LATERAL relay.owner_change(
            {{o.id}}, {{o.owner_id}}, NULL, actor, instant) AS c
        CROSS JOIN LATERAL relay.access_rows({{o.id}}, c.user_id, c.action, c.details, c.is_told,
            true, c.named, c.effect, at) AS a;
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
