"""What the doctor says without a database: settings, keys for tokens, open files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from realtime.config.settings import SettingsError
from realtime.doctor.checkup import CHECKS
from realtime.doctor.deployment import Deployment
from realtime.doctor.report import Level
from tests.commands import free_port
from tests.doctor import deployment, finds

DSN = "postgresql://someone:sesame@localhost/somewhere"


def key_set() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    entry = RSAAlgorithm.to_jwk(key, as_dict=True) | {"kid": "one", "use": "sig", "alg": "RS256"}
    return json.dumps({"keys": [entry]}).encode()


class Issuer:
    """A token issuer that publishes whatever it is told to."""

    def __init__(self) -> None:
        self.body = key_set()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(issuer.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    one = Issuer()
    thread = Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


def check(level: Level, name: str, there: Deployment, *parts: str) -> None:
    asyncio.run(finds(level, name, there, *parts))


def test_settings_that_a_server_takes_are_fine() -> None:
    """Nothing is said against them."""
    check(Level.FINE, "settings", deployment(DSN))


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"JWT_SECRET": ""}, "JWT_SECRET"),
        ({"JWT_SECRET": "short"}, "at least 32 bytes"),
        ({"JWT_SECRET": "", "JWT_PUBLIC_KEY": "-----BEGIN NOTHING-----"}, "JWT_PUBLIC_KEY"),
        ({"PORT": "http"}, "PORT"),
    ],
)
def test_a_wrong_setting_is_a_problem_and_does_not_end_the_checkup(
    environ: dict[str, str], named: str
) -> None:
    """No key, a weak secret, no public key at all: named, while the database can be looked at."""
    there = deployment(DSN, **environ)
    check(Level.PROBLEM, "settings", there, named)
    assert there.dsn == DSN


def test_a_misspelt_setting_is_a_warning() -> None:
    """It has no effect, and the server does not fail for it."""
    there = deployment(DSN, MAX_CONECTIONS="5")
    check(Level.WARNING, "settings", there, "MAX_CONECTIONS is no set", "to MAX_CONNECTIONS")


def test_without_a_database_there_is_nothing_to_look_at() -> None:
    """The line names the variable."""
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        Deployment.from_environ({}, lambda: 0.0, 1)


def test_keys_of_the_settings_are_fine() -> None:
    """They were checked with the settings."""
    check(Level.FINE, "token keys", deployment(DSN), "JWT_SECRET (HS256)")


def test_an_issuer_with_keys_is_fine(issuer: Issuer) -> None:
    """How many are of use is said."""
    check(
        Level.FINE,
        "token keys",
        deployment(DSN, JWT_SECRET="", JWT_JWKS_URL=issuer.url),
        "has 1 of use",
    )


def test_an_issuer_that_is_away_is_a_problem() -> None:
    """Nobody could be let in."""
    url = f"http://127.0.0.1:{free_port()}/keys"
    there = deployment(DSN, JWT_SECRET="", JWT_JWKS_URL=url)
    check(Level.PROBLEM, "token keys", there, "JWT_JWKS_URL cannot be fetched")


@pytest.mark.parametrize("body", [b'{"keys": []}', b"<html>", b"[]"])
def test_an_issuer_without_keys_is_a_problem(issuer: Issuer, body: bytes) -> None:
    """As where the address is that of a page."""
    issuer.body = body
    there = deployment(DSN, JWT_SECRET="", JWT_JWKS_URL=issuer.url)
    check(Level.PROBLEM, "token keys", there, "JWT_JWKS_URL has no key")


def test_too_few_open_files_are_a_warning() -> None:
    """It says the number for `ulimit -n`, and the other way out."""
    there = deployment(DSN, open_files=1024, MAX_CONNECTIONS="5000", DATABASE_POOL_SIZE="4")
    check(Level.WARNING, "open files", there, "only 1024", "ulimit -n 5104", "to 920")
    check(Level.FINE, "open files", deployment(DSN, open_files=5104, MAX_CONNECTIONS="5000"))


def test_every_check_needs_one_that_stands_before_it() -> None:
    """So that the list can be read from top to bottom."""
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(not c.needs or c.needs in names[:place] for place, c in enumerate(CHECKS))
