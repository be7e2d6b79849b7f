"""Why PostgreSQL did not do what a command wanted, in one line that says what to do about it."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import asyncpg

from realtime.config.address import hosts_of

_NO_TLS = "rejected SSL upgrade"
_TLS_WANTED = ("no encryption", "SSL off", "SSL required", "encryption required")


class Reason(NamedTuple):
    """Why there is no connection."""

    said: str
    """What is the case; no password is in it."""
    cure: str
    """What to do."""


def why_unreachable(error: BaseException, dsn: str, named: str = "DATABASE_URL") -> str:
    """Why there is no connection, in one line; as of `reason_of`."""
    said, cure = reason_of(error, dsn, named)
    where = "" if isinstance(error, asyncpg.PostgresError) else "the database cannot be reached: "
    return f"{where}{said}; {cure}"


def reason_of(error: BaseException, dsn: str, named: str) -> Reason:
    """Why there is no connection.

    Args:
        dsn: the address.
        named: the setting that has it.
    """
    if isinstance(error, asyncpg.PostgresError):
        return _why_refused_by_server(error, dsn, named)
    return _why_no_answer(error, dsn, named)


def _why_no_answer(error: BaseException, dsn: str, named: str) -> Reason:
    hosts = hosts_of(urlsplit(dsn))
    host = ", ".join(one.name for one in hosts)
    said, cure = words(error), f"start the server, or correct host and port in {named}"
    match error:
        case TimeoutError():
            said = f"{host} does not answer"
            cure = f"check the host in {named}, and firewalls between here and there"
        case socket.gaierror():
            said = f"the name {host} is not known here (DNS)"
        case ssl.SSLCertVerificationError():
            said = (
                f"the TLS certificate of {host} is not accepted: {error.verify_message.rstrip('.')}"
            )
            cure = _certificate_cure(error, named)
        case ssl.SSLError():
            said = f"there is no TLS with {host}: {error.reason or 'see sslmode'}"
            cure = f"give the CA's certificate with &sslrootcert= in {named}, or correct the host"
        case FileNotFoundError(filename=str(path)):  # as `hosts` names it
            said = f"there is no server's socket {path}"
            cure = f"start the server, or correct the host in {named}"
        case FileNotFoundError():
            said = "there is no server's socket, or a certificate's file is missing"
            cure = (
                f"start the server, or correct the host, sslrootcert, sslcert, sslkey or sslcrl in"
                f" {named}"
            )
        case asyncpg.TargetServerAttributeNotMatched():
            cure = f"name the primary in {named} too, or promote a standby"
        case ValueError():  # what the driver says of an address, before it connects
            cure = f"correct {named}, or PGPORT and the like, which fill in what {named} leaves out"
        case _ if _is_refused(error):
            listed = ", ".join(f"port {one.port} of {one.name}" for one in hosts)
            said = f"nothing listens on {listed}"
        case _ if _NO_TLS in str(error):
            said = "the server speaks no TLS, which sslmode asks for"
            cure = f"turn TLS on at the server (ssl = on), or take ?sslmode= out of {named}"
    return Reason(said, cure)


def _certificate_cure(error: ssl.SSLCertVerificationError, named: str) -> str:
    """What to do about a certificate; the codes are OpenSSL's (X509_V_ERR_...)."""
    match error.verify_code:
        case 9:  # not yet valid
            return "set the clock here and at the server right; one of them is behind"
        case 10:  # expired
            return "renew the server's certificate"
        case 62 | 64:  # another name, another address
            return f"write the host in {named} as the certificate names it"
        case 18 | 19 | 20 | 21:  # its issuer is not known here
            return f"give the certificate of the CA that signed it with &sslrootcert= in {named}"
    return f"renew the server's certificate, or give its CA's with &sslrootcert= in {named}"


def _is_refused(error: BaseException) -> bool:
    # With several addresses for one name asyncio says all of it in one text.
    return isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(
        error
    )


