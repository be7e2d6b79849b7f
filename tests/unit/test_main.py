"""The command line: quick where it should be, one line where the user can put it right."""

from __future__ import annotations

import asyncio
import shlex
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from realtime.auth import signing as dev_tokens
from realtime.auth.tokens import Identity, TokenVerifier
from realtime.cli.commands import main
from realtime.config.settings import Settings, SettingsError
from realtime.dev import command as dev
from realtime.dev import database as dev_database
from realtime.dev import demo
from realtime.installation import PROJECT
from tests.waiting import LIMIT

SECRET = "a secret of at least thirty-two bytes, for tests"
DSN = "postgresql://someone@localhost/somewhere"
NOW = 1_800_000_000.0


def call(*arguments: str, **environ: str) -> Result:
    """Run a command in an environment that holds these settings and nothing else of ours."""
    cleared = dict.fromkeys((name.upper() for name in Settings.model_fields), None)
    return CliRunner().invoke(main, arguments, env=cleared | environ)


def verify(token: str, now: float = NOW, **environ: str) -> Identity:
    settings = Settings.from_environ({"DATABASE_URL": DSN, "JWT_SECRET": SECRET, **environ})
    return asyncio.run(TokenVerifier(settings, lambda: now).verify(token))


def settings_with(**environ: str) -> Settings:
    return Settings.from_environ({"DATABASE_URL": DSN, "JWT_SECRET": SECRET, **environ})


def public_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(encoding, form).decode()


def test_token_prints_a_token_and_nothing_else() -> None:
    """`bin/token` can stand inside `$(…)`."""
    result = call("token", "someone", JWT_SECRET=SECRET)
    assert result.exit_code == 0
    assert result.stderr == ""
    identity = verify(result.stdout.removesuffix("\n"), now=time.time())
    assert (identity.subject, identity.is_admin) == ("someone", False)


def test_token_says_when_the_key_is_not_that_of_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database was named, and no key: its server will refuse what bin/dev's secret signed."""
    monkeypatch.setattr("realtime.auth.signing.read_secret", lambda *_: SECRET)
    for given, said in (({"DATABASE_URL": DSN}, "signed with the secret of bin/dev"), ({}, "")):
        result = call("token", "someone", **given)
        assert result.exit_code == 0
        assert said in result.stderr
        assert bool(result.stderr) == bool(said)


def test_token_takes_its_lifetime_and_the_admin_claim() -> None:
    """`--ttl` is in seconds, `--admin` sets the claim that the settings name."""
    before = time.time()
    result = call(
        "token", "x", "--ttl", "60", "--admin", JWT_SECRET=SECRET, JWT_ADMIN_CLAIM="chief"
    )
    identity = verify(result.stdout.strip(), now=before, JWT_ADMIN_CLAIM="chief")
    assert identity.is_admin
    assert before + 60 <= identity.expires_at <= time.time() + 60


@pytest.mark.parametrize("ttl", ["0", "-1", "soon"])
def test_token_refuses_a_lifetime_that_is_none(ttl: str) -> None:
    """A token that has expired already helps nobody."""
    assert call("token", "x", "--ttl", ttl, JWT_SECRET=SECRET).exit_code == 2


def test_token_fits_the_audience_and_the_issuer_of_the_settings() -> None:
    """What `bin/token` signs, a server with the same environment accepts."""
    claims = {"JWT_AUDIENCE": "us", "JWT_ISSUER": "them", "JWT_ALGORITHMS": "HS384"}
    secret = SECRET * 2
    result = call("token", "x", JWT_SECRET=secret, **claims)
    token = result.stdout.strip()
    assert verify(token, now=time.time(), **claims | {"JWT_SECRET": secret}).subject == "x"


def test_token_refuses_a_short_secret_in_one_line() -> None:
    """The same check as the server's."""
    result = call("token", "x", JWT_SECRET="short")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: JWT_SECRET")
    assert result.stderr.count("\n") == 1


def test_token_loads_no_database() -> None:
    """It answers at once because it imports little."""
    loaded = "import sys; print(*{'asyncpg', 'sqlalchemy', 'alembic'} & set(sys.modules))"
    code = f"import realtime.__main__, realtime.auth.signing; {loaded}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert done.stdout.split() == []


def test_mint_uses_the_secret_that_dev_made(tmp_path: Path) -> None:
    """A developer needs no setting: the checkout's own secret signs."""
    secret = dev_tokens.make_secret(tmp_path)
    token = dev_tokens.mint({}, "x", ttl=60, is_admin=False, now=NOW, data=tmp_path)
    assert verify(token, JWT_SECRET=secret).subject == "x"


def test_mint_without_any_secret_says_where_to_get_one(tmp_path: Path) -> None:
    """Before the first `bin/dev` and without JWT_SECRET."""
    with pytest.raises(SettingsError, match=r"JWT_SECRET is not set: .* run bin/dev once"):
        dev_tokens.mint({}, "x", ttl=60, is_admin=False, now=NOW, data=tmp_path)


