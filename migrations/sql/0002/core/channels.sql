-- The channels on which rings and typing are told. Their names are secrets: whoever can connect may
-- LISTEN and NOTIFY on any channel whose name they know.
--
-- A name is "relay_ring_" or "relay_typing_" and the number in the channel's sequence. It is put
-- together where it is used, in functions of the owner's, so that no statement of a client, no log and
-- no pg_stat view of PostgreSQL's own shows it. trace_notify would write it to whoever asks for debug
-- messages. Extensions that record the statements inside of functions are told LISTEN with the name:
-- see relay.listen.

-- Also where default privileges give new sequences away.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
          FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE c.oid IN ('relay.ring_channel'::regclass, 'relay.typing_channel'::regclass)
           AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON SEQUENCE relay.ring_channel, relay.typing_channel FROM %s',
                       grantee);
    END LOOP;
END
$$;

-- Whether a setting of the writer's is on, as PostgreSQL reads booleans; what is none is an error that
-- names the setting. Most sessions never set it, or have it back at ''. For them this is nothing but a
-- look, and plain SQL, so that nothing is called.
CREATE FUNCTION relay.read_switch(setting text, value text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN value = 'on' OR value::boolean;  -- for nearly all say 'on', and casting may cost
EXCEPTION
    WHEN invalid_text_representation THEN
        RAISE EXCEPTION 'the setting % is %, which is neither on nor off', setting, quote_literal(value)
            USING ERRCODE = 'invalid_parameter_value', HINT = format('SET LOCAL %s = %L', setting, 'on');
END
$$;

CREATE FUNCTION relay.is_on(setting text) RETURNS boolean
LANGUAGE sql STABLE
RETURN CASE WHEN current_setting(setting, true) <> ''
    THEN relay.read_switch(setting, current_setting(setting, true)) ELSE false END;

-- Rings, where that is due: bare, with the name of the table. For whoever writes to the log, an access
-- change too: that rings even while the bell is silent or relay.quiet is on, for what is committed
-- after it must not be delivered before it. Only two-phase commit cannot ring (relay.two_phase).
--
-- Who writes without a ring advances the epoch, after its insert: a process that knows the number
-- of before then delivers nothing that a ring carries, until it has read what it does not hear of.
--
-- Not SECURITY DEFINER and without settings of its own, which cost more than all the rest, each time
-- that nobody has to be rung for. So its names are qualified, and those who call it have a fixed
-- search_path. The bell is 2 while it is silent, and 3 while rings carry nothing.
CREATE OR REPLACE FUNCTION relay.ring(source text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    is_prepared boolean := relay.is_on('relay.two_phase');
    epoch bigint;
BEGIN
    IF is_prepared OR relay.is_on('relay.quiet') THEN
        epoch := pg_catalog.nextval('relay.epoch');
    ELSIF pg_catalog.pg_sequence_last_value('relay.bell') IS DISTINCT FROM 2 THEN
        PERFORM relay.tell('ring', source);
        RETURN;
    END IF;
    IF NOT is_prepared AND relay.has_changed_access() THEN
        PERFORM relay.tell('ring', source);
    END IF;
END
$$;

-- The epoch as a ring tells it, and as who hears rings compares it. A log that is restored into the
-- same database may have the same number, but in another sequence: what rings then is of another
-- history, of which who listens may have seen nothing.
CREATE FUNCTION relay.epoch_as_told() RETURNS text
LANGUAGE sql VOLATILE
RETURN concat('relay.epoch'::regclass::oid, '.', coalesce(pg_sequence_last_value('relay.epoch'), 0));

-- Rings with the text of an event, after the epoch as it is now. Bare where that is null or too long
-- for a notification, and after 16 of a transaction, which all would fill the queue of every listener.
-- The channel's name is put together where it is used, as in relay.tell.
CREATE FUNCTION relay.carry(source text, told text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET trace_notify = off AS $$
DECLARE
    ring text := concat(relay.epoch_as_told(), ' ' || told);
    carried text := coalesce(current_setting('relay.carried', true), '');
BEGIN
    IF told IS NULL OR octet_length(ring) >= 8000 OR length(carried) >= 16 THEN
        ring := relay.readable(source);
    ELSE
        carried := set_config('relay.carried', carried || '.', true);
    END IF;
    RETURN CASE WHEN pg_sequence_last_value('relay.ring_channel') IS NOT NULL THEN
        pg_notify('relay_ring_' || pg_sequence_last_value('relay.ring_channel'), ring)::text END;
END
$$;

-- Rings for a statement that changed no access, where that is due.
--
-- told: the text of the one event that it wrote, which the ring may carry. Null: it rings bare.
--
-- Plain SQL, and a value: so in a trigger it is a part of the caller's expression, for which neither
-- a call nor a query is begun.
CREATE FUNCTION relay.ring_event(source text, told text) RETURNS text
LANGUAGE sql VOLATILE
RETURN CASE
    WHEN relay.is_on('relay.quiet') OR relay.is_on('relay.two_phase')
        THEN nextval('relay.epoch')::text
    ELSE CASE pg_sequence_last_value('relay.bell')
        WHEN 2 THEN NULL
        WHEN 3 THEN relay.carry(source, NULL)
        ELSE relay.carry(source, told)
    END
END;

-- Whether a ring may carry its event now. If not, nobody need make the text of one.
CREATE FUNCTION relay.carries() RETURNS boolean
LANGUAGE sql VOLATILE
RETURN coalesce(pg_sequence_last_value('relay.bell'), 1) = 1;

-- A row of the log that is a plain event (it changes no access, and no later one replaces it), as a
-- ring tells it; null where it is too long for a notification:
--
--     id xid written_at author topic payload
--
-- written_at in microseconds, and "-" for no author.
CREATE FUNCTION relay.ring_text(
    id bigint, xid xid8, written_at timestamptz, author uuid, topic text, payload text
) RETURNS text
LANGUAGE sql STABLE
RETURN CASE WHEN octet_length(payload) < 8000 THEN
    concat_ws(' ', id, xid, relay.microseconds(written_at), coalesce(author::text, '-'), topic, payload)
END;

-- Whether this transaction has written a row about access.
CREATE FUNCTION relay.has_changed_access() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET row_security = on AS $$
DECLARE
    own xid8 := pg_current_xact_id();
BEGIN
    RETURN EXISTS (SELECT FROM relay.events AS e
                    WHERE e.xid = own
                      AND (e.code IS NOT NULL OR e.user_id IS NOT NULL OR e.type = 'grant'));
END
$$;

-- Notifies a channel, "ring" or "typing", whether the bell is silent or not. Without a name nothing is
-- told: to notify a channel without one would fail every writer. The next server that starts makes one.
--
-- What rings may be the name of a table, with a character that UTF-8 lacks where the database has another
-- encoding. A notification with it would end the connection of everybody who listens.
CREATE FUNCTION relay.tell(channel text, payload text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET trace_notify = off AS $$
DECLARE
    numbers regclass := concat('relay.', channel, '_channel');
BEGIN
    PERFORM pg_notify(
        concat('relay_', channel, '_', pg_sequence_last_value(numbers)), relay.readable(payload))
      WHERE pg_sequence_last_value(numbers) IS NOT NULL;
END
$$;

-- Whether this session hears both channels by the names that they have now.
CREATE FUNCTION relay.is_listening() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT count(*) = 2 FROM pg_listening_channels() AS name
             WHERE name = 'relay_ring_' || pg_sequence_last_value('relay.ring_channel')
                OR name = 'relay_typing_' || pg_sequence_last_value('relay.typing_channel'));
END
$$;

-- Makes this session hear both channels, and no longer those of earlier names.
--
-- pg_stat_statements keeps the names if it records all statements, for everybody in pg_read_all_stats.
-- Not in this transaction, if the owner may say so; if not, bin/doctor does.
CREATE FUNCTION relay.listen() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET trace_notify = off AS $$
DECLARE
    channel text;
    old text;
BEGIN
    IF current_setting('pg_stat_statements.track', true) = 'all'
        AND has_parameter_privilege('pg_stat_statements.track', 'SET') THEN
        PERFORM set_config('pg_stat_statements.track', 'top', true);
    END IF;
    FOREACH channel IN ARRAY ARRAY['ring', 'typing'] LOOP
        PERFORM setval(numbers, 1 + relay.strong_random())
           FROM (SELECT concat('relay.', channel, '_channel')::regclass) AS c (numbers)
          WHERE pg_sequence_last_value(numbers) IS NULL;
        EXECUTE format('LISTEN %I', concat('relay_', channel, '_', pg_sequence_last_value(
            concat('relay.', channel, '_channel')::regclass)));
    END LOOP;
    FOR old IN
        SELECT name FROM pg_listening_channels() AS name
         WHERE starts_with(name, 'relay_')
           AND name <> 'relay_ring_' || pg_sequence_last_value('relay.ring_channel')
           AND name <> 'relay_typing_' || pg_sequence_last_value('relay.typing_channel')
    LOOP
        EXECUTE format('UNLISTEN %I', old);
    END LOOP;
END
$$;

-- Gives the channels new names. Servers notice within two seconds.
CREATE FUNCTION relay.rotate_channels() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT setval('relay.ring_channel', 1 + relay.strong_random()),
           setval('relay.typing_channel', 1 + relay.strong_random());
END;

-- The session in which a process listens, so that others can end it when the process is gone: one
-- that takes nothing any more keeps the queue of notifications from being emptied.
ALTER TABLE relay.nodes ADD COLUMN backend integer;
