-- A user who is deactivated or deleted leaves everywhere; a TRUNCATE of a table that decides
-- about access has everyone asked again.

CREATE FUNCTION relay.users_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO relay.events (type, user_id, code)
    SELECT 'eject', u.id, 4001
    FROM (
        SELECT n.id, o.is_active AND NOT n.is_active AS deactivated
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON n.id = o.id
        OFFSET 0
    ) AS u
    WHERE u.deactivated;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION relay.users_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO relay.events (type, user_id, code) SELECT 'eject', o.id, 4001 FROM old_rows AS o;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

-- TRUNCATE has no transition tables; who may not stay is found by asking about everyone.
-- The trigger's argument is the code for those. TRUNCATE of messages or documents sends nothing.
CREATE FUNCTION relay.access_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO relay.events (type, code) VALUES ('recheck', TG_ARGV[0]::integer);
    PERFORM relay.ring(TG_TABLE_NAME);
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_update AFTER UPDATE ON public.users
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON public.users
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.users_deleted();

CREATE TRIGGER relay_truncate AFTER TRUNCATE ON public.users
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4001');
CREATE TRIGGER relay_truncate AFTER TRUNCATE ON public.bots
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4003');
CREATE TRIGGER relay_truncate AFTER TRUNCATE ON public.permissions
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4003');
