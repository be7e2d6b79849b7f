"""Tests of `realtime.config.checks`: the values that single settings may have."""

import inspect

import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from realtime.config import checks

ARGUMENTS = inspect.signature(_parse_connect_dsn_and_args).parameters
NOTHING = dict.fromkeys(ARGUMENTS)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://host",
        "postgresql://user:p%40ss@host:5432/name",
        "POSTGRES://user@[::1]:5432/name?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql://postgres@/name?host=/run/postgresql&port=5432",
        " postgres://host/name\t",
    ],
)
def test_database_urls(url: str) -> None:
    """An address comes out with one scheme, and otherwise as it was."""
    checked = checks.check_database_url(SecretStr(url)).get_secret_value()
    assert checked == "postgresql" + url.strip()[url.strip().index(":") :]


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgres://u:p%40@one:5432,two:5433/n", "host=one,two&port=5432,5433"),
        ("postgres://u:p%40@one,two:5433/n", "host=one,two&port=5432,5433"),
        ("postgres://u:p%40@one,two/n?port=1", "host=one,two&port=1,1"),
        ("postgres://u:p%40@one:1,%2Frun%2Ftwo:2/n", "host=one,/run/two&port=1,2"),
        ("postgres://u:p%40@/n?host=one,two&port=1,2", "host=one,two&port=1,2"),
        ("postgres://u:p%40@/n?host=one:1&host=two:2", "host=one,two&port=1,2"),
        ("postgres://u:p%40@/n?host=/run/one,/two", "host=/run/one,/two&port=5432,5432"),
        ("postgres://u:p%40@/n?host=[::1]:1,two", "host=%5B%3A%3A1%5D,two&port=1,5432"),
    ],
)
@pytest.mark.parametrize("more", ["", "target_session_attrs=read-write"])
def test_an_address_with_several_hosts_asks_for_the_primary(
    url: str, hosts: str, more: str
) -> None:
    """Both ways to write them come out as one, which asyncpg and psql understand."""
    given = url + ("&" if "?" in url else "?") * bool(more) + more
    checked = checks.check_database_url(SecretStr(given)).get_secret_value()
    assert checked == f"postgresql://u:p%40@/n?target_session_attrs=primary&{hosts}"
    assert checks.check_database_url(SecretStr(checked)).get_secret_value() == checked
    asked, *_ = _parse_connect_dsn_and_args(**{**NOTHING, "dsn": checked})
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("postgres://u:secretpw@one,two/n?port=1,2,3", "with a port for each, or none"),
        ("postgres://u:secretpw@one:x,two/n", "must name hosts like one:5432,two:5432"),
        ("postgres://u:secretpw@one:0,two/n", "ports from 1 to 65535"),
        ("postgres://u:secretpw@,two/n", "must name hosts like"),
        ("postgres://u:secretpw@one/n?host=two", "not both"),
        (
            "postgres://u:secretpw@one,two/n?target_session_attrs=standby",
            "any, primary, read-write",
        ),
        (
            "postgres://secretpw@h/n?channel_binding=require",
            "must not have channel_binding: Rowcast",
        ),
        ("postgres://h/n?load_balance_hosts=random&sslsni=0", "have load_balance_hosts, sslsni:"),
        ("postgres://h/n?sslrootcert=system", "must have a file as its sslrootcert"),
        ("mysql://user:secretpw@host/name", "must be an address like"),
        ("secretpw", "must be an address like"),
        ("postgres+psycopg://secretpw@host", "must begin with postgresql://, without"),
        ("postgres://user:secretpw@host:port/name", "must be an address like"),
        ("postgres://user:secretpw@host:99999/name", "must be an address like"),
        ("postgres://user:sec/retpw@host/name", "must be an address like"),
        ("postgres://user:secretpw@[host/name", "must be an address like"),
        ("postgres://user:sec retpw@host/name", "must be an address like"),
        ("postgres://user:sec\nretpw@host/name", "must be an address like"),
        ("postgres://user:1/secretpw@host/name", "must be an address like"),
        ("postgres://user:sec@retpw@host/name", "must be an address like"),
        ("postgres://user:sec#retpw@host/name", "must be an address like"),
        ("postgres://user?secretpw=@host/name", "must be an address like"),
        ("postgres://host/name?secretpw", "like ?sslmode=require after the ?"),
        ("postgres://host/name?pgbouncer=1&schema=a", "have pgbouncer, schema: Rowcast takes"),
        (
            "postgres://host/name?x=1",
            "Rowcast takes no parameters but application_name, host, port, ssl",
        ),
        ("postgres://host/name?x=1&sslsni=0", "must not have x, sslsni: Rowcast"),
        ("postgres://host/name?a%0Ab=1", r"must not have 'a\nb': Rowcast"),
        ("postgres://host/name?a=1&b=&c=3&d=4&e=5&f=6&g=7", "not have a, c, d, e, f and 1 more:"),
        ("postgres://host/name?x=1&password=a&secretpw=1", "must not have password: Rowcast"),
        (f"postgres://host/name?{'x' * 41}=1", f"must not have '{'x' * 40}': Rowcast"),
        ("postgres://host/name?sslmode=secretpw", "must have an sslmode out of these: allow"),
        ("postgres:///name?sslmode=require", "must be an address like"),
    ],
)
def test_bad_database_urls(url: str, hint: str) -> None:
    """A bad address is refused with what to do, and no part of it is repeated."""
    with pytest.raises(ValueError, match=r"^must ") as caught:
        checks.check_database_url(SecretStr(url))
    assert hint in str(caught.value)
    assert "secretpw" not in str(caught.value)
    assert "retpw" not in str(caught.value)


