"""Tests of `realtime.config.settings`: the environment as a whole."""

import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from realtime.config.settings import Settings, SettingsError, settings_table

SECRET = "a secret of more than thirty-two bytes"
PASSWORD = "hunter2hunter2"
URL = f"postgres://me:{PASSWORD}@db.example:5432/app?sslmode=require"
ENVIRON = {"DATABASE_URL": URL, "JWT_SECRET": SECRET}

DEFAULTS = {
    "DATABASE_POOL_SIZE": 4,
    "DATABASE_TIMEOUT_SECONDS": 2,
    "LISTEN_HOST": None,
    "PORT": 8000,
    "WEB_CONCURRENCY": 1,
    "JWT_PUBLIC_KEY": None,
    "JWT_JWKS_URL": None,
    "JWT_ALGORITHMS": ("HS256",),
    "JWT_AUDIENCE": None,
    "JWT_ISSUER": None,
    "JWT_SUBJECT": "id",
    "JWT_LEEWAY_SECONDS": 5,
    "JWT_ADMIN_CLAIM": "admin",
    "ALLOWED_ORIGINS": None,
    "MAX_CONNECTIONS": 10000,
    "MAX_CONNECTIONS_PER_USER": 100,
    "MAX_SUBSCRIPTIONS": 100,
    "MESSAGES_PER_SECOND": 20,
    "MAX_MESSAGE_BYTES": 65536,
    "SEND_BUFFER_BYTES": 4194304,
    "READ_BUFFER_BYTES": 67_108_864,
    "CARRY_EVENTS": True,
    "RESUME_MAX_EVENTS": 10000,
    "RETENTION_SECONDS": 3600,
    "DRAIN_SECONDS": 10,
    "TOKEN_WARNING_SECONDS": 60,
    "TOKEN_EXPIRY": "socket",
    "ECHO_TO_AUTHOR": True,
    "METRICS_TOKEN": None,
    "BASE_PATH": "",
    "CONSOLE": False,
    "LOG_FORMAT": "text",
    "LOG_LEVEL": "info",
    "ENV_FILE": None,
}
GIVEN = {"DATABASE_URL", "DATABASE_DIRECT_URL", "JWT_SECRET"}


def p384_pem() -> str:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def refusal(**changes: str) -> str:
    """Return the one line that these variables, beside a good environment, are refused with."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ(ENVIRON | changes)
    line = str(caught.value)
    assert "\n" not in line
    assert SECRET not in line
    assert PASSWORD not in line
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    return line


def test_defaults() -> None:
    """Every setting but the database and the key has the default that the design gives it."""
    settings = Settings.from_environ(ENVIRON)
    fields = {name.upper(): getattr(settings, name) for name in Settings.model_fields}
    assert {name: value for name, value in fields.items() if name not in GIVEN} == DEFAULTS
    assert set(fields) == set(DEFAULTS) | GIVEN


def test_database_url_is_normal_and_stands_in_for_the_direct_one() -> None:
    """The direct address is the other one unless it is set, and both have drivers' own scheme."""
    alone = Settings.from_environ(ENVIRON)
    normal = URL.replace("postgres://", "postgresql://")
    assert alone.database_url.get_secret_value() == normal
    assert alone.database_direct_url.get_secret_value() == normal
    both = Settings.from_environ(ENVIRON | {"DATABASE_DIRECT_URL": "postgresql://direct/app"})
    assert both.database_url.get_secret_value() == normal
    assert both.database_direct_url.get_secret_value() == "postgresql://direct/app"


def test_nothing_but_the_mapping_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's own environment is not looked at."""
    monkeypatch.setitem(os.environ, "PORT", "1234")
    assert Settings.from_environ(ENVIRON).port == 8000
    with pytest.raises(
        SettingsError,
        match=r"^DATABASE_URL is not set: set it to postgres://user:password@host:5432/name$",
    ):
        Settings.from_environ({})


