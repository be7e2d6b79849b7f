-- Rows of permissions become permission_change on the bot's topic and a notification on the
-- user's; a revoke also ejects the user's sockets from the bot's topic.

-- The "details" of both messages. granted_by is the row's, else the actor; for a revoke the actor.
CREATE FUNCTION relay.permission_details(role text, granted_by uuid, old_role text)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"role":', to_json(role), ',"granted_by":', relay.json_id(granted_by),
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
-- for it is stopped before it could see the event; a grant says whose it is, for a relay that has to
-- find out whether somebody lost access for a moment. Set-returning and STABLE, so that it is inlined
-- (OFFSET 0 in its callers: arguments are computed once, below it).
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

CREATE FUNCTION relay.permissions_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM new_rows AS n
    CROSS JOIN LATERAL relay.permission_rows(n.bot_id, n.user_id, 'granted',
        relay.permission_details(n.role, coalesce(n.granted_by, actor), NULL),
        true, NULL, at) AS r;
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
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT coalesce(n.bot_id, o.bot_id) AS bot_id, coalesce(n.user_id, o.user_id) AS user_id,
            CASE WHEN n.id IS NULL THEN 'revoked' WHEN o.id IS NULL THEN 'granted' ELSE 'updated'
            END AS action,
            coalesce(n.role, o.role) AS role,
            CASE WHEN n.id IS NULL THEN actor ELSE coalesce(n.granted_by, actor) END AS granted_by,
            CASE WHEN n.id IS NOT NULL THEN o.role END AS old_role,
            CASE WHEN n.id IS NULL THEN relay.ejection_after_revoke(o.bot_id, o.user_id)
            END AS ejection
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.bot_id = o.bot_id AND n.user_id = o.user_id
        WHERE o.role IS DISTINCT FROM n.role
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL relay.permission_rows(c.bot_id, c.user_id, c.action,
        relay.permission_details(c.role, c.granted_by, c.old_role), true, c.ejection, at) AS r;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- In a cascade from bots there is no one left to tell on the bot's topic, only the user.
CREATE FUNCTION relay.permissions_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT o.bot_id, o.user_id, o.role,
            (SELECT true FROM public.bots AS b WHERE b.id = o.bot_id) AS bot_exists,
            relay.ejection_after_revoke(o.bot_id, o.user_id) AS ejection
        FROM old_rows AS o
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL relay.permission_rows(c.bot_id, c.user_id, 'revoked',
        relay.permission_details(c.role, actor, NULL), c.bot_exists, c.ejection, at) AS r;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON public.permissions
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON public.permissions
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON public.permissions
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.permissions_deleted();
