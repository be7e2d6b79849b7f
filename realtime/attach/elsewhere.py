"""Triggers of ours on tables that the mapping does not name.

A platform may have made them on partitions, so that what is written straight into these is told:
such triggers are made anew with the others. On all other tables they are taken off.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from realtime.attach.state import Attached, AttachedTrigger
    from realtime.postgres.pool import AnyConnection

TRIGGER: Final = re.compile(
    r'^CREATE TRIGGER (\w+|"(?:[^"]|"")+") AFTER \w+ ON (.+)$(?:.|\n)*?'
    r"EXECUTE FUNCTION ([\w.]+)\(.*\);$",
    re.MULTILINE,
)
"""A statement that makes a trigger: its name, the table and the function."""


async def oids_of(connection: AnyConnection, tables: Collection[str]) -> dict[str, int | None]:
    """The oid of each table, by its name as SQL writes it; None: there is none."""
    rows = await connection.fetch(
        "SELECT name, to_regclass(name)::oid AS oid FROM unnest($1::text[]) AS name", list(tables)
    )
    return {row["name"]: row["oid"] for row in rows}


def on_partitions(
    creation: str, now: Attached, oids: Mapping[str, int | None]
) -> dict[AttachedTrigger, str]:
    """The triggers of partitions of mapped tables, and the SQL that makes each of them anew.

    Args:
        creation: the SQL that makes the mapped tables' triggers.
        oids: of the mapped tables.
    """
    return {
        one: _made_anew(one, made)
        for made in TRIGGER.finditer(creation)
        for one in now.triggers
        if one.is_on_partition and (one.root_oid, one.function) == (oids[made[2]], made[3])
    }


def _made_anew(one: AttachedTrigger, made: re.Match[str]) -> str:
    statement = (
        made[0]
        .replace(f"CREATE TRIGGER {made[1]} ", f"CREATE TRIGGER {one.name} ", 1)
        .replace(f" ON {made[2]}\n", f" ON {one.table}\n", 1)
    )
    always = f"ALTER TABLE {one.table} ENABLE ALWAYS TRIGGER {one.name};\n" if one.is_always else ""
    return f"{statement}\n{always}"


def left(
    now: Attached, kept: Collection[AttachedTrigger], oids: Mapping[str, int | None]
) -> dict[str, int]:
    """The tables that are attached no longer, and their oids."""
    return {
        one.table: one.table_oid
        for one in now.triggers
        if one.table_oid not in oids.values() and one not in kept
    }
