"""`bin/attach` as a person sees it: what is printed, and where.

The work is done by `realtime.attach.attach`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from realtime.attach import attach
from realtime.attach.attach import connected
from realtime.attach.mapping import PlatformMapping

if TYPE_CHECKING:
    from realtime.attach.attach import Connection

Result = TypeVar("Result")
Do = Callable[[Callable[["Connection"], Awaitable[Any]]], Any]
"""Does a work on a connection, and returns its result."""

_NOTHING = "-- Already attached by this mapping and this release: nothing would change.\n"


def run(
    dsn: str, mapping: PlatformMapping | None, *, named: str, apply: bool, detaches_others: bool
) -> None:
    """Print the SQL that attaches by a mapping, or that takes everything off; or run it.

    Args:
        mapping: None to take everything off.
        named: the setting that has the address.
        detaches_others: whether tables may be left that the last mapping named.

    Raises:
        AttachError: what is to be put right. Nothing was changed.
    """
    work = partial(_do, dsn, named)
    if mapping is None:
        _detach(work, apply=apply)
    else:
        _attach(work, mapping, apply=apply, detaches_others=detaches_others)


def _do(dsn: str, named: str, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    return asyncio.run(connected(dsn, work, named))


def _detach(do: Do, *, apply: bool) -> None:
    if apply:
        count = do(lambda connection: attach.detach(connection, say=_say))
        click.echo(f"detached: {count} triggers removed")
    else:
        click.echo(do(attach.removal_script), nl=False)


def _attach(do: Do, mapping: PlatformMapping, *, apply: bool, detaches_others: bool) -> None:
    how = {"detaches_others": detaches_others}
    if apply:
        wanted = do(lambda connection: attach.apply(connection, mapping, say=_say, **how))
        names = ", ".join(f"{table.schema}.{table.name}" for table in mapping.tables.values())
        click.echo(f"{'already attached' if wanted.is_done else 'attached'}: {names}")
    else:
        wanted = do(lambda connection: attach.plan(connection, mapping, **how))
        click.echo(_NOTHING if wanted.is_done else wanted.script, nl=False)
    if wanted.keeps_authorize:
        _say(attach.KEEPS_AUTHORIZE)
    for table in wanted.left:
        _say(f"{table} is attached no longer: what is written there sends nothing")
    for warning in wanted.warnings:
        _say(f"warning: {warning}")


def _say(line: str) -> None:
    """On standard error: standard output has the result."""
    click.echo(line, err=True)
