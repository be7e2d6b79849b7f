"""What `bin/attach` finds in a database: whether it can attach there, and what it left last time.

Functions of ours are told from others by their comment in the catalogue.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from realtime.attach.templates import default_names
from realtime.errors import CommandError

if TYPE_CHECKING:
    from realtime.postgres.pool import AnyConnection

MADE_BY: Final = "Made by bin/attach; bin/attach --detach takes it off."
LOCK_ORDER: Final = ("messages", "documents", "permissions", "bots", "users")
"""In which order the tables are locked: that of a writer, whose foreign keys lead from a message to
its bot and on to its user. In another one, each of the two would wait for the other."""
NOT_MADE_HERE: Final = ""
"""No digest: it stands for a `relay.authorize` of the platform's that stayed when all else went."""

# What the last run wrote down about a platform's rights. It is run again, so nothing else will do.
_NAME: Final = r'(?:[a-z_]+|"(?:[^"]|"")+")'
_GRANT: Final = re.compile(rf"USAGE ON SCHEMA {_NAME}|SELECT ON TABLE {_NAME}\.{_NAME}")

_STATE: Final = """
SELECT to_regclass('relay.events') IS NOT NULL AS has_core,
       to_regprocedure('relay.json_data(text)') IS NOT NULL AS has_this_core,
       to_regprocedure('relay.authorize(uuid,uuid)') IS NOT NULL AS has_access,
       obj_description(to_regprocedure('relay.authorize(uuid,uuid)'), 'pg_proc') AS comment,
       (SELECT prosrc FROM pg_proc
         WHERE oid = to_regprocedure('relay.authorize(uuid,uuid)')) AS authorize,
       (SELECT pg_get_userbyid(relowner) FROM pg_class
         WHERE oid = to_regclass('relay.events')) AS owner,
       (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class
         WHERE oid = to_regclass('relay.events')) AS is_ours,
       current_user::text AS us,
       $1::text IS NULL OR EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS has_server_role
"""
_FUNCTIONS: Final = """
SELECT p.oid, format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
           AS name
  FROM pg_proc AS p
  JOIN pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname = 'relay'
"""
_OURS: Final = f"{_FUNCTIONS} AND starts_with(obj_description(p.oid, 'pg_proc'), $1)"
# A restore without comments has lost the marks. Then the names tell, where the reference tables
# were never made: their functions have the same.
_UNMARKED: Final = f"""{_FUNCTIONS}
   AND (p.proname = ANY ($1::text[]) OR p.proname LIKE 'mapped\\_%')
   AND to_regprocedure('relay.users_updated()') IS NOT NULL
   AND NOT EXISTS (SELECT FROM relay.alembic_version WHERE version_num LIKE 'reference%')
"""
_STILL_THERE: Final = """
SELECT g FROM unnest($1::text[]) WITH ORDINALITY AS u (g, number)
 WHERE CASE WHEN starts_with(g, 'USAGE ON SCHEMA ')
            THEN to_regnamespace(replace(g, 'USAGE ON SCHEMA ', '')) IS NOT NULL
            ELSE to_regclass(replace(g, 'SELECT ON TABLE ', '')) IS NOT NULL END
 ORDER BY number
"""
_TRIGGERS: Final = """
SELECT quote_ident(t.tgname) AS name, format('%I.%I', n.nspname, c.relname) AS relation,
       t.tgrelid AS relation_oid,
       coalesce(pg_partition_root(t.tgrelid)::oid, t.tgrelid) AS root_oid,
       t.tgfoid::regproc::text AS function,
       t.tgenabled IN ('O', 'A') AS is_enabled, t.tgenabled = 'A' AS is_always
  FROM pg_trigger AS t
  JOIN pg_class AS c ON c.oid = t.tgrelid
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE t.tgfoid = ANY ($1::oid[]) AND NOT t.tgisinternal AND t.tgparentid = 0
 ORDER BY relation, name
"""


Place = tuple[int, bool, str]
"""Of a table in the order of locks: its number there, whether it is a partition, and its name."""


def lock_number(kind: str) -> int:
    """Which number a table of that kind has in the order of locks; one of another kind is last."""
    return LOCK_ORDER.index(kind) if kind in LOCK_ORDER else len(LOCK_ORDER)


def in_lock_order(places: Iterable[Place]) -> list[str]:
    """The names of the tables, each at its first place."""
    return list(dict.fromkeys(table for *_, table in sorted(places)))


class AttachError(CommandError):
    """Nothing was changed; the text says why, and what to do."""


