-- Marks: what a trigger has to know of the triggers that ran before it in the same statement.
--
-- A statement's trigger sees the rows as the statement wrote them. A platform's row triggers, or a
-- function in RETURNING, may have changed them since, and that was told by a trigger that ran
-- earlier. So each trigger leaves a mark, and one that finds a mark tells what the table has now.
-- To read the table always would be simpler, but would make SERIALIZABLE writers fail that only
-- append, and costs much over many partitions.
--
-- A mark is a setting of the transaction, by the name of the kind of table. It holds the time at
-- which the client's statement began: what is older than that has been told in order. "!" stands
-- behind it where rows were updated or deleted. A savepoint that is rolled back takes it along with
-- what it stands for, and one that is there without need does no harm: the table is read.
--
-- A row that row security hides would look like one that is gone. So where it may hide rows from the
-- owner of these functions, nothing is read, and the rows of the statement are told.

-- Text that is the same for the same time under any settings.
CREATE FUNCTION relay.instant() RETURNS text
LANGUAGE sql STABLE
RETURN encode(timestamptz_send(statement_timestamp()), 'hex');

-- Whether row security may hide rows from whom the trigger runs as: it does not where a policy shows
-- them all. Not SQL, or a trigger's condition would be a query, which costs it more than its marks.
CREATE FUNCTION relay.hides_rows(relation oid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT row_security_active(relation) THEN
        RETURN false;
    END IF;
    RETURN NOT coalesce(bool_or(p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) = 'true')
            AND bool_and(p.polpermissive), false)
    FROM pg_policy AS p
    WHERE p.polrelid = relation AND p.polcmd IN ('r', '*')
        AND (SELECT bool_or(r = 0 OR pg_has_role(r, 'USAGE')) FROM unnest(p.polroles) AS r);
END
$$;

-- Whether rows of the table were updated or deleted earlier in the client's statement.
CREATE FUNCTION relay.is_changed(mark text, instant text, relation oid) RETURNS boolean
LANGUAGE sql STABLE
RETURN current_setting(mark, true) = instant || '!' AND NOT relay.hides_rows(relation);

-- Whether rows of the table were written at all earlier in the client's statement.
CREATE FUNCTION relay.is_written(mark text, instant text, relation oid) RETURNS boolean
LANGUAGE sql STABLE
RETURN rtrim(current_setting(mark, true), '!') = instant AND NOT relay.hides_rows(relation);

CREATE FUNCTION relay.mark_written(mark text, instant text) RETURNS text
LANGUAGE sql VOLATILE
RETURN CASE WHEN current_setting(mark, true) = instant || '!' THEN instant
    ELSE set_config(mark, instant, true) END;

CREATE FUNCTION relay.mark_changed(mark text, instant text) RETURNS text
LANGUAGE sql VOLATILE
RETURN set_config(mark, instant || '!', true);
