"""Whether the expressions of a mapping can be worked out, as the triggers do it.

`bin/attach` has tried each. But a function that one calls may be replaced later, or may call
another that is gone, and then each write fails. And a row may have been written meanwhile, with the
triggers disabled, for which it fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from realtime.attach.trial import try_out
from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, problem
from realtime.doctor.triggers import TRIGGERS

# A column that has another type now is another check's matter.
_EXPRESSIONS: Final = f"""
SELECT p.proname::text AS name, ours.table,
       format('relay.%I(%s)', p.proname, a.values) AS of_row,
       format('relay.%I(%s)', p.proname, a.nulls) AS of_nulls,
       has_function_privilege(p.oid, 'EXECUTE') AND has_table_privilege(ours.tgrelid, 'SELECT')
         AND has_schema_privilege(c.relnamespace, 'USAGE') AS may_try
  FROM pg_proc AS p
  JOIN ({TRIGGERS}) AS ours
    ON ours.function = concat('relay.', split_part(p.proname, '_', 2), '_inserted')
  JOIN pg_class AS c ON c.oid = ours.tgrelid AND NOT c.relispartition
 CROSS JOIN LATERAL (
    SELECT string_agg(format('r.%I::%s', one.name, format_type(one.type, NULL)), ', '
                      ORDER BY one.number) AS values,
           string_agg('NULL::' || format_type(one.type, NULL), ', ') AS nulls
      FROM unnest(p.proargnames, p.proargtypes::oid[]) WITH ORDINALITY AS one (name, type, number)
 ) AS a
 WHERE p.pronamespace = 'relay'::regnamespace AND starts_with(p.proname, 'mapped_')
 ORDER BY 1
"""
CURE: Final = (
    "write an expression that is a value or null for every row; name all that its functions use"
    " with its schema, within their bodies too; and run bin/attach with your mapping and --apply"
)


async def expressions(deployment: Deployment) -> Sequence[Finding]:
    """Work out each value, of many rows and of nulls."""
    found, tried = [], 0
    async with deployment.connect() as connection:
        rows = await connection.fetch(_EXPRESSIONS)
        for row in rows:
            if not row["may_try"]:
                continue
            tried += 1
            trial = await try_out(connection, row["table"], row["of_row"], row["of_nulls"])
            key = f"{row['table']}: {row['name'].split('_', 2)[2]}"
            if trial.failure:
                found.append(problem(f"{key} cannot be worked out: {trial.failure}", CURE))
            elif trial.unread:
                found.append(
                    fine(f"{key} is tried with no row, for none can be read: {trial.unread}")
                )
    if tried < len(rows):
        found.append(
            fine(
                f"{len(rows) - tried} expressions are not tried: this role may not call them, the"
                " owner of the schema relay may"
            )
        )
    none = "no value is worked out by an expression"
    return found or [fine(f"{tried} expressions can be worked out" if rows else none)]
