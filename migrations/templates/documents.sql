-- Rows of documents become document_update on the bot's topic.

-- The error stands in it only while the document has failed. user_id is who did it, as far as the
-- writer said so, else who uploaded the document.
CREATE FUNCTION relay.document_event(
    bot_id uuid, action text, document_id uuid, filename text, status text, error text,
    user_id uuid, at text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('{"type":"document_update","bot_id":"', bot_id,
    '","data":{"action":', to_json(coalesce(action, 'uploaded')),
    ',"document":{"id":"', document_id, '","filename":', to_json(coalesce(filename, '')),
    ',"status":', to_json(coalesce(status, 'uploaded')),
    CASE WHEN status = 'failed' THEN ',"error":' || relay.json_text(error) END,
    '},"user_id":', relay.json_id(user_id), '},"timestamp":', at, '}');

-- The document as it is now; no row where it is gone, or on another bot.
CREATE FUNCTION relay.document_now(bot_id uuid, document_id uuid)
RETURNS TABLE (is_there boolean, filename text, status text, error text, uploaded_by uuid)
LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT true, {{n.filename}}, {{n.status}}, {{n.error}}, {{n.uploaded_by}}
    FROM {{live.documents}} AS n
    WHERE {{n.id}} = document_now.document_id AND {{n.bot_id}} = document_now.bot_id
        AND age(n.xmin) <= 0
    ORDER BY n.xmax <> 0, age(n.xmin) LIMIT 1
$$;

-- "uploaded" whatever status the row starts with; document.status tells.
CREATE FUNCTION relay.documents_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    told text;
    wrote bigint;  -- 2 stands for more, too
BEGIN
    IF relay.is_changed('relay.documents', instant, TG_RELID) THEN
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', {{n.bot_id}}), 'document_update', relay.document_event({{n.bot_id}},
                'uploaded', {{n.id}}, d.filename, d.status, d.error, coalesce(actor, d.uploaded_by), at)
            FROM {{live.new}} AS n
            CROSS JOIN LATERAL relay.document_now({{n.bot_id}}, {{n.id}}) AS d
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    ELSE
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', {{n.bot_id}}), 'document_update', relay.document_event({{n.bot_id}},
                'uploaded', {{n.id}}, {{n.filename}}, {{n.status}}, {{n.error}},
                coalesce(actor, {{n.uploaded_by}}), at)
            FROM {{live.new}} AS n
            WHERE ({{n.bot_id}}, {{n.id}}) IS NOT NULL
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    END IF;
    IF wrote > 0 THEN
        told := relay.ring_event(TG_TABLE_NAME, CASE WHEN wrote = 1 THEN told END);
        instant := relay.mark_written('relay.documents', instant);
    END IF;
    RETURN NULL;
END
$$;

-- A document moved to another bot is deleted from the one and uploaded to the other. Where the
-- current rows are read and one is gone that was here after this statement, it was told already.
CREATE FUNCTION relay.documents_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    told text;
    wrote bigint;  -- 2 stands for more, too
