"""The list of checks, and how they are made: one after another, each with a limit of time.

A check that needs another is left out where that one found a problem.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import asyncpg

from realtime.doctor import (
    access,
    activity,
    channels,
    columns,
    environment,
    expressions,
    log,
    loop,
    owners,
    pooler,
    reach,
    rights,
    row_security,
    schema,
    server,
    triggers,
)
from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, Level, Line, Report, problem
from realtime.postgres.pool import DATABASE_ERRORS
from realtime.postgres.reasons import words

CHECK_SECONDS = 30.0


class Check(NamedTuple):
    """A check: its name in the report, what it does, and which one must have gone well before."""

    name: str
    look: Callable[[Deployment], Awaitable[Sequence[Finding]]]
    needs: str = ""


CHECKS = (
    Check("settings", environment.settings),
    Check("token keys", environment.token_keys, "settings"),
    Check("open files", environment.open_files, "settings"),
    Check("database", reach.database),
    Check("version", server.version, "database"),
    Check("primary", server.primary, "database"),
    Check("one database", server.one_database, "primary"),
    Check("listening", pooler.listening, "primary"),
    Check("connections", server.connections, "primary"),
    Check("pool size", pooler.room, "primary"),
    Check("clock", server.clock, "primary"),
    Check("durability", server.durability, "primary"),
    Check("notify queue", activity.notify_queue, "primary"),
    Check("transactions", activity.transactions, "primary"),
    Check("locks", activity.locks, "primary"),
    Check("schema", schema.schema, "primary"),
    Check("migrations", schema.migrations, "schema"),
    Check("rights", rights.rights, "schema"),
    Check("owners", owners.owners, "schema"),
    Check("channels", channels.channels, "schema"),
    Check("row security", row_security.row_security, "migrations"),
    Check("access", access.access, "migrations"),
    Check("triggers", triggers.triggers, "migrations"),
    Check("columns", columns.columns, "migrations"),
    Check("expressions", expressions.expressions, "migrations"),
    Check("partitions", triggers.partitions, "migrations"),
    Check("writers", triggers.writers, "migrations"),
    Check("log", log.log, "schema"),
    Check("restored dump", log.restored_dump, "schema"),
    Check("doorbell", log.doorbell, "schema"),
    Check("processes", log.processes, "schema"),
    Check("full loop", loop.full_loop, "migrations"),
)


async def examine(deployment: Deployment) -> Report:
    """Make every check that can be made."""
    lines: list[Line] = []
    skipped: list[str] = []
    bad: set[str] = set()
    for check in CHECKS:
        if check.needs in bad:
            skipped.append(check.name)
            bad.add(check.name)
            continue
        findings = await _look(check, deployment)
        lines += [Line(check.name, finding) for finding in findings]
        if any(finding.level is Level.PROBLEM for finding in findings):
            bad.add(check.name)
    return Report(lines, skipped)


async def _look(check: Check, deployment: Deployment) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check.look(deployment)
    except asyncpg.InsufficientPrivilegeError as error:
        return [
            problem(
                f"this role lacks a right to check this: {error}",
                "grant the role of DATABASE_URL the rights that docs/security.md lists",
            )
        ]
    except (TimeoutError, asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError):
        # Whose limit ends it first is chance: ours, or the server's for a lock or a statement.
        return [
            problem(
                "the database did not answer in time",
                "look for locks and load (pg_stat_activity, pg_locks), then run this again",
            )
        ]
    except asyncpg.UntranslatableCharacterError as error:
        return [
            problem(
                f"this could not be checked, for a name cannot be written as UTF-8: {words(error)}",
                "look for a role that was named in a database of another encoding, and rename it"
                " there (ALTER ROLE … RENAME TO)",
            )
        ]
    except DATABASE_ERRORS as error:
        return [problem(f"this could not be checked: {words(error)}", "then run this again")]
