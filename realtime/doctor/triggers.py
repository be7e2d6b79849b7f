"""Whether every change of rows is noticed: triggers there, enabled, on leaves too, not bypassed.

The tables are found by their triggers, which call functions of the schema `relay`: they may be the
reference tables or a platform's own. What a dropped trigger leaves behind is its function, which
nothing calls any more; what else a table must have, the templates say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, fine, listed, problem, warning
from realtime.installation import TEMPLATES
from realtime.postgres.shared_names import as_bytes, fetch_named

if TYPE_CHECKING:
    import asyncpg

TRIGGERS = """
SELECT t.tgrelid, format('%I.%I', n.nspname, c.relname) AS table, quote_ident(t.tgname) AS name,
       t.tgenabled::text AS enabled, 'relay.' || p.proname AS function,
       CASE WHEN t.tgtype & 4 <> 0 THEN 'INSERT' WHEN t.tgtype & 8 <> 0 THEN 'DELETE'
            WHEN t.tgtype & 16 <> 0 THEN 'UPDATE' ELSE 'TRUNCATE' END AS event,
       t.tgqual IS NOT NULL AS has_condition
  FROM pg_trigger AS t
  JOIN pg_proc AS p ON p.oid = t.tgfoid
  JOIN pg_class AS c ON c.oid = t.tgrelid
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'relay')
   AND c.relnamespace <> p.pronamespace
   AND NOT t.tgisinternal
"""
"""Every trigger of ours on a platform's tables, whatever their names."""
_FUNCTIONS = """
SELECT 'relay.' || p.proname AS function,
       EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgfoid = p.oid) AS is_called
  FROM pg_proc AS p
 WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'relay')
   AND p.prorettype = 'trigger'::regtype
 ORDER BY 1
"""
_FAMILY = f"""
WITH RECURSIVE ours AS ({TRIGGERS}),
family AS (
    SELECT DISTINCT tgrelid AS root, tgrelid AS member, NULL::oid AS parent FROM ours
    UNION
    SELECT f.root, i.inhrelid, i.inhparent
      FROM family AS f JOIN pg_inherits AS i ON i.inhparent = f.member
)
"""
_BARE_LEAVES = f"""
{_FAMILY}
SELECT DISTINCT (SELECT DISTINCT o.table FROM ours AS o WHERE o.tgrelid = f.root) AS root,
       format('%I.%I', n.nspname, c.relname) AS leaf
  FROM family AS f
  JOIN pg_class AS c ON c.oid = f.member
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE f.member <> f.root AND c.relkind NOT IN ('p', 'f')
   AND EXISTS (
       SELECT o.function FROM ours AS o WHERE o.tgrelid = f.root
       EXCEPT
       SELECT o.function FROM ours AS o WHERE o.tgrelid = f.member)
 ORDER BY 1, 2
"""
_FOREIGN_LEAVES = f"""
{_FAMILY}
SELECT DISTINCT f.root::regclass::text AS root, f.member::regclass::text AS leaf,
       f.parent::regclass::text AS parent, c.relispartition AS is_partition
  FROM family AS f JOIN pg_class AS c ON c.oid = f.member
 WHERE c.relkind = 'f'
 ORDER BY 1, 2
"""
_SETTINGS = f"""
SELECT {as_bytes("coalesce(r.rolname, 'every role')")} AS who, one.setting
  FROM pg_db_role_setting AS s
  LEFT JOIN pg_roles AS r ON r.oid = s.setrole
 CROSS JOIN unnest(s.setconfig) AS one (setting)
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
UNION ALL
SELECT {as_bytes("'everybody'")},
       'session_replication_role=' || current_setting('session_replication_role')
"""
_SWITCHES = {
    "relay.quiet": ("for nothing rings", ""),
    "relay.two_phase": (
        "and so do revocations",
        ", and set it only in transactions that are prepared",
    ),
}
"""Settings of writers: why what they write arrives late, and what else to do than remove it."""
_ON, _OFF = (
    frozenset({*short, *(word[:length] for word in words for length in range(1, len(word) + 1))})
    for words, short in ((("true", "yes"), ("on", "1")), (("false", "no"), ("off", "of", "0")))
)
"""What PostgreSQL reads as a boolean: also the beginnings of these words."""
_CREATE = re.compile(
    r"^CREATE (TRIGGER \w+ AFTER (\w+) ON) \{\{(\w+)\}\}(.*?EXECUTE FUNCTION ([\w.]+)\(.*?\));",
    re.MULTILINE | re.DOTALL,
)