class AttachedTrigger(NamedTuple):
    """One of ours on a table of the platform.

    Attributes:
        name, table: in SQL's spelling.
        root_oid: of the table that it is a partition of, directly or not; or its own.
        is_always: whether it fires for replicated rows, too (`ENABLE ALWAYS`).
    """

    name: str
    table: str
    table_oid: int
    root_oid: int
    function: str
    is_enabled: bool
    is_always: bool

    @property
    def is_on_partition(self) -> bool:
        return self.root_oid != self.table_oid

    @property
    def place(self) -> Place:
        """The table's, by what the trigger is for. Each table has one that says so."""
        kind = self.function.removeprefix("relay.").partition("_")[0]
        return lock_number(kind), self.is_on_partition, self.table


@dataclass(frozen=True)
class Attached:
    """What of ours is in the database now.

    Attributes:
        digest: of the SQL that the last run ended with; None where there was none.
        mapped: the tables of that run's mapping, as SQL names them; None where it does not say.
        grants: what that run gave the owner, as far as it is there to be taken back.
        owner: who owns the schema's objects, and whom the functions run as.
        has_this_core: whether the log has what this release's functions call.
        has_own_authorize: whether the platform has put a `relay.authorize` of its own in place of
            ours, which decides who may watch a bot, and stays.
        authorize: the digest of its body; None where there is none.
    """

    digest: str | None
    mapped: list[str] | None
    grants: list[str]
    functions: list[str]
    triggers: list[AttachedTrigger]
    owner: str
    us: str
    has_this_core: bool
    has_own_authorize: bool
    authorize: str | None

    @property
    def tables(self) -> list[str]:
        """The tables that have triggers of ours, in the order in which they are locked."""
        return in_lock_order(one.place for one in self.triggers)


async def read_attached(connection: AnyConnection, server_role: str | None) -> Attached:
    """Read what is attached to the database.

    Raises:
        AttachError: the database is not one to attach to.
    """
    state = await connection.fetchrow(_STATE, server_role)
    assert state is not None
    if not state["has_core"]:
        raise AttachError("the log is not there yet: run bin/migrate --core")
    ours = await connection.fetch(_OURS, MADE_BY)
    if not ours and state["has_access"] and state["is_ours"]:
        ours = await connection.fetch(_UNMARKED, default_names("FUNCTION"))
    if state["has_access"] and not ours:
        raise AttachError(
            "relay.authorize is there, but bin/attach did not make it. This database has the"
            " reference tables (python -m alembic downgrade reference@base, with the project's"
            " Python and this DATABASE_URL, drops them with their rows), or"
            " functions that you wrote: drop those first"
        )
    if not state["is_ours"]:
        raise AttachError(
            f"the schema relay belongs to {state['owner']}: run bin/attach with their rights"
        )
    if not state["has_server_role"]:
        raise AttachError(f"server_role: there is no role {server_role}")
    triggers = await connection.fetch(_TRIGGERS, [row["oid"] for row in ours])
    is_marked = (state["comment"] or "").startswith(MADE_BY)
    record = read_record(state["comment"])
    grants = [one for one in record.get("grants", []) if _GRANT.fullmatch(str(one))]
    return Attached(
        digest=record.get("digest"),
        mapped=list(record["columns"]) if "columns" in record else None,
        grants=[row["g"] for row in await connection.fetch(_STILL_THERE, grants)],
        functions=[row["name"] for row in ours],
        triggers=[AttachedTrigger(*row) for row in triggers],
        owner=state["owner"],
        us=state["us"],
        has_this_core=state["has_this_core"],
        has_own_authorize=is_own(record, state["authorize"])
        or (state["has_access"] and not is_marked),
        authorize=None if state["authorize"] is None else digest_of(state["authorize"]),
    )


def is_own(record: Mapping[str, Any], body: str | None) -> bool:
    """Whether the body of `relay.authorize` is another than the one that was made here last.

    Args:
        record: what that run wrote down. One of 0.1.0 does not say.
    """
    made = record.get("authorize")
    return made is not None and body is not None and made != digest_of(body)


def digest_of(body: str) -> str:
    """What tells one function's body from another."""
    return hashlib.sha256(body.encode()).hexdigest()


def read_record(comment: str | None) -> dict[str, Any]:
    """What the last run wrote down, in the comment on `relay.authorize`, if that is ours."""
    first, _, text = (comment or "").partition("\n")
    if first != MADE_BY:
        return {}
    found: dict[str, Any] = json.loads(text) if text else {}
    return found
