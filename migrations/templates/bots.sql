-- Rows of bots become bot_update; a new owner also is a revoke and a grant; a deleted bot ends
-- everyone's access to it.

CREATE FUNCTION relay.bot_event(
    bot_id uuid, update_type text, details text, updated_by uuid, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"type":"bot_update","bot_id":"', bot_id, '","data":{"update_type":"', update_type,
    '","details":', details, ',"updated_by":', relay.json_id(updated_by),
    '},"timestamp":', at, '}');

-- The columns that differ, with their new values, whatever columns the table has: null if none do.
-- Called with TimeZone = UTC, so that a time ends in +00:00, which becomes Z.
CREATE FUNCTION relay.changed_columns(relation oid, old_row jsonb, new_row jsonb) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    SELECT jsonb_object_agg(c.key, CASE
        WHEN a.atttypid = 'timestamptz'::regtype
            THEN to_jsonb(regexp_replace(c.value #>> '{}', '\+00:00$', 'Z'))
        ELSE c.value
    END)::text
    FROM jsonb_each(new_row) AS c
    JOIN pg_attribute AS a ON a.attrelid = relation AND a.attname = c.key
    WHERE old_row IS NOT NULL
        AND c.key <> ALL ({{untold}})
        AND c.value IS DISTINCT FROM old_row -> c.key
);

-- What losing a bot does to the former owner's sockets, seen after it: with a permission row of
-- their own they keep access, as far as can be seen here.
CREATE FUNCTION relay.ejection_after_owner(bot_id uuid, user_id uuid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN EXISTS (
        SELECT FROM {{permissions}} AS p
        WHERE {{p.bot_id}} = ejection_after_owner.bot_id
            AND {{p.user_id}} = ejection_after_owner.user_id
    ) THEN 'recheck' ELSE 'eject' END
$$;

-- Values come out as jsonb writes them, so everything that changes how is fixed here: a writer's
-- settings must not show in the message.
CREATE FUNCTION relay.bots_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload)
    SELECT concat('bot:', c.id), 'bot_update',
        relay.bot_event(c.id, 'config', c.details, coalesce(c.updated_by, actor), at)
    FROM (
        SELECT {{n.id}} AS id, {{n.updated_by}} AS updated_by,
            relay.changed_columns(TG_RELID, to_jsonb(o.*), to_jsonb(n.*)) AS details
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON {{n.id}} = {{o.id}}
        OFFSET 0
    ) AS c
    WHERE c.details IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    INSERT INTO relay.events (topic, type, payload, user_id, code)
    SELECT r.*
    FROM (
        SELECT {{n.id}} AS id, {{o.id}} AS old_id, {{o.owner_id}} AS old_owner,
            {{n.owner_id}} AS new_owner, {{n.updated_by}} AS updated_by
        FROM old_rows AS o
        FULL JOIN new_rows AS n ON {{n.id}} = {{o.id}}
        OFFSET 0
    ) AS b
    CROSS JOIN LATERAL (
        SELECT b.old_owner, 'revoked', actor, relay.ejection_after_owner(b.id, b.old_owner)
        UNION ALL
        SELECT b.new_owner, 'granted', coalesce(b.updated_by, actor), NULL
    ) AS c (user_id, action, granted_by, ejection)
    CROSS JOIN LATERAL relay.permission_rows(b.id, c.user_id, c.action,
        relay.permission_details('owner', c.granted_by, NULL), true, c.ejection, at) AS r
    WHERE b.id = b.old_id AND b.old_owner IS DISTINCT FROM b.new_owner AND c.user_id IS NOT NULL;
    PERFORM relay.ring(TG_TABLE_NAME);
    RETURN NULL;
END
$$;

-- One row ejects everyone, with the "deleted" message as their farewell. It is not an event of the
-- topic: a read's ejections come before its events, so nobody would be left to receive it, and
-- nobody can come back and resume. OLD.updated_by is not who deletes; only the actor can tell.
CREATE FUNCTION relay.bots_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_time(clock_timestamp());
    actor uuid := relay.actor();
BEGIN
    INSERT INTO relay.events (topic, type, payload, code)
    SELECT concat('bot:', {{o.id}}), 'eject',
        relay.bot_event({{o.id}}, 'deleted', '{}', actor, at), 4003
    FROM old_rows AS o;
    IF FOUND THEN
        PERFORM relay.ring(TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON {{bots}}
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON {{bots}}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON {{bots}}
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.bots_deleted();
CREATE TRIGGER relay_truncate AFTER TRUNCATE ON {{bots}}
    FOR EACH STATEMENT EXECUTE FUNCTION relay.access_truncated('4003');