def test_unknown_variables_pass() -> None:
    """An environment holds much that is not ours; case matters as it does in a shell."""
    settings = Settings.from_environ(ENVIRON | {"HOME": "/", "port": "1", "MODEL_CONFIG": "x"})
    assert settings.port == 8000


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) | {"DATABASE_DIRECT_URL"}))
def test_empty_counts_as_unset(name: str) -> None:
    """A host's form leaves an empty string behind where a setting was removed."""
    assert Settings.from_environ(ENVIRON | {name: ""}) == Settings.from_environ(ENVIRON)


def test_secrets_do_not_show() -> None:
    """Neither repr nor str nor a dump shows a secret or the database's password."""
    settings = Settings.from_environ(ENVIRON | {"METRICS_TOKEN": "metrics-secret"})
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert SECRET not in text
        assert PASSWORD not in text
        assert "metrics-secret" not in text


def test_settings_are_frozen() -> None:
    """Nobody changes a setting after the start."""
    settings = Settings.from_environ(ENVIRON)
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


def test_refused_values_do_not_show_in_pydantic_errors_either() -> None:
    """Settings built directly fail with pydantic's error, which must not repeat a secret."""
    with pytest.raises(ValidationError) as caught:
        Settings(database_url=f"mysql://{PASSWORD}", jwt_secret="short and secret")
    assert PASSWORD not in str(caught.value)
    assert "short and secret" not in str(caught.value)


