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
        WHEN {{b.owner_id}} = ejection_after_revoke.user_id THEN 'recheck'
        WHEN (SELECT true FROM {{users}} AS u WHERE {{u.id}} = ejection_after_revoke.user_id)
            THEN 'eject'
    END
    FROM {{bots}} AS b
    WHERE {{b.id}} = ejection_after_revoke.bot_id
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
