"""`bin/attach` as a person sees it: what is printed, and where.

The work is done by `realtime.attach.attach`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from realtime.attach import attach
from realtime.attach.attach import connected
from realtime.attach.mapping import PlatformMapping, read_mapping

_NOTHING = "-- Already attached by this mapping and this release: nothing would change.\n"


def run(dsn: str, path: Path | None, *, apply: bool, detach: bool) -> None:
    """Print the SQL that attaches by a mapping, or that takes everything off; or run it.

    Args:
        path: of the mapping; None for the default one.

    Raises:
        AttachError, MappingError: what is to be put right. Nothing was changed.
    """
    if detach:
        _detach(dsn, apply=apply)
    else:
        _attach(dsn, read_mapping(path), apply=apply)


def _detach(dsn: str, *, apply: bool) -> None:
    if apply:
        count = asyncio.run(connected(dsn, lambda connection: attach.detach(connection, say=_say)))
        click.echo(f"detached: {count} triggers removed")
    else:
        click.echo(asyncio.run(connected(dsn, attach.removal_script)), nl=False)


def _attach(dsn: str, mapping: PlatformMapping, *, apply: bool) -> None:
    if apply:
        wanted = asyncio.run(
            connected(dsn, lambda connection: attach.apply(connection, mapping, say=_say))
        )
        names = ", ".join(f"{table.schema}.{table.name}" for table in mapping.tables.values())
        click.echo(f"{'already attached' if wanted.is_done else 'attached'}: {names}")
    else:
        wanted = asyncio.run(connected(dsn, lambda connection: attach.plan(connection, mapping)))
        click.echo(_NOTHING if wanted.is_done else wanted.script, nl=False)
    if wanted.keeps_authorize:
        _say(attach.KEEPS_AUTHORIZE)
    for warning in wanted.warnings:
        _say(f"warning: {warning}")


def _say(line: str) -> None:
    """On standard error: standard output has the result."""
    click.echo(line, err=True)
