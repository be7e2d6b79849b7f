"""`bin/attach` as a person sees it: what is printed, and where.

The work is done by `realtime.attach.attach`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from realtime.attach.attach import apply, connected, detach, plan
from realtime.attach.mapping import read_mapping


def run(dsn: str, path: Path | None, action: str | None) -> None:
    """Print the SQL for a mapping, run it (`apply`), or take everything off (`detach`).

    Args:
        path: of the mapping; None for the default one.

    Raises:
        AttachError, MappingError: what is to be put right. Nothing was changed.
    """
    if action == "detach":
        count = asyncio.run(connected(dsn, detach))
        click.echo(f"detached: {count} triggers removed")
        return
    mapping = read_mapping(path)
    if action == "apply":
        wanted = asyncio.run(connected(dsn, lambda connection: apply(connection, mapping)))
        names = ", ".join(f"{table.schema}.{table.name}" for table in mapping.tables.values())
        click.echo(f"{'already attached' if wanted.is_done else 'attached'}: {names}")
    else:
        wanted = asyncio.run(connected(dsn, lambda connection: plan(connection, mapping)))
        click.echo(wanted.script, nl=False)
    for warning in wanted.warnings:
        click.echo(f"warning: {warning}", err=True)
