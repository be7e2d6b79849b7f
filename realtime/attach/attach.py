"""`bin/attach`: puts the triggers and access functions onto a platform's own tables, or off again.

Everything of ours bears a comment in the catalogue (`MADE_BY`), so what is taken off is exactly
what was put on, by whatever release and mapping. The platform's tables are locked for the blink of
an eye, and never waited for long: see `locks`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from realtime.attach.check import examine
from realtime.attach.elsewhere import TRIGGER, left, oids_of, on_partitions
from realtime.attach.locks import (
    ATTEMPTS,
    LOCK_MILLISECONDS,
    READERS_TOO,
    Say,
    in_a_moment,
    lock,
    say_nothing,
)
from realtime.attach.mapping import PlatformMapping
from realtime.attach.names import OURS, as_meant, use_own_names
from realtime.attach.state import (
    MADE_BY,
    NOT_MADE_HERE,
    Attached,
    AttachError,
    digest_of,
    in_lock_order,
    lock_number,
    read_attached,
)
from realtime.attach.templates import literal, names_made, quoted, render_all, table_name
from realtime.postgres.pool import DATABASE_ERRORS, connect
from realtime.postgres.reasons import STANDBY, why_unreachable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Result = TypeVar("Result")

CONNECT_SECONDS: Final = 10.0
# Where other tables or rows decide from now on, no trigger has told who lost access by that, or
# gained it. Where there were no triggers, none has told of anything: all sockets are closed with
# 1013, and no cursor from before is good any more.
RECHECK: Final = """\
INSERT INTO relay.events (type, code) VALUES ('recheck', 4003), ('grant', NULL);
SELECT relay.ring('attach');
"""
START_OVER: Final = RECHECK.replace("'recheck', 4003", "'eject', 1013")
WHAT_IF_LOCKED: Final = """\
-- If this fails with a lock timeout, a table was in use, and nothing was changed: run it again.
"""
KEEPS_AUTHORIZE: Final = "relay.authorize is your own, and stays as it is"


@dataclass(frozen=True)
class Plan:
    """The SQL that brings a database to where a mapping wants it, in its parts.

    Attributes:
        removal: takes off what was there; empty where nothing was.
        tables: what the statements will lock.
        is_done: nothing is to be done.
        keeps_authorize: the platform's own `relay.authorize` stays.
        left: the tables that are attached no longer.
        warnings: for the person who runs it.
    """

    removal: str
    creation: str
    tables: list[str]
    is_done: bool
    keeps_authorize: bool
    left: list[str]
    warnings: list[str]

    @property
    def script(self) -> str:
        """For psql: all of it in one transaction."""
        return _script(self.tables, self.lock_mode, self.removal + self.creation)

    @property
    def lock_mode(self) -> str:
        """Only a trigger that is dropped has to wait for readers, too."""
        return READERS_TOO if self.removal else "SHARE ROW EXCLUSIVE"


def _script(tables: Sequence[str], mode: str, statements: str) -> str:
    locks = "".join(f"LOCK TABLE ONLY {table} IN {mode} MODE;\n" for table in tables)
    limit = f"SET LOCAL lock_timeout = '{LOCK_MILLISECONDS}ms';\n"
    return f"{WHAT_IF_LOCKED}BEGIN;\n{limit}{OURS}{locks}\n{statements}\nCOMMIT;\n"


async def plan(
    connection: Connection, mapping: PlatformMapping, *, detaches_others: bool = False
) -> Plan:
    """Check the database against the mapping, and render what is to be run.

    Args:
        detaches_others: whether tables may be left that the last mapping named.

    Raises:
        AttachError: it does not fit; every reason has a line.
    """
    async with connection.transaction():
        await use_own_names(connection)
        return await _plan(connection, mapping, detaches_others=detaches_others)


async def _plan(connection: Connection, mapping: PlatformMapping, *, detaches_others: bool) -> Plan:
    now = await read_attached(connection, mapping.server_role)
    if not now.has_this_core:
        raise AttachError("the log is of an older release: run bin/migrate first")
    findings = await examine(connection, mapping, now.owner, asks_us=not now.has_own_authorize)
    if findings.problems:
        raise AttachError(
            "\n  ".join(["the mapping does not fit the database:", *findings.problems])
        )
    grants = list(dict.fromkeys([*now.grants, *findings.grants]))
    functions = "\n".join(findings.functions)
    if functions:
        functions = await as_meant(connection, functions)
    rendered = "\n".join([functions, render_all(mapping, findings.readings)])
    creation = _creation(mapping, rendered, now, grants)
    digest = hashlib.sha256(creation.encode()).hexdigest()
    places = {key: (lock_number(key), False, table_name(mapping, key)) for key in mapping.tables}
    oids = await oids_of(connection, [table for *_, table in places.values()])
    kept = on_partitions(creation, now, oids)
    no_longer = left(now, kept, oids)
    if not detaches_others:
        await _refuse_to_leave(connection, no_longer, now.mapped)
    kept_too = _kept_always(creation, now) + "".join(kept.values())
    authorize, body = _authorize(creation)
    keeps_authorize = now.has_own_authorize and now.authorize != digest_of(body)
    record = {
        "digest": digest,
        "grants": grants,
        "columns": findings.columns,
        "lookups": findings.lookups,
        "ids": findings.ids,
        "authorize": digest_of(body),
        "lets_nobody_in": findings.lets_nobody_in,
    }
    made = creation.replace(authorize, "") if keeps_authorize else creation
    return Plan(
        removal=_removal(now, [], keeps_authorize=keeps_authorize),
        creation="".join(
            [made, kept_too, _comments(creation, record), RECHECK if now.triggers else START_OVER]
        ),
        tables=in_lock_order(
            [
                *places.values(),
                *(one.place for one in now.triggers if one.table_oid not in oids.values()),
            ]
        ),
        is_done=now.digest == digest and await _has_all(connection, creation + kept_too, now),
        keeps_authorize=keeps_authorize,
        left=sorted(no_longer),
        warnings=findings.warnings,
    )


async def _refuse_to_leave(
    connection: Connection, no_longer: Mapping[str, int], mapped: Sequence[str] | None
) -> None:
    """Refuse a mapping that forgets a table. One that gave its place to another has a new name.

    Raises:
        AttachError: which tables these are.
    """
    oids = no_longer.values() if mapped is None else (await oids_of(connection, mapped)).values()
    if forgotten := sorted(name for name, oid in no_longer.items() if oid in oids):
        raise AttachError(
            f"nothing was changed: by this mapping {', '.join(forgotten)} would be attached no"
            " longer, and what is written there would send nothing. There is one table of each"
            " kind (docs/adopting.md). If you mean it, add --detach-others"
        )


async def _has_all(connection: Connection, creation: str, now: Attached) -> bool:
    """Whether each table has its triggers: one may have been renamed, and another have its name."""
    wanted = TRIGGER.findall(creation)
    oids = await oids_of(connection, {table for _, table, _ in wanted})
    found = sorted((one.table_oid, one.function) for one in now.triggers if one.is_enabled)
    return len(found) == len(now.triggers) and found == sorted(
        (oids[table], function) for _, table, function in wanted
    )


def _kept_always(creation: str, now: Attached) -> str:
    """What has the triggers fire for replicated rows again, if a platform has set them so."""
    always = {one.function for one in now.triggers if one.is_always and not one.is_on_partition}
    return "".join(
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name};\n"
        for name, table, function in TRIGGER.findall(creation)
        if function in always
    )


async def apply(
    connection: Connection,
    mapping: PlatformMapping,
    *,
    detaches_others: bool = False,
    attempts: int = ATTEMPTS,
    say: Say = say_nothing,
) -> Plan:
    """Attach, in one transaction: afterwards everything is there, or nothing was changed.

    Args:
        detaches_others: whether tables may be left that the last mapping named.
        say: told once whom it waits for.

    Raises:
        AttachError: it does not fit, or a table stayed locked.
    """

    async def run() -> Plan:
        wanted = await plan(connection, mapping, detaches_others=detaches_others)
        if not wanted.is_done:
            await lock(connection, wanted.tables, wanted.lock_mode)
            await connection.execute(wanted.removal + wanted.creation)
        return wanted

    return await in_a_moment(connection, run, attempts, say)


async def removal_script(connection: Connection) -> str:
    """The SQL that takes everything off, for psql.

    Raises:
        AttachError: the database is not one to attach to.
    """
    async with connection.transaction():
        await use_own_names(connection)
        now = await read_attached(connection, None)
    return _script(now.tables, READERS_TOO, _detaching(now))


async def detach(
    connection: Connection, *, attempts: int = ATTEMPTS, say: Say = say_nothing
) -> int:
    """Take everything off, and say how many triggers that were.

    Args:
        say: told once whom it waits for.

    Raises:
        AttachError: a table stayed locked, or belongs to somebody else.
    """

    async def run() -> Attached:
        now = await read_attached(connection, None)
        await lock(connection, now.tables, READERS_TOO)
        if removal := _detaching(now):
            await connection.execute(removal)
        return now

    detached = await in_a_moment(connection, run, attempts, say)
    if detached.has_own_authorize:
        say(KEEPS_AUTHORIZE)
    return len(detached.triggers)


def _creation(mapping: PlatformMapping, rendered: str, now: Attached, grants: list[str]) -> str:
    """Make the SQL of the functions, the triggers and their rights."""
    lines = [rendered]
    names = _function_names(rendered)
    lines += [f"REVOKE EXECUTE ON FUNCTION {', '.join(names)} FROM PUBLIC;"]
    if now.owner != now.us:
        lines += [f"ALTER FUNCTION {name} OWNER TO {quoted(now.owner)};" for name in names]
    lines += [f"GRANT {grant} TO {quoted(now.owner)};" for grant in grants]
    if mapping.server_role:
        lines += [
            "GRANT EXECUTE ON FUNCTION relay.authenticate, relay.authorize"
            f" TO {quoted(mapping.server_role)};"
        ]
    return "\n".join(lines) + "\n"


def _comments(creation: str, record: dict[str, Any]) -> str:
    """What tells our functions from others, and what the next run has to know."""
    lines = [
        f"COMMENT ON FUNCTION {name} IS {literal(MADE_BY)};" for name in _function_names(creation)
    ]
    return "\n".join(lines) + "\n" + _comment_on_authorize(json.dumps(record))


def _comment_on_authorize(record: str) -> str:
    # A name may hold a quote, of which json makes \": where backslashes mean something, say so.
    text = f"{MADE_BY}\n{record}".replace("\\", "\\\\").replace("'", "''")
    return f"COMMENT ON FUNCTION relay.authorize IS E'{text}';\n"


def _authorize(script: str) -> tuple[str, str]:
    """The statement that makes `relay.authorize`, and the function's body."""
    found = re.search(
        r"^CREATE FUNCTION relay\.authorize\(.*?\$\$(.*?)\$\$;\n", script, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[0], found[1]


def _function_names(script: str) -> list[str]:
    return [f"relay.{name}" for name in names_made("FUNCTION", script)]


def _detaching(now: Attached) -> str:
    """The SQL that takes everything off but what the platform wrote itself."""
    removal = _removal(now, now.grants, keeps_authorize=now.has_own_authorize)
    if not now.has_own_authorize:
        return removal
    record = json.dumps({"authorize": NOT_MADE_HERE})
    return f"{removal}-- {KEEPS_AUTHORIZE}\n{_comment_on_authorize(record)}"


def _removal(now: Attached, grants: list[str], *, keeps_authorize: bool = False) -> str:
    lines = [f"DROP TRIGGER {one.name} ON {one.table};" for one in now.triggers]
    functions = [
        name
        for name in now.functions
        if not (keeps_authorize and name.startswith("relay.authorize("))
    ]
    if functions:
        # All at once, for some are made of others.
        lines += [f"DROP FUNCTION {', '.join(functions)};"]
    lines += [f"REVOKE {grant} FROM {quoted(now.owner)};" for grant in grants]
    return "".join(f"{line}\n" for line in lines)


async def connected(
    dsn: str,
    work: Callable[[Connection], Awaitable[Result]],
    named: str = "DATABASE_URL",
) -> Result:
    """Do `work` on a connection of its own.

    Args:
        named: the setting that has the address.

    Raises:
        AttachError: the database cannot be reached, or refused something.
    """
    try:
        # A mapping's expressions are found by it; all else sets its own (`use_own_names`).
        connection = await connect(dsn, CONNECT_SECONDS, keeps_path=True)
    except DATABASE_ERRORS as error:
        raise AttachError(why_unreachable(error, dsn, named)) from error
    try:
        if await connection.fetchval("SELECT pg_catalog.pg_is_in_recovery()"):
            raise AttachError(STANDBY)
        return await work(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        raise AttachError(
            f"nothing was changed: {error}. Run bin/attach as the role that owns the schema relay,"
            " and grant that role the role that owns the tables (docs/adopting.md, Rights)"
        ) from error
    except DATABASE_ERRORS as error:
        raise AttachError(f"nothing was changed: {error}") from error
    finally:
        await connection.close(timeout=CONNECT_SECONDS)