class WantedTrigger(NamedTuple):
    """One that a kind of table must have: users, bots, messages and so on, whatever their names."""

    kind: str
    event: str
    function: str
    statement: str
    """What makes it, with `{}` for the table."""

    def made_on(self, table: str) -> str:
        """The statement that makes it, also where another has its name."""
        return self.statement.format(table)


def wanted_triggers() -> Sequence[WantedTrigger]:
    """What the migrations create, and bin/attach likewise."""
    return [
        WantedTrigger(
            kind, event, function, " ".join(f"CREATE OR REPLACE {start} {{}}{rest}".split())
        )
        for path in sorted(TEMPLATES.glob("*.sql"))
        for start, event, kind, rest, function in _CREATE.findall(path.read_text("utf-8"))
    ]


async def triggers(deployment: Deployment) -> Sequence[Finding]:
    """Whether each trigger that should be there is, and fires."""
    async with deployment.connect() as connection:
        rows = await connection.fetch(f"{TRIGGERS} ORDER BY 2, 3")
        functions = {row["function"]: row for row in await connection.fetch(_FUNCTIONS)}
    called = {(row["table"], row["event"], row["function"]) for row in rows}
    wanted = wanted_triggers()
    missing = list(_missing(called, wanted))
    found = [_is_missing(table, one, one.function in functions) for table, one in missing]
    # The log has trigger functions of its own, which are called only where they are needed.
    known = {one.function for _, one in missing}
    found += [
        _is_uncalled(one)
        for one in wanted
        if one.function in functions.keys() - known and not functions[one.function]["is_called"]
    ]
    found += [
        _is_off(row["table"], row["name"], row["enabled"])
        for row in rows
        if row["enabled"] not in ("O", "A")
    ]
    found += [_is_conditional(row, wanted) for row in rows if row["has_condition"]]
    found += list(_twice(rows))
    tables = sorted({row["table"] for row in rows})
    if not found and not tables:
        return [
            warning(
                "no table has any of ours: only relay.emit and its like send events",
                "run bin/attach for the platform's own tables, or bin/migrate for the reference",
            )
        ]
    return found or [fine(f"{len(rows)}, all enabled, on {', '.join(tables)}")]


def _missing(
    called: Collection[tuple[str, str, str]], wanted: Collection[WantedTrigger]
) -> Iterator[tuple[str, WantedTrigger]]:
    """What a table lacks, given what else it has.

    A table is known for its kind by a function that no other kind of table has.
    """
    for table in sorted({table for table, _, _ in called}):
        has = {(event, function) for there, event, function in called if there == table}
        for kind in sorted({one.kind for one in wanted}):
            others = {one.function for one in wanted if one.kind != kind}
            own = {(one.event, one.function): one for one in wanted if one.kind == kind}
            if any(function not in others for _, function in own.keys() & has):
                yield from ((table, own[does]) for does in sorted(own.keys() - has))


def _is_missing(table: str, wanted: WantedTrigger, has_function: bool) -> Finding:
    said = (
        f"{table} has no trigger for {wanted.event} that calls {wanted.function}: such changes"
        " send nothing"
    )
    if has_function:
        return problem(said, wanted.made_on(table))
    return problem(
        f"{said}. That function is not there, either",
        "run bin/attach with your mapping and --apply, also after each bin/migrate of a new"
        " release; for the reference tables, restore both from"
        " the pg_dump --schema-only of a new database that bin/migrate has made",
    )


def _is_uncalled(wanted: WantedTrigger) -> Finding:
    return problem(
        f"no trigger calls {wanted.function}: a table has lost its trigger",
        "run bin/attach with your mapping and --apply, or drop the function; for the reference"
        f" tables: {wanted.made_on('public.' + wanted.kind)}",
    )


