-- A user who is deactivated or deleted leaves everywhere; a TRUNCATE of a table that decides
-- about access has everyone asked again.
--
-- A row without an id is nobody's: an ejection without a user would be everyone's.

-- A user whose id was changed is another one: who had the old id leaves.
CREATE FUNCTION relay.users_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
DECLARE
    wrote boolean;
BEGIN
    INSERT INTO relay.events (type, user_id, code)
    SELECT 'eject', u.id, 4001
    FROM (
        SELECT {{o.id}} AS id,
            {{o.is_active}} AND ({{n.id}} IS NULL OR {{n.is_active}} IS NOT TRUE) AS deactivated
        FROM {{live.old}} AS o
        FULL JOIN {{live.new}} AS n ON {{n.id}} = {{o.id}}
        OFFSET 0
    ) AS u
    WHERE u.deactivated AND u.id IS NOT NULL;
    wrote := FOUND;
    -- Who is active now and was not is named: what was written meanwhile is not for them.
    INSERT INTO relay.events (type, user_id)
    SELECT 'grant', {{n.id}}
    FROM {{live.new}} AS n
    LEFT JOIN {{live.old}} AS o ON {{o.id}} = {{n.id}}
    WHERE {{n.id}} IS NOT NULL AND {{n.is_active}}
        AND ({{o.id}} IS NULL OR {{o.is_active}} IS NOT TRUE);
    wrote := FOUND OR wrote;
    -- Tokens may name users by their username. One with the new name may have been refused, so the
    -- servers are to forget refusals. The row names no user: a new name gives no new access, for its user was
    -- active before, too.
    INSERT INTO relay.events (type)
    SELECT 'grant'
    WHERE EXISTS (
        SELECT FROM {{live.new}} AS n
        JOIN {{live.old}} AS o ON {{o.id}} = {{n.id}}
        WHERE {{n.is_active}} AND {{o.is_active}}
            AND {{o.username}} IS DISTINCT FROM {{n.username}}
    );
    IF FOUND OR wrote THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- A new user may have been refused just before, and may have the id of one who was there before.
CREATE FUNCTION relay.users_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
BEGIN
    INSERT INTO relay.events (type, user_id)
    SELECT 'grant', {{n.id}} FROM {{live.new}} AS n WHERE {{n.id}} IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION relay.users_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
BEGIN
    INSERT INTO relay.events (type, user_id, code)
    SELECT 'eject', {{o.id}}, 4001 FROM {{live.old}} AS o WHERE {{o.id}} IS NOT NULL;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- TRUNCATE has no transition tables; who may not stay is found by asking about everyone.
-- The trigger's argument is the code for those. TRUNCATE of messages or documents sends nothing.
CREATE FUNCTION relay.access_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
BEGIN
    INSERT INTO relay.events (type, code) VALUES ('recheck', TG_ARGV[0]::integer);
    PERFORM relay.ring(TG_TABLE_NAME);
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON {{users}}
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON {{users}}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON {{users}}
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_deleted();
CREATE TRIGGER relay_truncate AFTER TRUNCATE ON {{users}}
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4001');
