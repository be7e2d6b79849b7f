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
CREATE FUNCTION relay.authenticate(subject text, kind text)
RETURNS TABLE (user_id uuid, username text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
    SELECT {{u.id}}, {{u.username}}
    FROM {{live.users}} AS u
    WHERE authenticate.kind = 'id' AND {{u.id}} = relay.uuid_or_null(authenticate.subject)
        AND {{u.is_active}}
    UNION ALL
    SELECT {{u.id}}, {{u.username}}
    FROM {{live.users}} AS u
    WHERE authenticate.kind = 'username' AND {{is_named}}
        AND {{u.username}} = authenticate.subject
        AND {{u.is_active}}
$$;

-- The owner's role is 'owner', whatever a permission row says. A row of permissions without a role
-- is a permission, too.
CREATE FUNCTION relay.authorize(user_id uuid, bot_id uuid)
RETURNS TABLE (bot_name text, role text, username text)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
    SELECT {{b.name}},
        CASE WHEN {{b.owner_id}} = {{u.id}} OR {{p.role}} = {{owner_role}} THEN 'owner'
            ELSE coalesce({{p.role}}, 'viewer') END,
        {{u.username}}
    FROM {{live.users}} AS u
    CROSS JOIN {{live.bots}} AS b
    LEFT JOIN {{live.permissions}} AS p ON {{p.bot_id}} = {{b.id}} AND {{p.user_id}} = {{u.id}}
    WHERE {{u.id}} = authorize.user_id
        AND {{u.is_active}}
        AND {{b.id}} = authorize.bot_id
        AND ({{b.owner_id}} = {{u.id}} OR {{p.user_id}} IS NOT NULL)
$$;
