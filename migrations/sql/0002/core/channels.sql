-- The channels on which rings and typing are told. Their names are secrets: whoever can connect may
-- LISTEN and NOTIFY on any channel whose name they know.
--
-- A name is "relay_ring_" or "relay_typing_" and the number in the channel's sequence. It is put
-- together where it is used, in functions of the owner's, so that no statement, log or pg_stat view
-- shows it. trace_notify would write it to whoever asks for debug messages.

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

-- What it was, on a channel that has a secret name. Not SECURITY DEFINER and without settings of its
-- own, which cost more than all the rest, each time that nobody has to be rung for. So its names are
-- qualified, and those who call it have a fixed search_path.
CREATE OR REPLACE FUNCTION relay.ring(source text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('relay.quiet', true) OPERATOR(pg_catalog.=) 'on' THEN
        RETURN;
    END IF;
    IF pg_catalog.pg_sequence_last_value('relay.bell') IS DISTINCT FROM 2 THEN
        PERFORM relay.tell('ring', source);
    END IF;
END
$$;

-- Notifies a channel, "ring" or "typing", whether the bell is silent or not. Without a name nothing is
-- told: to notify a channel without one would fail every writer. The next server that starts makes one.
CREATE FUNCTION relay.tell(channel text, payload text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET trace_notify = off AS $$
DECLARE
    numbers regclass := concat('relay.', channel, '_channel');
BEGIN
    PERFORM pg_notify(concat('relay_', channel, '_', pg_sequence_last_value(numbers)), payload)
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
CREATE FUNCTION relay.listen() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET trace_notify = off AS $$
DECLARE
    channel text;
    old text;
BEGIN
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
