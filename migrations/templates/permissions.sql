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
    CROSS JOIN LATERAL relay.permission_rows({{n.bot_id}}, {{n.user_id}}, 'granted',
        relay.permission_details({{n.role}}, coalesce({{n.granted_by}}, actor), NULL),
        true, NULL, at) AS r
    WHERE ({{n.bot_id}}, {{n.user_id}}) IS NOT NULL;
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
        SELECT coalesce({{n.bot_id}}, {{o.bot_id}}) AS bot_id,
            coalesce({{n.user_id}}, {{o.user_id}}) AS user_id,
            CASE WHEN {{n.user_id}} IS NULL THEN 'revoked' WHEN {{o.user_id}} IS NULL THEN 'granted'
                ELSE 'updated' END AS action,
            CASE WHEN {{n.user_id}} IS NULL THEN {{o.role}} ELSE {{n.role}} END AS role,
            CASE WHEN {{n.user_id}} IS NULL THEN actor ELSE coalesce({{n.granted_by}}, actor) END
                AS granted_by,
            CASE WHEN {{n.user_id}} IS NOT NULL THEN {{o.role}} END AS old_role,
            CASE WHEN {{n.user_id}} IS NULL
                THEN relay.ejection_after_revoke({{o.bot_id}}, {{o.user_id}}) END AS ejection
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON {{n.bot_id}} = {{o.bot_id}} AND {{n.user_id}} = {{o.user_id}}
        WHERE ({{o.user_id}}, {{o.role}}) IS DISTINCT FROM ({{n.user_id}}, {{n.role}})
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
        SELECT {{o.bot_id}} AS bot_id, {{o.user_id}} AS user_id, {{o.role}} AS role,
            (SELECT true FROM {{bots}} AS b WHERE {{b.id}} = {{o.bot_id}}) AS bot_exists,
            relay.ejection_after_revoke({{o.bot_id}}, {{o.user_id}}) AS ejection
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
