"""`bin/attach` as a person runs it: from any directory, and what it says on which stream."""

from __future__ import annotations

import asyncio
import subprocess
import tomllib
from pathlib import Path

import asyncpg
import pytest

from realtime.attach.mapping import EXAMPLE
from tests.adopted import MAPPING, SCHEMA
from tests.commands import ROOT, environment, free_port, run_script
from tests.waiting import LIMIT


@pytest.fixture
def adopted_database(core_database: str) -> str:
    async def run() -> None:
        connection = await asyncpg.connect(core_database)
        await connection.execute(SCHEMA)
        await connection.close()

    asyncio.run(run())
    return core_database


def test_the_example_is_the_default_mapping() -> None:
    """The whole of it, without a database."""
    done = run_script("attach", "--example")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", EXAMPLE.read_text("utf-8"))
    assert tomllib.loads(done.stdout)["permissions"]["owner_role"] == "owner"


def test_it_prints_applies_and_detaches(adopted_database: str) -> None:
    """SQL on standard output and nothing else; a line for what was done."""
    printed = run_script("attach", str(MAPPING), DATABASE_URL=adopted_database)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "\nBEGIN;\n" in printed.stdout
    assert 'ON public."bot_permissions"' in printed.stdout
    said = [
        run_script("attach", *arguments, DATABASE_URL=adopted_database).stdout
        for arguments in ((str(MAPPING), "--apply"), (str(MAPPING), "--apply"))
    ]
    names = "public.users, public.bots, public.bot_permissions, public.messages, public.documents\n"
    assert said == [
        f"attached: {names}",
        f"already attached: {names}",
    ]
    again = run_script("attach", str(MAPPING), DATABASE_URL=adopted_database)
    assert again.stdout.startswith("-- Already attached"), "what is piped into psql does nothing"
    shown = run_script("attach", "--detach", DATABASE_URL=adopted_database)
    assert (shown.returncode, shown.stderr) == (0, "")
    first, then = shown.stdout.split("\n", maxsplit=1)
    assert "run it again" in first
    assert then.startswith("BEGIN;\nSET LOCAL lock_timeout = '150ms';\n")
    done = run_script("attach", "--detach", "--apply", DATABASE_URL=adopted_database)
    assert done.stdout == "detached: 18 triggers removed\n", "and what was shown removed none"


def test_a_table_that_a_mapping_forgets(adopted_database: str, tmp_path: Path) -> None:
    """It is refused, printed or applied; whoever means it is told of it."""
    fewer = tmp_path / "fewer.toml"
    text = "documents = false\n" + MAPPING.read_text().partition("[documents]")[0]
    fewer.write_text(text)
    run_script("attach", str(MAPPING), "--apply", DATABASE_URL=adopted_database)
    for arguments in ((), ("--apply",)):
        done = run_script("attach", str(fewer), *arguments, DATABASE_URL=adopted_database)
        assert (done.returncode, done.stdout) == (1, "")
        assert "public.documents would be attached no longer" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    for arguments in (("--detach-others",), ("--detach-others", "--apply")):
        done = run_script("attach", str(fewer), *arguments, DATABASE_URL=adopted_database)
        assert done.returncode == 0
        assert done.stderr.startswith("public.documents is attached no longer")


def test_a_mapping_is_named_from_where_one_is(adopted_database: str, tmp_path: Path) -> None:
    """Not from the checkout."""
    (tmp_path / "mine.toml").write_text(MAPPING.read_text())
    done = subprocess.run(
        [str(ROOT / "bin" / "attach"), "mine.toml"],
        cwd=tmp_path,
        env=environment(DATABASE_URL=adopted_database),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_does_not_fit_is_an_error(adopted_database: str) -> None:
    """Every reason, on standard error; nothing on standard output."""
    done = run_script("attach", "--apply", DATABASE_URL=adopted_database)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the mapping does not fit the database:\n  ")
    assert "permissions: there is no table public.permissions" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--example", "--detach"),
        ("--example", "--apply"),
        ("--example", "--detach-others"),
        ("--example", "mapping.toml"),
        ("--detach", "mapping.toml"),
        ("--detach", "--detach-others", "--apply"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(arguments: tuple[str, ...]) -> None:
    """In place of one of them being forgotten."""
    done = run_script("attach", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Error: {arguments[0]} " in done.stderr


def test_a_file_that_is_missing_is_named_before_the_database_is() -> None:
    """DATABASE_URL is missing, too."""
    done = run_script("attach", "/none.toml")
    assert done.stderr == "error: /none.toml cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("/none.toml",), "error: /none.toml cannot be read: No such file or directory\n"),
        ((), "the database cannot be reached: nothing listens on port"),
        (("--detach",), "the database cannot be reached: nothing listens on port"),
    ],
)
def test_what_a_person_can_put_right_is_one_line(
    arguments: tuple[str, ...], complaint: str
) -> None:
    """And no password is in it."""
    dsn = f"postgresql://someone:sesame@127.0.0.1:{free_port()}/none"
    done = run_script("attach", *arguments, DATABASE_URL=dsn)
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "sesame" not in done.stderr
