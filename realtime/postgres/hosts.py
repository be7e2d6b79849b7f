"""Connects to the server that an address names, or to the primary among several.

asyncpg has one time limit for all hosts together, so a host that does not answer takes the time of
those behind it. Here the next host is tried as soon as one has failed, is a standby, or has not
answered for a moment; the first primary that answers is taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from realtime.config.address import Host, hosts_of, split_address, with_hosts

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    Opener = Callable[[], Awaitable[Connection]]

_ANY: dict[str, Any] = {"target_session_attrs": "any", "max_cached_statement_lifetime": 0}
"""Whether a server is a primary is found out here, or by who asks for its history. A statement that
was prepared stays so, for as long as the connection: after five minutes, asyncpg would plan it
again."""
STAGGER_SECONDS = 0.25
"""How long a host may take to answer until the next one is tried beside it."""


async def open_connection(dsn: str, **options: Any) -> Any:
    """What `asyncpg.connect` does, with its arguments; the time limit is each host's own.

    Raises:
        What asyncpg raises, but no bare ValueError. Of several hosts' errors, the one that a person
        can act on.
    """
    address = split_address(dsn)
    assert address is not None  # it is a setting, and was checked
    hosts = hosts_of(address)
    if len(hosts) == 1:
        return await _open(dsn, options)
    said: list[str] = []
    openers = [
        partial(_open_primary, with_hosts(address, [host]), host, options, said) for host in hosts
    ]
    try:
        return await first_of(openers, stagger=STAGGER_SECONDS)
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise asyncpg.TargetServerAttributeNotMatched(
            f"no host is a primary ({'; '.join(said)})"
        ) from error


async def _open(dsn: str, options: dict[str, Any]) -> Connection:
    try:
        return await asyncpg.connect(dsn, **_ANY, **options)
    except (OSError, asyncpg.InterfaceError):
        raise  # some of these are ValueErrors, too
    except ValueError as error:
        # What was not checked: PGPORT, which fills in a port, and names that are none for DNS.
        raise asyncpg.ClientConfigurationError(f"a host or a port is not one ({error})") from error


async def _open_primary(
    dsn: str, host: Host, options: dict[str, Any], said: list[str]
) -> Connection:
    """Connect to one host of several; why that cannot be is added to what they `said`."""
    place = f"port {host.port} of {host.name}"
    try:
        connection = await _open(dsn, options)
    except Exception as error:
        said.append(f"{place}: {type(error).__name__}")
        raise
    try:
        is_standby = await connection.fetchval("SELECT pg_catalog.pg_is_in_recovery()")
    except BaseException:
        connection.terminate()
        raise
    if is_standby:
        connection.terminate()
        said.append(f"{place} is a standby")
        raise asyncpg.TargetServerAttributeNotMatched(said[-1])
    return connection


async def first_of(openers: Sequence[Opener], *, stagger: float) -> Connection:
    """The first connection that is made; each attempt begins a moment after the one before."""
    waiting = [*openers]
    running: set[asyncio.Future[Connection]] = set()
    errors: list[BaseException] = []
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(waiting.pop(0)()))
            done, running = await asyncio.wait(
                running,
                timeout=stagger if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            errors += [error for one in done if (error := one.exception())]
            made = [one.result() for one in done if one.exception() is None]
            for other in made[1:]:
                other.terminate()
            if made:
                return made[0]
    finally:
        for one in running:
            one.add_done_callback(_discard)
            one.cancel()
    raise max(errors, key=_usefulness)


def _discard(attempt: asyncio.Future[Connection]) -> None:
    """Close a connection that was made too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()


def _usefulness(error: BaseException) -> int:
    """A server that answers says more than one that does not."""
    if isinstance(error, asyncpg.PostgresError):
        return 1 if isinstance(error, asyncpg.CannotConnectNowError) else 3
    return 2 if isinstance(error, asyncpg.TargetServerAttributeNotMatched) else 0