def test_mint_with_a_public_key_says_who_can_sign(tmp_path: Path) -> None:
    """What verifies cannot sign, and the checkout's secret would be refused by that server."""
    dev_tokens.make_secret(tmp_path)
    environ = {"JWT_PUBLIC_KEY": public_key()}
    with pytest.raises(SettingsError, match="the owner of the private key"):
        dev_tokens.mint(environ, "x", ttl=60, is_admin=False, now=NOW, data=tmp_path)


def test_the_secret_is_made_once_and_is_private(tmp_path: Path) -> None:
    """Tokens from before a restart stay good; other users cannot read it."""
    first = dev_tokens.make_secret(tmp_path)
    assert dev_tokens.make_secret(tmp_path) == first
    assert len(first) >= 32
    assert stat.S_IMODE((tmp_path / "jwt-secret").stat().st_mode) == 0o600


def test_half_a_secret_is_never_used(tmp_path: Path) -> None:
    """One whose writing was interrupted is made again."""
    (tmp_path / "jwt-secret.unfinished").write_text("ha")
    assert len(dev_tokens.make_secret(tmp_path)) == 64


def test_another_users_secret_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when root ran bin/dev first."""

    def refuse(_path: Path) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(SettingsError, match="belongs to another user"):
        dev_tokens.read_secret(tmp_path)


def test_serve_without_settings_is_one_line() -> None:
    """The first thing that is missing, and no traceback."""
    result = call("serve")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: DATABASE_URL is not set")
    assert result.stderr.count("\n") == 1


def test_migrate_needs_no_key() -> None:
    """A release step may run without secrets: here it gets as far as the database."""
    result = call("migrate", DATABASE_URL="postgresql://localhost:1/none")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "error: the database cannot be reached: nothing listens on port 1 of localhost; "
    )
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PGPORT": "abc"}, "a host or a port is not one"),
        ({"PGSSLMODE": "perhaps"}, "`sslmode` parameter must be one of"),
        ({"DATABASE_URL": "postgresql://a..b/none"}, "a host or a port is not one"),
    ],
)
@pytest.mark.parametrize("command", ["migrate", "simulate"])
def test_what_makes_no_address_is_one_line(
    command: str, variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an address leaves out, the driver takes from the environment."""
    given = {"DATABASE_URL": "postgresql://localhost/none", "JWT_SECRET": SECRET} | variables
    for name in variables.keys() - {"DATABASE_URL"}:
        monkeypatch.setenv(name, variables[name])
    result = call(command, **given)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the database cannot be reached: ")
    assert command == "simulate" or said in result.stderr
    assert "correct DATABASE_URL, or PGPORT and the like" in result.stderr
    assert result.stderr.count("\n") == 1


def test_dev_brings_the_console_and_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both can be overridden; an address for LISTEN alone would lead to another database."""
    monkeypatch.setattr(dev_database, "make_secret", lambda: dev_tokens.make_secret(tmp_path))
    added = dev.with_defaults({"PORT": "9", "DATABASE_DIRECT_URL": DSN, "METRICS_TOKEN": ""})
    assert set(added) == {"PORT", "LISTEN_HOST", "CONSOLE", "JWT_SECRET"}
    assert added["LISTEN_HOST"] == "localhost"
    own = {"JWT_SECRET": SECRET, "CONSOLE": "false", "DATABASE_URL": DSN, "LISTEN_HOST": "0.0.0.0"}
    assert dev.with_defaults(own) == own


def test_another_users_checkout_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when root ran bin/dev first: no traceback, and the name of the file."""

    def refuse(_environ: object) -> None:
        raise PermissionError(13, "Permission denied", "/there/.data/dev.lock")

    monkeypatch.setattr(dev, "DATA", tmp_path)
    monkeypatch.setattr(dev, "with_defaults", refuse)
    result = call("dev")
    assert result.exit_code == 1
    assert result.stderr == "error: /there/.data/dev.lock is another user's: run bin/dev as them\n"


def test_the_banner_has_links_and_a_command_on_lines_of_their_own() -> None:
    """Each line can be clicked, or pasted into a shell as it stands."""
    psql = shlex.join(["/it's a/psql", f"{DSN}?host=/tmp/x&port=5432"])
    lines = dev.banner(settings_with(PORT="8123"), dev.DemoDatabase(DSN, psql)).splitlines()
    links = [urlsplit(line) for line in lines if line.startswith("http://localhost:8123/?")]
    subjects = [verify(parse_qs(link.query)["token"][0], time.time()).subject for link in links]
    assert subjects == [demo.PEOPLE[name] for name in dev.LINKED]
    assert {parse_qs(link.query)["bot"][0] for link in links} == {dev.BOT_ID}
    commands = [line for line in lines if "INSERT INTO messages" in line]
    assert [shlex.split(line) for line in commands] == [
        ["/it's a/psql", f"{DSN}?host=/tmp/x&port=5432", "-c", dev.INSERT]
    ]


