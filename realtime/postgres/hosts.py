"""Connects to the server that an address names, or to the primary among several.

asyncpg has one time limit for all hosts together, so a host that does not answer takes the time of
those behind it. Here the next host is tried as soon as one has failed, is a standby, or has not
answered for a moment; the first primary that answers is taken. A name may have several addresses,
which are tried in the same way.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg

from realtime.addresses import addresses_of, first_of
from realtime.config.address import Host, hosts_of, split_address, with_hosts

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_ANY: dict[str, Any] = {"target_session_attrs": "any", "max_cached_statement_lifetime": 0}
"""Whether a server is a primary is found out here, or by who asks for its history. A statement that
was prepared stays so, for as long as the connection: after five minutes, asyncpg would plan it
again."""


async def open_connection(dsn: str, **options: Any) -> Any:
    """What `asyncpg.connect` does, with its arguments; the time limit is each address's own.

    Raises:
        What asyncpg raises, but no bare ValueError. Of several hosts' errors, the one that a person
        can act on.
    """
    address = split_address(dsn)
    assert address is not None  # it is a setting, and was checked
    hosts = hosts_of(address)
    if len(hosts) == 1:
        return await _open_host(dsn, hosts[0], options)
    said: list[str] = []
    attempts = [
        partial(_open_primary, with_hosts(address, [host]), host, options, said) for host in hosts
    ]
    try:
        return await first_of(attempts, usefulness=_usefulness, discard=_end)
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise asyncpg.TargetServerAttributeNotMatched(
            f"no host is a primary ({'; '.join(said)})"
        ) from error


class _ToAddress:
    """The event loop, but for where connections to a host lead: to one address of it.

    For all else it stays that host: for the certificate that it must have, and for its password in
    the file of passwords. A query that is cancelled is cancelled at the same address.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self._loop = loop
        self._address = address

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def create_connection(self, factory: Any, _host: str, port: int, **options: Any) -> Any:
        return self._loop.create_connection(factory, self._address, port, **options)


async def _open_host(dsn: str, host: Host, options: dict[str, Any]) -> Connection:
    """Connect to one host, at the first of its addresses that answers."""
    if host.name.startswith("/"):
        return await _open(dsn, options)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(options.get("timeout")):
            addresses = await addresses_of(host.name, host.port)
    except UnicodeError as error:
        raise _not_a_host(error) from error
    attempts = [
        partial(_open, dsn, {**options, "loop": _ToAddress(loop, one)}) for one in addresses
    ]
    return await first_of(attempts, usefulness=_usefulness, discard=_end)


async def _open(dsn: str, options: dict[str, Any]) -> Connection:
    try:
        return await asyncpg.connect(dsn, **_ANY, **options)
    except OSError as error:
        _name_the_socket(error, dsn)
        raise
    except asyncpg.InterfaceError:
        raise  # some of these are ValueErrors, too
    except ValueError as error:
        raise _not_a_host(error) from error


def _not_a_host(error: ValueError) -> asyncpg.ClientConfigurationError:
    """For what was not checked: PGPORT, which fills in a port, and names that are none for DNS."""
    return asyncpg.ClientConfigurationError(f"a host or a port is not one ({error})")


def _name_the_socket(error: OSError, dsn: str) -> None:
    """Add which Unix socket an error is about; over TCP the address is in the text."""
    (host,) = hosts_of(urlsplit(dsn))
    if not host.name.startswith("/") or error.errno is None or error.filename is not None:
        return
    path = Path(host.name) / f".s.PGSQL.{host.port}"
    # Without its path, too: a certificate's file that is missing.
    if not isinstance(error, FileNotFoundError) or not path.exists():
        error.filename = str(path)


async def _open_primary(
    dsn: str, host: Host, options: dict[str, Any], said: list[str]
) -> Connection:
    """Connect to one host of several; why that cannot be is added to what they `said`."""
    place = f"port {host.port} of {host.name}"
    try:
        connection = await _open_host(dsn, host, options)
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


def _end(connection: Connection) -> None:
    connection.terminate()


def _usefulness(error: BaseException) -> int:
    """A server that answers says more than one that does not."""
    if isinstance(error, asyncpg.PostgresError):
        return 1 if isinstance(error, asyncpg.CannotConnectNowError) else 3
    return 2 if isinstance(error, asyncpg.TargetServerAttributeNotMatched) else 0