NUMBERS = {
    "DATABASE_POOL_SIZE": ("1", "100", "0", "101", "1.5"),
    "DATABASE_TIMEOUT_SECONDS": ("0.1", "60", "0", "61"),
    "PORT": ("0", "65535", "-1", "65536", "80a", "8000.5"),
    "WEB_CONCURRENCY": ("1", "64", "0", "65"),
    "JWT_LEEWAY_SECONDS": ("0", "300", "-1", "301", "nan", "inf"),
    "MAX_CONNECTIONS": ("1", "1000000", "0", "1000001"),
    "MAX_CONNECTIONS_PER_USER": ("1", "1000000", "0", "1000001"),
    "MESSAGES_PER_SECOND": ("1", "10000", "0", "10001"),
    "MAX_MESSAGE_BYTES": ("1024", "16777216", "1023", "16777217"),
    "SEND_BUFFER_BYTES": ("65536", "1073741824", "65535", "1073741825"),
    "READ_BUFFER_BYTES": ("4194304", "17179869184", "4194303", "17179869185"),
    "RESUME_MAX_EVENTS": ("1", "1000000", "0", "1000001"),
    "RETENTION_SECONDS": ("1", "2592000", "0.5", "2592001", "an hour"),
    "DRAIN_SECONDS": ("0", "600", "-1", "601"),
    "TOKEN_WARNING_SECONDS": ("0", "3600", "-1", "3601"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_ranges(name: str) -> None:
    """A number at either end of its range is taken; beyond, the error says the range."""
    least, most, *bad = NUMBERS[name]
    for good in (least, most):
        value = getattr(Settings.from_environ(ENVIRON | {name: good}), name.lower())
        assert value == float(good)
    kind = "whole number" if isinstance(value, int) else "number"
    for text in bad:
        assert refusal(**{name: text}) == f"{name} must be a {kind} from {least} to {most}"


def test_choices() -> None:
    """The settings with a few possible values name them."""
    assert Settings.from_environ(ENVIRON | {"JWT_SUBJECT": "username"}).jwt_subject == "username"
    assert refusal(JWT_SUBJECT="email") == "JWT_SUBJECT must be 'id' or 'username'"
    assert Settings.from_environ(ENVIRON | {"LOG_FORMAT": "json"}).log_format == "json"
    assert Settings.from_environ(ENVIRON | {"LOG_LEVEL": "DEBUG"}).log_level == "debug"
    assert refusal(LOG_FORMAT="xml") == "LOG_FORMAT must be 'text' or 'json'"
    assert Settings.from_environ(ENVIRON | {"CONSOLE": "true"}).console
    assert not Settings.from_environ(ENVIRON | {"CONSOLE": "0"}).console
    assert refusal(CONSOLE="perhaps") == "CONSOLE must be true or false"
    assert refusal(TOKEN_EXPIRY="never") == "TOKEN_EXPIRY must be 'socket' or 'handshake'"


def test_exactly_one_kind_of_key() -> None:
    """None and two are refused alike, by naming what is set."""
    rule = "set exactly one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL"
    assert refusal(JWT_SECRET="") == f"{rule} (now: none)"
    url = "https://issuer.example/keys"
    assert refusal(JWT_JWKS_URL=url) == f"{rule} (now: JWT_SECRET and JWT_JWKS_URL)"
    settings = Settings.from_environ(ENVIRON | {"JWT_SECRET": "", "JWT_JWKS_URL": url})
    assert settings.jwt_jwks_url == url
    assert settings.jwt_algorithms == ("RS256", "ES256", "EdDSA")


def test_secret_algorithms() -> None:
    """A secret goes with HS*, and must be as long as the hash (RFC 7518, 3.2)."""
    long = Settings.from_environ(
        ENVIRON | {"JWT_SECRET": "s" * 64, "JWT_ALGORITHMS": "HS512, HS256"}
    )
    assert long.jwt_algorithms == ("HS512", "HS256")
    line = "JWT_SECRET must have at least 48 bytes for JWT_ALGORITHMS"
    assert refusal(JWT_ALGORITHMS="HS384") == line
    line = "JWT_ALGORITHMS must list only HS256, HS384, HS512 with JWT_SECRET"
    assert refusal(JWT_ALGORITHMS="HS256,RS256") == line


def test_public_key_algorithms() -> None:
    """HS* beside a public key stops the start, and so does a list that the key does not fit."""
    pem = p384_pem()
    public = {"JWT_SECRET": "", "JWT_PUBLIC_KEY": pem}
    line = "JWT_ALGORITHMS must not list HS256, HS384 or HS512 with public keys"
    assert refusal(**public, JWT_ALGORITHMS="ES384,HS256") == line
    assert refusal(**public) == "JWT_ALGORITHMS must list what fits JWT_PUBLIC_KEY: ES384"
    fitting = Settings.from_environ(ENVIRON | public | {"JWT_ALGORITHMS": "ES384"})
    assert fitting.jwt_public_key == pem
    jwks = {"JWT_SECRET": "", "JWT_JWKS_URL": "https://issuer.example/keys"}
    line = "JWT_ALGORITHMS must not list HS256, HS384 or HS512 with public keys"
    assert refusal(**jwks, JWT_ALGORITHMS="HS256") == line


def test_message_burst() -> None:
    """Twenty messages a second go with a burst of fifty, and other rates in proportion."""
    assert Settings.from_environ(ENVIRON).message_burst == 50
    assert Settings.from_environ(ENVIRON | {"MESSAGES_PER_SECOND": "1"}).message_burst == 3


def test_settings_table() -> None:
    """The table has a row for every setting, in the model's order, with its default."""
    heading, rule, *rows = settings_table().splitlines()
    assert heading == "| setting | default | meaning |"
    assert rule == "| --- | --- | --- |"
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [len(row) for row in cells] == [3] * len(Settings.model_fields)
    defaults = {name.strip("`"): default for name, default, _ in cells}
    assert list(defaults) == [name.upper() for name in Settings.model_fields]
    assert defaults["DATABASE_URL"] == "required"
    assert defaults["DATABASE_DIRECT_URL"] == "`DATABASE_URL`"
    assert defaults["JWT_SECRET"] == "unset"
    assert defaults["RETENTION_SECONDS"] == "`3600`"
    assert defaults["CONSOLE"] == "`false`"
    assert all(meaning.endswith(".") for _, _, meaning in cells)
