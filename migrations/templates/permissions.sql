-- Rows of permissions become permission_change on the bot's topic and a notification on the
-- user's; a revoke also ejects the user's sockets from the bot's topic. access_changes.sql says what
-- is told of owners.

-- What one row's change comes to, seen after it, for relay.access_rows. had and has: whether there
-- was a row before, and is one now.
CREATE FUNCTION relay.permission_change(
    bot_id uuid, user_id uuid, had boolean, has boolean, old_role text, new_role text,
    granted_by uuid, actor uuid, instant text
) RETURNS TABLE (
    action text, details text, is_told boolean, on_topic boolean, named uuid, effect text
)
LANGUAGE plpgsql ROWS 1 AS $$
DECLARE
    owner uuid;
    owns boolean;
    was_owner boolean := coalesce(had AND old_role = {{owner_role}}, false);
    is_owner boolean := coalesce(has AND new_role = {{owner_role}}, false);
    both_tables boolean := coalesce(current_setting('relay.bots', true) = instant || '!', false);
BEGIN
    SELECT true, {{b.owner_id}} INTO on_topic, owner
    FROM {{live.bots}} AS b WHERE {{b.id}} = permission_change.bot_id
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
CREATE FUNCTION relay.permission_now(bot_id uuid, user_id uuid)
RETURNS TABLE (is_there boolean, role text, granted_by uuid)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT true, {{p.role}}, {{p.granted_by}}
    FROM {{live.permissions}} AS p
    WHERE {{p.bot_id}} = permission_now.bot_id AND {{p.user_id}} = permission_now.user_id
        AND age(p.xmin) <= 0
    ORDER BY p.xmax <> 0, age(p.xmin) LIMIT 1
$$;

-- Whether the user is the bot's owner by the bot itself.
CREATE FUNCTION relay.owns(bot_id uuid, user_id uuid) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT {{b.owner_id}} = owns.user_id FROM {{live.bots}} AS b
        WHERE {{b.id}} = owns.bot_id
        ORDER BY b.xmax <> 0, age(b.xmin) LIMIT 1), false)
$$;

-- In all three: where the current row is read and is gone, though it was there after the statement,
-- another trigger has told that. Unless it found that they own the bot, too, and left it to this one.
CREATE FUNCTION relay.permissions_inserted() RETURNS trigger
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
        SELECT {{n.bot_id}} AS bot_id, {{n.user_id}} AS user_id,
            (f.is_there IS TRUE OR NOT reads) AS has,
            CASE WHEN reads THEN f.role ELSE {{n.role}} END AS role,
            CASE WHEN reads THEN f.granted_by ELSE {{n.granted_by}} END AS granted_by
        FROM {{live.new}} AS n
        LEFT JOIN LATERAL relay.permission_now({{n.bot_id}}, {{n.user_id}}) AS f ON reads
        WHERE ({{n.bot_id}}, {{n.user_id}}) IS NOT NULL
            AND (f.is_there OR NOT reads OR relay.owns({{n.bot_id}}, {{n.user_id}}))
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
CREATE FUNCTION relay.permissions_updated() RETURNS trigger
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
        SELECT coalesce({{n.bot_id}}, {{o.bot_id}}) AS bot_id,
            coalesce({{n.user_id}}, {{o.user_id}}) AS user_id,
            {{o.user_id}} IS NOT NULL AS had,
            CASE WHEN reads THEN f.is_there IS TRUE ELSE {{n.user_id}} IS NOT NULL END AS has,
            {{o.role}} AS old_role,
            CASE WHEN reads THEN f.role ELSE {{n.role}} END AS new_role,
            CASE WHEN reads THEN f.granted_by ELSE {{n.granted_by}} END AS granted_by
        FROM {{live.old}} AS o
        FULL JOIN {{live.new}} AS n ON {{n.bot_id}} = {{o.bot_id}} AND {{n.user_id}} = {{o.user_id}}
        LEFT JOIN LATERAL relay.permission_now(coalesce({{n.bot_id}}, {{o.bot_id}}),
            coalesce({{n.user_id}}, {{o.user_id}})) AS f ON reads
        WHERE ({{o.user_id}}, {{o.role}}) IS DISTINCT FROM ({{n.user_id}}, {{n.role}})
            AND (f.is_there OR NOT reads OR {{n.user_id}} IS NULL
                OR relay.owns({{n.bot_id}}, {{n.user_id}}))
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

CREATE FUNCTION relay.permissions_deleted() RETURNS trigger
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
        SELECT {{o.bot_id}} AS bot_id, {{o.user_id}} AS user_id, f.is_there IS TRUE AS has,
            {{o.role}} AS old_role, f.role AS new_role, f.granted_by
        FROM {{live.old}} AS o
        LEFT JOIN LATERAL relay.permission_now({{o.bot_id}}, {{o.user_id}}) AS f ON reads
        WHERE ({{o.bot_id}}, {{o.user_id}}) IS NOT NULL
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

CREATE TRIGGER relay_insert AFTER INSERT ON {{permissions}}
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON {{permissions}}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON {{permissions}}
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_deleted();
CREATE TRIGGER relay_truncate AFTER TRUNCATE ON {{permissions}}
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4003');
