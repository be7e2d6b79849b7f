"""The doctor before a database that cannot be reached, and one that is no primary."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from realtime.doctor.checkup import examine
from realtime.doctor.report import Level
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.reasons import why_unreachable
from tests.commands import free_port
from tests.doctor import ask, deployment, finds
from tests.platform import Platform
from tests.postgres import postgres_server, restart
from tests.waiting import LIMIT

RULES = """
local   all all         trust
hostssl all encrypted   all trust
host    all all         all scram-sha-256
"""


class Networked(NamedTuple):
    """A server on a loopback address of its own, with a password and rules about TLS."""

    server: EmbeddedPostgres
    host: str

    def dsn(self, role: str = "someone", password: str = "sesame", database: str = "app") -> str:
        return f"postgresql://{role}:{password}@{self.host}:5432/{database}"


def write_certificate(directory: Path) -> None:
    """One that nobody has signed but itself, as many servers have."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "database")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (directory / "server.key").write_bytes(private)
    (directory / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    owner = directory.stat()
    with suppress(PermissionError):
        for path in directory.glob("server.*"):
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)


@pytest.fixture(scope="module")
def tcp_postgres(postgres_bin: Path | None) -> Iterator[Networked]:
    """TLS is off until a test turns it on."""
    host = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
    with postgres_server(postgres_bin, listen_addresses=host) as server:
        (server.data_directory / "pg_hba.conf").write_text(RULES)
        server.sql("CREATE ROLE someone LOGIN PASSWORD 'sesame'")
        server.sql("CREATE ROLE encrypted LOGIN PASSWORD 'sesame'")
        server.sql("CREATE DATABASE app")
        server.sql("SELECT pg_reload_conf()")
        yield Networked(server, host)


async def unreachable(dsn: str, *parts: str) -> None:
    """It is named, nothing else is looked at, and the password is not repeated."""
    await finds(Level.PROBLEM, "database", deployment(dsn), *parts)
    report = await examine(deployment(dsn))
    assert report.exit_code == 1
    assert {"version", "triggers", "full loop"} <= set(report.skipped)
    assert "sesame" not in report.text() + report.json()


@pytest.mark.gen_test
async def test_nothing_listens() -> None:
    """The port and the host are named."""
    port = free_port()
    dsn = f"postgresql://someone:sesame@127.0.0.1:{port}/app"
    await unreachable(dsn, f"nothing listens on port {port} of 127.0.0.1", "start the server")


@pytest.mark.gen_test
async def test_a_name_with_several_addresses() -> None:
    """As localhost has, of which each refuses."""
    dsn = f"postgresql://someone:sesame@localhost:{free_port()}/app"
    await unreachable(dsn, "nothing listens on port", "of localhost")


@pytest.mark.gen_test
async def test_a_socket_that_is_not_there() -> None:
    """A directory in place of a host."""
    dsn = "postgresql://someone:sesame@/app?host=/nonexistent&port=5433"
    await unreachable(dsn, "no server's socket /nonexistent/.s.PGSQL.5433 ", "correct the host")


@pytest.mark.gen_test
async def test_a_name_that_nobody_knows() -> None:
    """RFC 6761 keeps the top-level domain `invalid` for that."""
    dsn = "postgresql://someone:sesame@database.invalid/app"
    await unreachable(dsn, "the name database.invalid is not known")


@pytest.mark.gen_test
async def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else listens there, or a firewall swallows what is sent."""
    monkeypatch.setattr("realtime.doctor.deployment.STATEMENT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        dsn = f"postgresql://someone:sesame@127.0.0.1:{mute.getsockname()[1]}/app"
        await unreachable(dsn, "127.0.0.1 does not answer", "firewalls")


@pytest.mark.gen_test
async def test_a_wrong_password(tcp_postgres: Networked) -> None:
    """Of whom, and how to write one that has special characters."""
    await finds(Level.FINE, "database", deployment(tcp_postgres.dsn()))
    wrong = tcp_postgres.dsn(password="open-sesame")
    await unreachable(wrong, "the password for 'someone' is wrong", "%40")


@pytest.mark.gen_test
async def test_a_wrong_database(tcp_postgres: Networked) -> None:
    """The name that does not exist."""
    await unreachable(tcp_postgres.dsn(database="apq"), 'database "apq" does not exist', "CREATE")


@pytest.mark.gen_test
async def test_a_server_without_tls(tcp_postgres: Networked) -> None:
    """Which sslmode insists on."""
    await unreachable(
        f"{tcp_postgres.dsn()}?sslmode=require", "the server speaks no TLS", "ssl = on"
    )


@pytest.mark.gen_test
async def test_a_server_with_tls(tcp_postgres: Networked, tmp_path: Path) -> None:
    """It may insist on it, and its certificate may be nobody's."""
    server = tcp_postgres.server
    if server.sql("SELECT setting FROM pg_settings WHERE name = 'ssl_library'") == "":
        pytest.skip("this PostgreSQL is built without TLS; Debian's has it")
    write_certificate(server.data_directory)
    server.sql("ALTER SYSTEM SET ssl = on")
    server.sql("SELECT pg_reload_conf()")
    try:
        await finds(Level.FINE, "database", deployment(f"{tcp_postgres.dsn()}?sslmode=require"))
        encrypted = tcp_postgres.dsn("encrypted", "wrong-sesame")
        await finds(Level.FINE, "database", deployment(f"{encrypted}?sslmode=require"))
        await unreachable(f"{encrypted}?sslmode=disable", "the password for 'encrypted' is wrong")
        own = tmp_path / "other.pem"
        write_certificate(tmp_path)
        (tmp_path / "server.crt").rename(own)
        verified = f"{tcp_postgres.dsn()}?sslmode=verify-full&sslrootcert={own}"
        await unreachable(verified, "certificate", "sslrootcert")
    finally:
        server.sql("ALTER SYSTEM RESET ssl")
        server.sql("SELECT pg_reload_conf()")


