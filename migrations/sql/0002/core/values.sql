-- Values that JSON, or those who read it, cannot take as PostgreSQL has them; and the time of now.
-- Nothing here depends on standard_conforming_strings: where a backslash is meant, it says E''.

-- RFC 3339 in UTC, whatever the session's TimeZone and DateStyle. It has years of four digits, so
-- a time before the year 1 or after 9999 is null, as an infinite one is.
--
-- Not by to_char: that turns the names of days and months, in the language of lc_time, into the
-- database's encoding, also where none is asked for, and fails where it lacks a character of them.
-- JSON has the time as it is wanted, but without zeros at the end: the rest of the text that it is
-- laid over has them.
CREATE OR REPLACE FUNCTION relay.json_time(value timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN value >= '0001-01-01 00:00:00+00' AND value < '10000-01-01 00:00:00+00'
        THEN overlay('"YYYY-MM-DDTHH:MI:SS.000000Z"'
            PLACING to_jsonb(value AT TIME ZONE 'UTC') #>> '{}' FROM 2)
    ELSE 'null'
END;

-- The same for the time of now, which needs no check and is asked for in every message.
CREATE FUNCTION relay.json_now() RETURNS text
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN overlay('"YYYY-MM-DDTHH:MI:SS.000000Z"'
    PLACING to_jsonb(clock_timestamp() AT TIME ZONE 'UTC') #>> '{}' FROM 2);

-- Whether there are more than 500 levels. Only brackets are kept, and of these the innermost pairs
-- are taken out a few times: most values are not deep. What is left is JSON again, of nothing but
-- arrays, and is walked once. What is too deep for PostgreSQL's own parser is too deep. (A function
-- that catches an error must not run in a parallel worker, nor those that call it.)
CREATE FUNCTION relay.is_too_deep(value text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    brackets text := translate(
        regexp_replace(value, E'"(?:[^"\\\\]|\\\\.)*"|[^][{}"]+', '', 'g'), '{}', '[]');
BEGIN
    FOR level IN 1..10 LOOP
        brackets := replace(brackets, '[]', '');
        IF brackets = '' THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN jsonb_path_exists(replace(brackets, '][', '],[')::jsonb, 'strict $.**{490}');
EXCEPTION
    WHEN statement_too_complex THEN
        RETURN true;
END
$$;

-- What a platform keeps as JSON, as text that every client can read. jsonb takes numbers of any
-- length and thousands of levels; parsers do not, and a client that fails on a message loses it.
-- A number of more than 250 characters becomes a string of them, and a value of more than 500
-- levels {"omitted": "nested too deeply"}. Short texts, by far the most, can be neither.
--
-- No regular expression can look at 256 MB, and no client reads that much: it stays as it is.
--
-- A number is in a string if the quotes before it are odd: all but those that a backslash escapes.
--
-- To find out whether there is a long number costs little. To find each one does not: an automaton with
-- a state for each of the 250 characters is made anew every time. So numbers of some length are looked
-- at one by one, and those that are long are told by their length.
CREATE FUNCTION relay.json_bounded(value text) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    long_number CONSTANT text := '[0-9][0-9.eE+-]{250,}';
    some_number CONSTANT text := '-?[0-9][0-9.eE+-]{30,}';
BEGIN
    IF octet_length(value) > 250000000 THEN
        RETURN value;
    ELSIF octet_length(value) - octet_length(replace(replace(value, '[', ''), '{', '')) > 500
        AND relay.is_too_deep(value)
    THEN
        RETURN '{"omitted":"nested too deeply"}';
    ELSIF value ~ long_number THEN
        RETURN (
            SELECT string_agg(concat(text, CASE
                WHEN quotes % 2 = 0 AND octet_length(ltrim(number, '-')) > 250
                THEN concat('"', number, '"') ELSE number END), '' ORDER BY place)
            FROM (
                SELECT text, number, place,
                    sum(octet_length(bare) - octet_length(replace(bare, '"', '')))
                        OVER (ORDER BY place) AS quotes
                FROM (
                    SELECT text, number[1] AS number, place,
                        replace(replace(text, E'\\\\', ''), E'\\"', '') AS bare
                    FROM ROWS FROM (regexp_split_to_table(value, some_number),
                        regexp_matches(value, some_number, 'g'))
                        WITH ORDINALITY AS found (text, number, place)) AS parts) AS counted);
    END IF;
    RETURN value;
END
$$;

CREATE FUNCTION relay.json_data(value text) RETURNS text
LANGUAGE sql STABLE
RETURN CASE WHEN octet_length(value) <= 250 THEN value ELSE relay.json_bounded(value COLLATE "C") END;

-- A time and JSON, of whichever type a mapped column has or is given later. A cast that is only implied
-- would follow the writer's time zone. json has no equality, so it becomes text; what is no JSON is an
-- error. Plain SQL, so that nothing is called.
CREATE FUNCTION relay.time_of(value timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE RETURN value;

CREATE FUNCTION relay.time_of(value timestamp) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE RETURN value AT TIME ZONE 'UTC';

CREATE FUNCTION relay.time_of(value date) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE RETURN value::timestamp AT TIME ZONE 'UTC';

CREATE FUNCTION relay.json_of(value jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE RETURN value;

CREATE FUNCTION relay.json_of(value json) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE RETURN value::text;

-- A value as its type writes it. Both ::text and to_json look for a cast first, and whoever owns a
-- type may make one, with a function of theirs: it would run as the owner of these functions.
CREATE FUNCTION relay.written(value anyelement) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN num_nulls(value) = 0 THEN format('%s', value) END
$$;

-- Whether to_json may look for casts of the type, and of what it is made of: they belong to who may
-- act as whom this runs as anyway. What is below 16384 is PostgreSQL's own. A domain has no casts,
-- so it does not matter whose it is.
CREATE FUNCTION relay.is_trusted(of_type oid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF of_type < 16384 THEN
        RETURN true;
    END IF;
    RETURN (
        WITH RECURSIVE parts (oid) AS (
            SELECT of_type
            UNION
            SELECT part.oid
            FROM parts AS p
            JOIN pg_type AS y ON y.oid = p.oid
            CROSS JOIN LATERAL (
                VALUES (y.typbasetype), (y.typelem)
                UNION ALL
                SELECT a.atttypid FROM pg_attribute AS a
                WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            ) AS part (oid)
            WHERE part.oid <> 0
        )
        SELECT bool_and(y.typtype = 'd' OR pg_has_role(y.typowner, current_user, 'USAGE'))
        FROM parts AS p JOIN pg_type AS y ON y.oid = p.oid
    );
END
$$;

-- As it was, but by no rules of the caller's: a collation that ignores case has no regular expressions.
CREATE OR REPLACE FUNCTION relay.uuid_or_null(value text) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN value COLLATE "C" ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' THEN value::uuid
END;

-- Text that can be sent: every client speaks UTF-8. A database of another encoding may hold bytes
-- that are no character of UTF-8, as byte 81 in WIN1252, and an answer with one of them is an error
-- as a whole. Each such character becomes a question mark. Halves are tried, as most can be sent.
CREATE FUNCTION relay.readable(value text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    half integer;
BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        PERFORM convert_to(value, 'UTF8');
    END IF;
    RETURN value;
EXCEPTION
    WHEN untranslatable_character OR character_not_in_repertoire THEN
        half := length(value) / 2;
        RETURN CASE WHEN half = 0 THEN '?'
            ELSE relay.readable(left(value, half)) || relay.readable(substr(value, half + 1)) END;
END
$$;

CREATE FUNCTION relay.make_readable() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.topic := relay.readable(NEW.topic);
    NEW.type := relay.readable(NEW.type);
    NEW.payload := relay.readable(NEW.payload);
    RETURN NEW;
END
$$;

-- One such row would keep everybody from reading the log. Where all text is UTF-8 there is none, and a
-- trigger would cost each insert 4 us to find that out. A dump may be restored into a database of
-- another encoding: relay.forget_foreign_log calls this again.
CREATE FUNCTION relay.keep_readable() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    is_kept boolean := EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = 'relay.events'::regclass AND tgname = 'readable');
BEGIN
    IF is_kept AND getdatabaseencoding() = 'UTF8' THEN
        DROP TRIGGER readable ON relay.events;
    ELSIF NOT is_kept AND getdatabaseencoding() <> 'UTF8' THEN
        CREATE TRIGGER readable BEFORE INSERT ON relay.events
            FOR EACH ROW EXECUTE FUNCTION relay.make_readable();
    END IF;
END
$$;

SELECT relay.keep_readable();

DO $$
BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        UPDATE relay.events SET type = relay.readable(type), payload = relay.readable(payload)
         WHERE (type, payload) IS DISTINCT FROM (relay.readable(type), relay.readable(payload));
    END IF;
END
$$;