@given(st.text() | st.text().map("postgres://u:{}@h/d".format))
def test_any_database_url(url: str) -> None:
    """Whatever stands in the variable, it is taken or refused in one line of our own."""
    try:
        said = checks.check_database_url(SecretStr(url)).get_secret_value()
    except ValueError as error:
        said = str(error)
    assert said.startswith(("must ", "postgresql:"))
    assert said.isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example/.well-known/jwks.json?tenant=1",
        "http://localhost:8080/keys",
        "http://127.0.0.1/keys",
        "http://[::1]:1/keys",
    ],
)
def test_key_set_urls(url: str) -> None:
    """Keys come over https, or from this machine."""
    assert checks.check_key_set_url(f" {url}") == url


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys",
        "http://10.0.0.1/keys",
        "https://",
        "https://user:pw@issuer.example/keys",
        "https://issuer.example/keys#1",
        "https://issuer.example:x/keys",
        "file:///etc/passwd",
        "issuer.example",
    ],
)
def test_bad_key_set_urls(url: str) -> None:
    """Keys from anywhere else could be anybody's."""
    with pytest.raises(ValueError, match=r"^must be an https:// address"):
        checks.check_key_set_url(url)


def test_secrets() -> None:
    """Bytes count, not characters; and a key that is no secret is not one."""
    assert checks.check_secret(SecretStr("é" * 16)).get_secret_value() == "é" * 16
    with pytest.raises(ValueError, match="must be at least 32 bytes long"):
        checks.check_secret(SecretStr("s" * 31))
    with pytest.raises(ValueError, match="must be UTF-8"):
        checks.check_secret(SecretStr("\udcff" * 32))
    with pytest.raises(ValueError, match="goes into JWT_PUBLIC_KEY"):
        checks.check_secret(SecretStr(_pem()))


def test_public_keys() -> None:
    """A PEM is taken as it is, and as hosts with one line a variable hold it."""
    pem = _pem()
    assert checks.check_public_key(pem) == pem
    assert checks.check_public_key(pem.strip().replace("\n", "\\n")) == pem
    with pytest.raises(ValueError, match="must be a public key in PEM form"):
        checks.check_public_key("MFkw")


def test_private_key_in_place_of_the_public_one() -> None:
    """A private key is refused, and nothing of it is shown."""
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(ValueError, match=r"^must be the public key, not the private one$"):
        checks.check_public_key(private.decode())


def test_algorithms() -> None:
    """Algorithms are named one by one, and `none` is not one."""
    assert checks.check_algorithms(("ES256", "RS256", "ES256")) == ("ES256", "RS256")
    for bad in ((), ("none",), ("None",), ("hs256",), ("RS256", "XX")):
        with pytest.raises(ValueError, match=r"^must list some of ES256, .*; never none$"):
            checks.check_algorithms(bad)


def test_origins() -> None:
    """Origins are written as browsers send them."""
    given = ("HTTPS://App.Example:443", "http://localhost:3000", "capacitor://localhost")
    expected = ("https://app.example", "http://localhost:3000", "capacitor://localhost")
    assert checks.check_origins((*given, "http://localhost:3000")) == expected
    assert checks.check_origins(("http://[::1]:80", "https://h:80")) == (
        "http://[::1]",
        "https://h:80",
    )


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example",
        "https://app.example/",
        "https://*.example",
        "https://user@app.example",
        "https://app.example:0",
        "https://app.example:65536",
        "https://äpp.example",
        "https://app.example\n",
    ],
)
def test_bad_origins(origin: str) -> None:
    """What no browser sends would let nobody in, and is refused."""
    with pytest.raises(ValueError, match=r"^must be like https://a\.example"):
        checks.check_origins((origin,))


def test_no_origin() -> None:
    """A list of nothing is more likely a mistake than the wish to let nobody in."""
    with pytest.raises(ValueError, match="must name an origin"):
        checks.check_origins(())


def test_header_tokens() -> None:
    """A bearer token is what a header can hold."""
    assert checks.check_header_token(SecretStr("a-b_c~1")).get_secret_value() == "a-b_c~1"
    for bad in ("two words", "ünsafe", "line\n"):
        with pytest.raises(ValueError, match="must be printable ASCII"):
            checks.check_header_token(SecretStr(bad))


def test_split_list() -> None:
    """Commas separate, blanks do not count, and what is no text is left alone."""
    assert checks.split_list(" a, b,,c ,") == ("a", "b", "c")
    assert checks.split_list(",") == ()
    assert checks.split_list(("a",)) == ("a",)


def _pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_asyncpg_knows_each_parameter_that_an_address_may_have() -> None:
    """It sends all others to the server, as settings."""
    for name in ("channel_binding", "pgbouncer"):
        _, found = _parse_connect_dsn_and_args(**{**NOTHING, "dsn": f"postgres://h/n?{name}=1"})
        assert name in found.server_settings
    for name in checks._DATABASE_PARAMETERS - {"application_name"}:
        value = {"port": "1", "target_session_attrs": "any"}.get(name, "")
        dsn = f"postgres://h/n?sslmode=disable&{name}={value}" if value else "postgres://h/n"
        _, found = _parse_connect_dsn_and_args(**{**NOTHING, "dsn": dsn})
        assert not found.server_settings


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0", "::", "::1", "fe80::1%lo"])
def test_an_address_to_listen_on(host: str) -> None:
    """Of either family, or this machine's own name for itself."""
    assert checks.check_host(f" {host} ") == host


@pytest.mark.parametrize("host", ["x", "[::1]", "127.0.0.1:80", "example.org", "*", "1.2.3"])
def test_no_address_to_listen_on(host: str) -> None:
    """A name could lead to another machine."""
    with pytest.raises(ValueError, match="must be an IP address of this machine, or localhost"):
        checks.check_host(host)