def _why_refused_by_server(error: asyncpg.PostgresError, dsn: str, named: str) -> Reason:
    said, cure = words(error), f"check {named}, and that the server is up"
    match error:
        case asyncpg.InvalidCatalogNameError():
            cure = f"correct the name after the last / of {named}, or make it: CREATE DATABASE"
        case asyncpg.InvalidPasswordError():
            said = f"the password for {urlsplit(dsn).username!r} is wrong"
            cure = f"correct the password in {named}; @ : / ? # are written %40 %3A %2F %3F %23"
        case asyncpg.FeatureNotSupportedError():
            said, cure = encoding_refused(error), OTHER_ENCODING
        case asyncpg.TooManyConnectionsError():
            limit = room_for_connections(error)
            cure = f"close what holds connections (pg_stat_activity), or {limit}"
        case asyncpg.CannotConnectNowError():
            cure = "wait until the server has started, then run this again"
        case asyncpg.InsufficientPrivilegeError():
            cure = (
                f"grant it to the role of {named} (bin/doctor lists all that it needs), or ask the"
                " host of the database"
            )
        case asyncpg.LockNotAvailableError() | asyncpg.QueryCanceledError():
            said = f"the database was reached, but a table stayed locked ({error})"
            cure = "bin/doctor names who holds it"
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedFunctionError():
            said = f"the database was reached, but lacks what a server needs ({error})"
            cure = "run bin/doctor, which names what is missing"
        case _ if any(sign in str(error) for sign in _TLS_WANTED) and not _offers_tls(dsn):
            said = "the server wants TLS, which sslmode does not offer"
            cure = f"write sslmode=require in {named}"
        case _ if "pg_hba.conf" in str(error):
            cure = (
                "let this client in with a line for it, the role and the database in pg_hba.conf"
                f" at the server, or correct {named}. If there is one for TLS (hostssl), write"
                f" ?sslmode=require in {named}"
            )
        case _ if any(sign in str(error) for sign in _TLS_WANTED):
            cure = f"write ?sslmode=require in {named}"
        case asyncpg.InvalidAuthorizationSpecificationError():
            cure = f"correct the role or the database in {named}, or pg_hba.conf at the server"
    return Reason(said, cure)


def _offers_tls(dsn: str) -> bool:
    """Whether TLS was tried: by default it is, and where that is refused, a way without it."""
    modes = parse_qs(urlsplit(dsn).query).get("sslmode", ["prefer"])
    return modes[-1] not in ("disable", "allow")


def words(error: BaseException) -> str:
    """The text of an error, in one line. It never contains an address or a password."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # The libraries' own texts may have a second line, with advice for programmers.
    text = " ".join(str(error).split())
    if isinstance(error, asyncpg.PostgresError):
        return f"PostgreSQL says: {text}"
    return type(error).__name__ if isinstance(error, TimeoutError) else text


STANDBY = "this server is a standby, which cannot be changed: name the primary"
"""For commands that write."""
OTHER_ENCODING = (
    "run CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and restore a dump into that"
    " database"
)
"""What to do about a database whose encoding is refused."""


def encoding_refused(error: BaseException) -> str:
    """The encoding of a database, as MULE_INTERNAL, which PostgreSQL does not turn into UTF-8."""
    return f"PostgreSQL cannot write this database's text as UTF-8 ({error})"


_LIMITED_BY = {"InitializeSessionUserId": "role", "CheckMyDatabase": "database"}
"""Whose limit of connections was reached, by the function of PostgreSQL that says so: all have one
SQLSTATE, and the text may be in any language."""


def room_for_connections(error: asyncpg.TooManyConnectionsError) -> str:
    """What to raise where PostgreSQL has too many connections."""
    kind = _LIMITED_BY.get(error.server_source_function or "")
    if kind is None:
        return "raise max_connections"
    return f"raise that {kind}'s limit (ALTER {kind.upper()} ... CONNECTION LIMIT)"


def why_refused(error: BaseException, role: str) -> str:
    """Why a step was refused; nothing was changed by it."""
    match error:
        case asyncpg.InsufficientPrivilegeError():
            return (
                f"nothing was changed: {error}, as the role {role}. Run this as the role that owns"
                " the database or the schema relay, or grant what is missing"
            )
        case asyncpg.ReadOnlySQLTransactionError():
            return (
                "nothing was changed: the database is read-only (default_transaction_read_only is"
                " on). Some hosts set this when the disk is full: make room, then run this again"
            )
        case asyncpg.DuplicateObjectError() | asyncpg.DuplicateTableError():
            return (
                f"nothing was changed: {error}, and relay.alembic_version does not know of it. Was"
                " that table emptied, or left out of a dump? Restore its rows. If they are lost,"
                " make the log anew: DROP SCHEMA relay CASCADE, then bin/migrate --core, then"
                " bin/attach --apply, also for the tables that bin/migrate made (docs/upgrading.md,"
                " Back up and restore)"
            )
    return f"the migration failed, and changed nothing: {error}"