@pytest.mark.gen_test
async def test_a_server_that_wants_tls(tcp_postgres: Networked) -> None:
    """Its rules refuse who comes without."""
    rules = tcp_postgres.server.data_directory / "pg_hba.conf"
    rules.write_text(RULES.replace("host    all all ", "hostssl all all "))
    tcp_postgres.server.sql("SELECT pg_reload_conf()")
    try:
        without = f"{tcp_postgres.dsn()}?sslmode=disable"
        await unreachable(without, "the server wants TLS", "sslmode=require")
    finally:
        rules.write_text(RULES)
        tcp_postgres.server.sql("SELECT pg_reload_conf()")


@pytest.mark.gen_test
@pytest.mark.parametrize("line", ["", "host all all all reject"])
async def test_rules_that_let_nobody_in(tcp_postgres: Networked, line: str) -> None:
    """The last attempt is without TLS, so PostgreSQL names that; it is not the reason."""
    rules = tcp_postgres.server.data_directory / "pg_hba.conf"
    rules.write_text(f"local all all trust\n{line}\n")
    tcp_postgres.server.sql("SELECT pg_reload_conf()")
    try:
        for query in ("", "?sslmode=prefer"):
            (finding,) = await ask("database", deployment(tcp_postgres.dsn() + query))
            assert "PostgreSQL says: " in finding.said
            assert "pg_hba.conf" in finding.said
            assert finding.cure.startswith("let this client in with a line")
            assert finding.cure.endswith("write ?sslmode=require in DATABASE_URL")
    finally:
        rules.write_text(RULES)
        tcp_postgres.server.sql("SELECT pg_reload_conf()")


@pytest.mark.gen_test
@pytest.mark.parametrize("limited", ["ROLE someone", "DATABASE app"])
async def test_no_connection_left(tcp_postgres: Networked, limited: str) -> None:
    """The role, or the database, has as many as it may have."""
    tcp_postgres.server.sql(f"ALTER {limited} CONNECTION LIMIT 0")
    try:
        cure = f"ALTER {limited.split()[0]} ... CONNECTION LIMIT"
        await unreachable(tcp_postgres.dsn(), "too many connections", cure)
    finally:
        tcp_postgres.server.sql(f"ALTER {limited} CONNECTION LIMIT -1")


@pytest.mark.gen_test
async def test_no_connection_left_but_for_superusers(postgres_bin: Path | None) -> None:
    """Which is said of "roles with the SUPERUSER attribute" from 16 on: it is no role's limit."""
    limits = {"max_connections": "4", "superuser_reserved_connections": "3", "max_wal_senders": "0"}
    with postgres_server(postgres_bin, **limits) as server:
        server.sql("CREATE ROLE someone LOGIN")
        dsn = server.dsn().replace("postgres@", "someone@")
        first = await asyncpg.connect(dsn)
        await unreachable(dsn, "reserved for", "or raise max_connections")
        await first.close(timeout=LIMIT)


@pytest.mark.parametrize(
    ("said_by", "cure"),
    [
        ("InitializeSessionUserId", "ALTER ROLE ... CONNECTION LIMIT"),
        ("CheckMyDatabase", "ALTER DATABASE ... CONNECTION LIMIT"),
        ("InitProcess", "raise max_connections"),
        ("", "raise max_connections"),
    ],
    ids=["role", "database", "all", "a pooler"],
)
def test_no_connection_left_in_any_language(said_by: str, cure: str) -> None:
    """PostgreSQL translates the text; a pooler names no function."""
    fields = {"C": "53300", "M": "zu viele Verbindungen"} | ({"R": said_by} if said_by else {})
    error = asyncpg.PostgresError.new(fields)
    assert cure in why_unreachable(error, "postgresql://someone@localhost/app")


@pytest.mark.gen_test
async def test_a_direct_address_that_is_wrong(database: str) -> None:
    """It is told apart from the other."""
    there = deployment(database, DATABASE_DIRECT_URL=f"postgresql://x@127.0.0.1:{free_port()}/x")
    await finds(
        Level.PROBLEM, "database", there, "DATABASE_URL answers", "DATABASE_DIRECT_URL: not"
    )


@pytest.mark.gen_test
async def test_a_database_that_is_read_only(database: str, platform: Platform) -> None:
    """As a host makes it when the disk is full."""
    name = await platform.connection.fetchval("SELECT current_database()")
    await platform.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await finds(Level.PROBLEM, "primary", deployment(database), "read_only is on", "make room")


@pytest.mark.gen_test
async def test_a_server_that_is_stopped_and_a_standby(stoppable_postgres: EmbeddedPostgres) -> None:
    """Each is named; at a standby nothing is written, and nothing more is asked."""
    dsn = stoppable_postgres.dsn()
    await finds(Level.FINE, "primary", deployment(dsn))
    await asyncio.to_thread(stoppable_postgres.stop, "immediate")
    await finds(Level.PROBLEM, "database", deployment(dsn), "there is no server's socket")
    await asyncio.to_thread(stoppable_postgres.start)
    await restart(stoppable_postgres, (stoppable_postgres.data_directory / "standby.signal").touch)
    await finds(Level.PROBLEM, "primary", deployment(dsn), "standby", "at the primary")
    report = await examine(deployment(dsn))
    assert {"listening", "full loop"} <= set(report.skipped)
