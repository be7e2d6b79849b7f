"""Whether the database can be reached, by both of its addresses, and if not, which step fails."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import asyncpg

from realtime.config.address import hosts_of
from realtime.doctor.deployment import Deployment, words
from realtime.doctor.report import Finding, fine, problem
from realtime.postgres.pool import DATABASE_ERRORS
from realtime.postgres.reasons import OTHER_ENCODING, encoding_refused, room_for_connections

_NO_TLS = "rejected SSL upgrade"
_TLS_WANTED = ("no encryption", "SSL off", "SSL required", "encryption required")


async def database(deployment: Deployment) -> Sequence[Finding]:
    """Connect and ask something, by each address, as the server does."""
    found = [await _reach(deployment, "DATABASE_URL", direct=False)]
    if deployment.has_direct:
        found.append(await _reach(deployment, "DATABASE_DIRECT_URL", direct=True))
    return found


async def _reach(deployment: Deployment, name: str, *, direct: bool) -> Finding:
    dsn = deployment.direct_dsn if direct else deployment.dsn
    began = time.perf_counter()
    try:
        async with deployment.connect(direct=direct) as connection:
            await connection.fetchval("SELECT 1")
    except (*DATABASE_ERRORS, ValueError) as error:
        return problem(f"{name}: {_symptom(error, dsn)}", _cure(error, name))
    return fine(f"{name} answers, in {1000 * (time.perf_counter() - began):.0f} ms")


def _symptom(error: Exception, dsn: str) -> str:
    where = urlsplit(dsn)
    hosts = hosts_of(where)
    host = ", ".join(one.name for one in hosts)
    match error:
        case TimeoutError():
            return f"{host} does not answer"
        case socket.gaierror():
            return f"the name {host} is not known here (DNS)"
        case ssl.SSLError():
            return f"the TLS certificate of {host} is not accepted: {error.reason or 'see sslmode'}"
        case FileNotFoundError():
            return "there is no server's socket, or a certificate file is missing"
        case asyncpg.InvalidCatalogNameError():
            return f"the server has no database {where.path.strip('/')!r}"
        case asyncpg.TargetServerAttributeNotMatched():
            return f"none of {host} is a primary"
        case asyncpg.FeatureNotSupportedError():
            return encoding_refused(error)
        case asyncpg.InvalidPasswordError():
            return f"the password for {where.username!r} is wrong"
        case _ if _is_refused(error):
            listed = ", ".join(f"port {one.port} of {one.name}" for one in hosts)
            return f"nothing listens on {listed}"
        case _ if _NO_TLS in str(error):
            return "the server speaks no TLS, which sslmode asks for"
        case _ if any(sign in str(error) for sign in _TLS_WANTED):
            return "the server wants TLS, which sslmode does not offer"
    return words(error)


def _is_refused(error: Exception) -> bool:
    # With several addresses for one name asyncio says all of it in one text.
    return isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(
        error
    )


def _cure(error: Exception, name: str) -> str:
    match error:
        case TimeoutError():
            return f"check the host in {name}, and firewalls between here and there"
        case ssl.SSLError():
            return f"give the CA's certificate with &sslrootcert= in {name}, or correct the host"
        case asyncpg.InvalidCatalogNameError():
            return f"correct the name after the last / of {name}, or make it: CREATE DATABASE"
        case asyncpg.InvalidPasswordError():
            return f"correct the password in {name}; @ : / ? # are written %40 %3A %2F %3F %23"
        case asyncpg.TargetServerAttributeNotMatched():
            return f"name the primary in {name} too, or promote a standby"
        case asyncpg.FeatureNotSupportedError():
            return OTHER_ENCODING
        case asyncpg.TooManyConnectionsError():
            limit = room_for_connections(error)
            return f"close what holds connections (pg_stat_activity), or {limit}"
        case asyncpg.CannotConnectNowError():
            return "wait until the server has started, then run this again"
        case _ if _NO_TLS in str(error):
            return f"turn TLS on at the server (ssl = on), or take ?sslmode= out of {name}"
        case _ if any(sign in str(error) for sign in _TLS_WANTED):
            return f"add ?sslmode=require to {name}"
        case asyncpg.PostgresError():
            return f"correct the role or the database in {name}, or pg_hba.conf at the server"
    return f"start the server, or correct host and port in {name}"
