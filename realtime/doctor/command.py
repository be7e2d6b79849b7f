"""The command `doctor`: makes the deployment from the environment, and prints what was found."""

from __future__ import annotations

import asyncio
import resource
import shutil
import sys
import time
from collections.abc import Mapping

import click

from realtime.config.settings import SettingsError
from realtime.doctor.checkup import examine
from realtime.doctor.deployment import Deployment
from realtime.doctor.explain import Explanation
from realtime.doctor.explain import explain as explain_event
from realtime.doctor.report import Line, Report, problem
from realtime.errors import CommandError
from realtime.installation import as_called
from realtime.postgres.pool import DATABASE_ERRORS
from realtime.postgres.reasons import words

EXPLAIN_SECONDS = 200.0


class DoctorError(CommandError):
    """The question cannot be answered; the text is one line."""


def run(
    environ: Mapping[str, str], *, as_json: bool, explain: tuple[tuple[int, int | None], str] | None
) -> int:
    """Check everything, or explain one event; returns the exit code.

    Raises:
        SettingsError, DoctorError: an event cannot be explained without the database.
    """
    found: Report | Explanation
    found = _examine(environ) if explain is None else _explain(_deployment(environ), *explain)
    click.echo(as_called(found.json()) if as_json else found.text(_columns()))
    return found.exit_code


def _columns() -> int | None:
    """How wide the terminal is; None where there is none, for programs read lines as they are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _deployment(environ: Mapping[str, str]) -> Deployment:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # -1 stands for no limit.
    return Deployment.from_environ(environ, time.time, soft if soft >= 0 else 2**31)


def _examine(environ: Mapping[str, str]) -> Report:
    try:
        deployment = _deployment(environ)
    except SettingsError as error:
        cure = "set it in the server's environment or ENV_FILE; nothing else can be checked before"
        return Report([Line("settings", problem(str(error), cure))], ["everything else"])
    return asyncio.run(examine(deployment))


def _explain(deployment: Deployment, event_id: tuple[int, int | None], user: str) -> Explanation:
    try:
        return asyncio.run(_in_time(deployment, event_id, user))
    except DATABASE_ERRORS as error:
        raise DoctorError(
            f"the database cannot be asked ({words(error)}); bin/doctor alone says more"
        ) from error


async def _in_time(
    deployment: Deployment, event_id: tuple[int, int | None], user: str
) -> Explanation:
    async with asyncio.timeout(EXPLAIN_SECONDS):
        number, written_at = event_id
        return await explain_event(deployment, number, user, written_at)