def _is_off(table: str, name: str, enabled: str) -> Finding:
    state = "disabled" if enabled == "D" else "enabled for replicas only"
    return problem(
        f"the trigger {name} on {table} is {state}: such changes send nothing",
        f"ALTER TABLE {table} ENABLE TRIGGER {name}",
    )


def _is_conditional(row: asyncpg.Record, wanted: Sequence[WantedTrigger]) -> Finding:
    name, table = row["name"], row["table"]
    cure = f"DROP TRIGGER {name} ON {table}"
    same = [one for one in wanted if (one.event, one.function) == (row["event"], row["function"])]
    # Of several kinds of tables with one function, the next look says which trigger is missing.
    cure += f"; {same[0].made_on(table)}" if len(same) == 1 else ", then run this again"
    return problem(
        f"the trigger {name} on {table} has a condition (WHEN): changes without it send nothing",
        cure,
    )


def _twice(rows: Sequence[asyncpg.Record]) -> Iterator[Finding]:
    """Triggers that do what another does; the one that the migrations create is kept."""
    first: dict[tuple[str, str, str], str] = {}
    for row in sorted(rows, key=lambda row: not row["name"].startswith("relay_")):
        does = row["table"], row["event"], row["function"]
        kept = first.setdefault(does, row["name"])
        if kept != row["name"] and row["enabled"] != "D":
            yield problem(
                f"the triggers {kept} and {row['name']} on {row['table']} both call"
                f" {row['function']}: such changes are sent twice",
                f"DROP TRIGGER {row['name']} ON {row['table']}",
            )


async def partitions(deployment: Deployment) -> Sequence[Finding]:
    """Whether rows that are written straight into a partition are noticed, and none is foreign."""
    async with deployment.connect() as connection:
        rows = await connection.fetch(_BARE_LEAVES)
        foreign = await connection.fetch(_FOREIGN_LEAVES)
    found = [_is_foreign(row) for row in foreign]
    for root in sorted({row["root"] for row in rows}):
        leaves = [row["leaf"] for row in rows if row["root"] == root]
        found.append(
            warning(
                f"what is written straight into a partition of {root} sends nothing:"
                f" {listed(leaves)}",
                f"write to {root} alone, or give each partition the same triggers (bin/attach keeps"
                " those of its tables: docs/adopting.md)",
            )
        )
    return found or [fine("no partition is without the triggers of its table")]


def _is_foreign(row: asyncpg.Record) -> Finding:
    root, leaf, parent = row["root"], row["leaf"], row["parent"]
    return problem(
        f"{leaf} is a foreign table below {root}: statements that write to it by {root} fail, for"
        " PostgreSQL cannot show triggers what they write",
        f"ALTER TABLE {parent} DETACH PARTITION {leaf}"
        if row["is_partition"]
        else f"ALTER FOREIGN TABLE {leaf} NO INHERIT {parent}",
    )


async def writers(deployment: Deployment) -> Sequence[Finding]:
    """Whether settings of a role or of the database keep triggers or rings off."""
    async with deployment.connect() as connection:
        rows = await fetch_named(connection, _SETTINGS, column="who")
    found = []
    for who, setting in {(row["who"], row["setting"]) for row in rows}:
        name, _, value = setting.partition("=")
        if (name, value) == ("session_replication_role", "replica"):
            found.append(
                problem(
                    f"{setting} for {who}: no trigger fires on what they write",
                    "remove it with ALTER ROLE or ALTER DATABASE … RESET, and in postgresql.conf",
                )
            )
        elif name in _SWITCHES:
            found += _switched(name, value, f"{setting} for {who}")
    return found or [fine("no setting keeps triggers or rings off")]


def _switched(name: str, value: str, said: str) -> Iterator[Finding]:
    """What a setting of a writer does; it is read as `relay.is_on` reads it."""
    word = value.strip().lower()
    so, cure = _SWITCHES[name]
    cure = f"remove it with ALTER ROLE or ALTER DATABASE … RESET {name}{cure}"
    if word in _ON:
        yield warning(f"{said}: what they write arrives late, {so}", cure)
    elif value and word not in _OFF:
        yield problem(f"{said}: it is neither on nor off, and what they write fails", cure)
