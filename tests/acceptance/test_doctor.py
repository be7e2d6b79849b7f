"""bin/doctor as people and scripts run it: real processes, exit codes, JSON, and no secrets."""

from __future__ import annotations

import asyncio
import json
import re

import asyncpg
import pytest

from realtime.doctor.checkup import CHECKS
from tests.commands import ROOT, SECRET, free_port, run_script

OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")


def execute(dsn: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def well(dsn: str, **more: str) -> dict[str, str]:
    return {"DATABASE_URL": dsn, "JWT_SECRET": SECRET, "MAX_CONNECTIONS": "100"} | more


def shape(text: str) -> list[str]:
    """Lines without what differs from run to run: numbers."""
    return [re.sub(r"[\d.,]*\d", "N", line) for line in text.strip().splitlines()]


def test_a_well_deployment_is_what_the_operations_page_shows(database: str) -> None:
    """Line by line, but for the numbers; plain, for this is no terminal."""
    done = run_script("doctor", **well(database))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "\033" not in done.stdout
    examples = re.findall(r"^```text\n(.*?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert shape(done.stdout) == shape(examples[0])


def test_problems_are_exit_code_1_and_what_the_page_shows(database: str) -> None:
    """A trigger that was turned off for a bulk load, and forgotten."""
    execute(database, "ALTER TABLE messages DISABLE TRIGGER relay_insert")
    done = run_script("doctor", **well(database))
    assert (done.returncode, done.stderr) == (1, "")
    shown = re.findall(r"^```text\n(.*?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)[1]
    lines = done.stdout.splitlines()
    (place,) = (n for n, line in enumerate(lines) if line.startswith("✗"))
    assert [*lines[place : place + 2], "", lines[-1]] == shown.splitlines()


def test_every_check_is_in_the_table_of_the_operations_page() -> None:
    """In the order in which they are made."""
    table = re.search(r"^\| check \|.*\n\|[ |-]+\n((?:\|.*\n)+)", OPERATIONS, re.MULTILINE)
    assert table
    named = [row.split("|")[1].strip() for row in table[1].splitlines()]
    assert named == [check.name for check in CHECKS]


def test_warnings_alone_are_exit_code_0(database: str) -> None:
    """A script goes on; the summary counts them."""
    done = run_script("doctor", **well(database, MAX_CONNECTIONS="1000000"))
    assert done.returncode == 0, done.stdout
    assert "no problems, 1 warning" in done.stdout.splitlines()[-1]


def test_json_is_one_object_with_the_same(database: str) -> None:
    """Whatever the deployment is like."""
    done = run_script("doctor", "--json", **well(database))
    document = json.loads(done.stdout)
    assert (done.returncode, document["problems"], document["skipped"]) == (0, 0, [])
    assert [one["check"] for one in document["checks"]] == [check.name for check in CHECKS]


def test_wrong_settings_are_told_and_what_can_be_is_looked_at(database: str) -> None:
    """The rest is checked all the same."""
    done = run_script("doctor", **well(database, JWT_SECRET="sesame"))
    assert done.returncode == 1
    assert "✗ settings" in done.stdout
    assert "✓ full loop" in done.stdout
    assert "sesame" not in done.stdout + done.stderr


def test_without_an_address_that_is_all_that_is_told() -> None:
    """There is nothing to look at."""
    dsn = "mysql://someone:sesame@localhost/x"
    done = run_script("doctor", DATABASE_URL=dsn, JWT_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (1, "")
    assert "DATABASE_URL" in done.stdout
    assert "sesame" not in done.stdout


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--explain", "1", "someone")])
def test_nothing_secret_is_printed(arguments: tuple[str, ...]) -> None:
    """Neither passwords nor keys, though nothing can be reached."""
    dsn = f"postgresql://someone:open-sesame@127.0.0.1:{free_port()}/none"
    done = run_script("doctor", *arguments, **well(dsn))
    assert done.returncode == 1
    assert "sesame" not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [("--explain", "1"), ("--explain", "one", "someone"), ("--mend",), ("extra",)]
)
def test_bad_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    """Told on standard error, with how to use it."""
    done = run_script("doctor", *arguments, **well("postgresql://localhost/none"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error:" in done.stderr


def test_an_event_is_explained(database: str) -> None:
    """In words, and for programs; exit code 1 where it was not theirs."""
    execute(database, "SELECT relay.emit('bot:00000000-0000-4000-8000-0000000000b1', 'x', '{}')")
    user = "00000000-0000-4000-8000-0000000000a1"
    done = run_script("doctor", "--explain", "1", user, **well(database))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("They should not have received it.\n")
    done = run_script("doctor", "--json", "--explain", "1", user, **well(database))
    assert json.loads(done.stdout)["verdict"] == "no"
