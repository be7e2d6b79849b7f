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
CREATE FUNCTION relay.permission_details(
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
CREATE FUNCTION relay.ejection_after_revoke(bot_id uuid, user_id uuid) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN (SELECT {{b.owner_id}} IS DISTINCT FROM ejection_after_revoke.user_id
                FROM {{live.bots}} AS b WHERE {{b.id}} = ejection_after_revoke.bot_id
                ORDER BY b.xmax <> 0, age(b.xmin) LIMIT 1)
            AND (SELECT true FROM {{live.users}} AS u
                WHERE {{u.id}} = ejection_after_revoke.user_id LIMIT 1)
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
CREATE FUNCTION relay.is_news(
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
CREATE FUNCTION relay.access_rows(
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