BEGIN
    IF relay.is_written('relay.documents', instant, TG_RELID) THEN
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', c.bot_id), 'document_update', CASE WHEN d.is_there
                THEN relay.document_event(c.bot_id, CASE WHEN c.is_new THEN 'uploaded' ELSE d.status END,
                    c.id, d.filename, d.status, d.error, coalesce(actor, d.uploaded_by), at)
                ELSE relay.document_event(c.bot_id, 'deleted', c.id, c.filename, c.status, c.error,
                    coalesce(actor, c.uploaded_by), at)
            END
            FROM (
                SELECT coalesce({{n.bot_id}}, {{o.bot_id}}) AS bot_id,
                    coalesce({{n.id}}, {{o.id}}) AS id, {{o.id}} IS NULL AS is_new,
                    {{n.id}} IS NULL AS is_gone, {{o.filename}} AS filename, {{o.status}} AS status,
                    {{o.error}} AS error, {{o.uploaded_by}} AS uploaded_by
                FROM {{live.old}} AS o
                FULL JOIN {{live.new}} AS n ON {{n.id}} = {{o.id}} AND {{n.bot_id}} = {{o.bot_id}}
                WHERE ({{o.id}}, {{o.status}}) IS DISTINCT FROM ({{n.id}}, {{n.status}})
                OFFSET 0
            ) AS c
            LEFT JOIN LATERAL relay.document_now(c.bot_id, c.id) AS d ON true
            WHERE d.is_there OR (c.is_gone AND (c.bot_id, c.id) IS NOT NULL)
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    ELSE
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', d.bot_id), 'document_update', relay.document_event(d.bot_id,
                CASE WHEN {{n.id}} IS NULL THEN 'deleted' WHEN {{o.id}} IS NULL THEN 'uploaded'
                    ELSE d.status END,
                d.id, d.filename, d.status, d.error, coalesce(actor, d.uploaded_by), at)
            FROM {{live.old}} AS o
            FULL JOIN {{live.new}} AS n ON {{n.id}} = {{o.id}} AND {{n.bot_id}} = {{o.bot_id}}
            CROSS JOIN LATERAL (
                SELECT {{n.id}}, {{n.bot_id}}, {{n.filename}}, {{n.status}}, {{n.error}},
                    {{n.uploaded_by}}
                WHERE {{n.id}} IS NOT NULL
                UNION ALL
                SELECT {{o.id}}, {{o.bot_id}}, {{o.filename}}, {{o.status}}, {{o.error}},
                    {{o.uploaded_by}}
                WHERE {{n.id}} IS NULL
            ) AS d (id, bot_id, filename, status, error, uploaded_by)
            WHERE ({{o.id}}, {{o.status}}) IS DISTINCT FROM ({{n.id}}, {{n.status}})
                AND (d.bot_id, d.id) IS NOT NULL
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    END IF;
    IF wrote > 0 THEN
        told := relay.ring_event(TG_TABLE_NAME, CASE WHEN wrote = 1 THEN told END);
        instant := relay.mark_changed('relay.documents', instant);
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        instant := relay.mark_changed('relay.documents', instant);
    END IF;
    RETURN NULL;
END
$$;

-- In a cascade from bots the bot's row is gone already: its sockets are closed, so nothing is sent. Only
-- then: a bot that is not seen here otherwise may be back, for all others, before this commits.
CREATE FUNCTION relay.documents_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET row_security = on AS $$
#variable_conflict use_variable
DECLARE
    at text := relay.json_now();
    actor uuid := relay.actor();
    instant text := relay.instant();
    cascades boolean := coalesce(current_setting('relay.bots_gone', true) = instant, false);
    told text;
    wrote bigint;  -- 2 stands for more, too
BEGIN
    IF relay.is_written('relay.documents', instant, TG_RELID) THEN
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', {{o.bot_id}}), 'document_update', CASE WHEN d.is_there
                THEN relay.document_event({{o.bot_id}}, d.status, {{o.id}}, d.filename, d.status,
                    d.error, coalesce(actor, d.uploaded_by), at)
                ELSE relay.document_event({{o.bot_id}}, 'deleted', {{o.id}}, {{o.filename}},
                    {{o.status}}, {{o.error}}, coalesce(actor, {{o.uploaded_by}}), at)
            END
            FROM {{live.old}} AS o
            LEFT JOIN LATERAL relay.document_now({{o.bot_id}}, {{o.id}}) AS d ON true
            WHERE ({{o.bot_id}}, {{o.id}}) IS NOT NULL AND (NOT cascades OR relay.bot_remains({{o.bot_id}}))
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    ELSE
        WITH written AS (
            INSERT INTO relay.events AS e (topic, type, payload)
            SELECT concat('bot:', {{o.bot_id}}), 'document_update', relay.document_event({{o.bot_id}},
                'deleted', {{o.id}}, {{o.filename}}, {{o.status}}, {{o.error}},
                coalesce(actor, {{o.uploaded_by}}), at)
            FROM {{live.old}} AS o
            WHERE ({{o.bot_id}}, {{o.id}}) IS NOT NULL AND (NOT cascades OR relay.bot_remains({{o.bot_id}}))
            RETURNING relay.ring_text(e.id, e.xid, e.written_at, e.author, e.topic, e.payload) AS told
        )
        SELECT count(*), min(few.told) INTO wrote, told
        FROM (SELECT w.told FROM written AS w LIMIT 2) AS few;
    END IF;
    IF wrote > 0 THEN
        told := relay.ring_event(TG_TABLE_NAME, CASE WHEN wrote = 1 THEN told END);
        instant := relay.mark_changed('relay.documents', instant);
    ELSIF EXISTS (SELECT FROM old_rows) THEN
        instant := relay.mark_changed('relay.documents', instant);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER relay_insert AFTER INSERT ON {{documents}}
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.documents_inserted();
CREATE TRIGGER relay_update AFTER UPDATE ON {{documents}}
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.documents_updated();
CREATE TRIGGER relay_delete AFTER DELETE ON {{documents}}
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION relay.documents_deleted();
