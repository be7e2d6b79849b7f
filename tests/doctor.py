"""Asking the doctor in tests: one check by its name, or everything, and what it says."""

from __future__ import annotations

import time
from collections.abc import Callable

from realtime.doctor.checkup import CHECKS
from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Finding, Level

SECRET = "a secret for tests only, of at least 32 bytes"
MANY = 1_000_000


def deployment(
    dsn: str,
    *,
    clock: Callable[[], float] = time.time,
    open_files: int = MANY,
    **environ: str,
) -> Deployment:
    """A deployment at that address; a setting that is "" is unset."""
    given = {"DATABASE_URL": dsn, "JWT_SECRET": SECRET} | environ
    return Deployment.from_environ(given, clock, open_files)


async def ask(name: str, there: Deployment) -> list[Finding]:
    """Make the one check of that name."""
    (check,) = (one for one in CHECKS if one.name == name)
    return list(await check.look(there))


def worst(findings: list[Finding]) -> Level:
    """The worst level found."""
    order = list(Level)
    return max((one.level for one in findings), key=order.index)


def said(findings: list[Finding]) -> str:
    """All that was said, and what is to be done."""
    return "\n".join(f"{one.said} -> {one.cure}" for one in findings)


async def finds(level: Level, name: str, there: Deployment, *parts: str) -> None:
    """Assert that the check's worst finding is of that level, and that it names these parts."""
    findings = await ask(name, there)
    text = said(findings)
    assert worst(findings) is level, text
    assert [part for part in parts if part not in text] == [], text