def test_the_banner_tells_other_commands_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for a shell; what the environment said is not repeated."""
    monkeypatch.setattr(dev, "read_secret", lambda: SECRET)
    made = dev.DemoDatabase(f"{DSN}?host=/tmp/x&port=5432", "psql", is_ours=True)
    assert shlex.split(dev.exports_for(settings_with(), made)) == [
        "export",
        f"DATABASE_URL={made.dsn}",
        f"JWT_SECRET={SECRET}",
    ]
    assert "PORT=8123" in shlex.split(dev.exports_for(settings_with(PORT="8123"), made))
    assert "The data stays in .data" in dev.banner(settings_with(), made)
    monkeypatch.setattr(dev, "read_secret", lambda: None)
    given = dev.DemoDatabase(DSN, "psql")
    assert dev.exports_for(settings_with(), given) == ""
    assert "in the database that DATABASE_URL names" in dev.banner(settings_with(), given)


def test_people_of_the_demo_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the secret is bin/dev's; elsewhere a subject is what was written."""
    monkeypatch.setattr(demo, "read_secret", lambda: SECRET)
    ada = demo.PEOPLE["ada"]
    assert demo.subject_for({}, "ada") == demo.subject_for({"JWT_SECRET": SECRET}, "ada") == ada
    assert demo.subject_for({}, "someone") == "someone"
    assert demo.subject_for({"JWT_SUBJECT": "username"}, "ada") == "ada"
    assert demo.subject_for({"JWT_SECRET": "another"}, "ada") == "ada"


def test_token_refuses_nobody() -> None:
    """An empty variable between quotes is a mistake, and such a token a riddle later."""
    result = call("token", "", JWT_SECRET=SECRET)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must not be empty" in result.stderr


def test_the_pasted_statement_means_the_same_to_every_shell() -> None:
    """Between double quotes these would be read by one shell or another."""
    assert not set('"$`\\!') & set(dev.INSERT)


def test_links_carry_usernames_where_tokens_do() -> None:
    """JWT_SUBJECT=username changes what a subject is."""
    link = dev.link(settings_with(JWT_SUBJECT="username"), "grace")
    assert verify(parse_qs(urlsplit(link).query)["token"][0], time.time()).subject == "grace"


def test_links_without_a_secret_say_who_has_the_token() -> None:
    """With public keys nobody here can sign."""
    settings = Settings.from_environ({"DATABASE_URL": DSN, "JWT_PUBLIC_KEY": public_key()})
    assert "whoever holds the private key" in dev.link(settings, "ada")


def test_a_port_in_use_is_found_before_the_first_long_step() -> None:
    """The error names a way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"PORT {port} cannot be used .* bin/dev"):
            dev.check_port("localhost", port)


def test_an_address_of_another_machine_is_found_as_early() -> None:
    """192.0.2.0/24 is for documents: no machine has an address of it."""
    with pytest.raises(SettingsError, match="LISTEN_HOST must be an IP address of this machine"):
        dev.check_port("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("", "localhost"),
        ("localhost", "localhost"),
        ("0.0.0.0", "localhost"),
        ("::", "localhost"),
        ("127.0.0.2", "127.0.0.2"),
        ("::1", "[::1]"),
    ],
)
def test_links_lead_to_where_the_server_listens(host: str, named: str) -> None:
    """Where that is everywhere, to this machine."""
    assert dev.link(settings_with(LISTEN_HOST=host), "ada").startswith(f"http://{named}:8000/?bot=")


def test_a_password_does_not_reach_the_screen() -> None:
    """The command names the variable in place of an address with a password in it."""
    secret_dsn = "postgresql://someone:sesame@localhost/somewhere"
    with dev.open_database({"DATABASE_URL": secret_dsn}) as database:
        assert database.dsn == secret_dsn
        assert database.psql.endswith('psql "$DATABASE_URL"')
    with dev.open_database({"DATABASE_URL": DSN}) as database:
        assert database.psql.endswith(f"psql {DSN}")


def test_the_doctor_says_that_there_is_no_database_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bin/dev never made one."""
    monkeypatch.setattr(dev_database, "DATA", tmp_path)
    result = call("doctor", JWT_SECRET=SECRET)
    assert (result.exit_code, result.stderr) == (1, "")
    assert "DATABASE_URL" in result.stdout


@pytest.mark.parametrize("command", ["serve", "migrate", "attach"])
def test_a_misspelt_setting_is_named_where_the_one_that_is_meant_is_missing(command: str) -> None:
    """It is the reason."""
    result = call(command, JWT_SECRET=SECRET, DATABSE_URL=DSN)
    said = "error: DATABASE_URL is not set (DATABSE_URL is no setting): "
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1
    assert result.exit_code == 1


def test_a_misspelt_setting_is_named_where_one_of_several_is_missing() -> None:
    """None of them is there by its name."""
    result = call("serve", JWT_SECERT=SECRET, DATABASE_URL=DSN)
    assert "(now: none); JWT_SECERT is no setting and has no effect; JWT_SECRET is" in result.stderr
    assert result.stderr.count("\n") == 1


def test_missing_packages_are_one_line_that_says_how_to_install_them() -> None:
    """From nothing: the virtual environment that the scripts take is made, too."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "realtime", "migrate"],
        cwd=PROJECT,
        env={},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    made, installed = "python3 -m venv .venv", ".venv/bin/pip install -r requirements.txt"
    assert made in done.stderr.partition(installed)[0]
