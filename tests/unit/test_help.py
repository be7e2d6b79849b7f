"""The help of the command line: for whom each command is, what it does, and quickly."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from realtime import __version__
from realtime.cli import commands
from realtime.cli.commands import NAMES, SECTIONS, main
from tests.commands import ROOT, environment, run_script

SLOW = {"alembic", "asyncpg", "cryptography", "pydantic", "sqlalchemy", "tornado"}
PRINT_EVERY_HELP = f"""
import sys
from realtime.cli.commands import NAMES, main
for arguments in [["--help"], *([name, "--help"] for name in NAMES)]:
    main(arguments, standalone_mode=False)
print("loaded:", *{SLOW!r} & set(sys.modules))
"""


def help_of(*arguments: str, columns: int = 80) -> str:
    """What `realtime … --help` prints on a terminal of so many columns."""
    result = CliRunner().invoke(
        main, [*arguments, "--help"], prog_name="realtime", terminal_width=columns
    )
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_the_help_lists_every_command_for_somebody() -> None:
    """Each once, under users, operators or developers, with what it does."""
    found = re.split(r"^(For .*)\n", help_of(), flags=re.MULTILINE)
    listed = {
        heading: dict(re.findall(r"^  (\w+) +(.*)$", text, re.MULTILINE))
        for heading, text in zip(found[1::2], found[2::2], strict=True)
    }
    assert listed == SECTIONS


def test_each_command_is_a_module_and_a_script() -> None:
    """`realtime X` is realtime/cli/X.py, and bin/X in a checkout."""
    helpers = {"__init__", "commands", "database", "environment"}
    modules = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - helpers
    assert modules == set(NAMES)
    assert [name for name in NAMES if not (ROOT / "bin" / name).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_says_what_it_does_with_an_example(name: str) -> None:
    """In the words of the list, and with its own name in the example."""
    text = help_of(name)
    (summary,) = (section[name] for section in SECTIONS.values() if name in section)
    assert f"\n  {summary}.\n" in text
    example = text.partition("\n  Example:\n")[2].partition("\n\n")[0]
    assert f"realtime {name}" in example


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("arguments", [(), *((name,) for name in NAMES)])
def test_the_help_fits_a_terminal(arguments: tuple[str, ...], columns: int) -> None:
    """Its example too."""
    text = help_of(*arguments, columns=columns)
    assert [line for line in text.splitlines() if len(line) > columns] == []


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"]])
def test_no_color_is_honoured(arguments: list[str]) -> None:
    """On a terminal, by what click writes in any command; an empty NO_COLOR is none."""
    for value, is_coloured in (("", True), ("1", False)):
        environ = {"NO_COLOR": value, "DATABASE_URL": "nonsense"}
        said = CliRunner().invoke(main, arguments, env=environ, color=True).stdout
        assert ("\x1b[" in said) is is_coloured, said


@pytest.mark.parametrize("name", NAMES)
def test_each_option_says_what_it_does(name: str) -> None:
    """And what it takes, in words of ours."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    assert [one.name for one in options if not one.help] == []
    assert "RANGE" not in help_of(name)


@pytest.mark.parametrize("name", ["bench", "chaos", "fuzz", "test"])
def test_the_help_of_a_script_for_developers(name: str) -> None:
    """It names the script as it is called, and fits a terminal, its example too."""
    text = run_script(name, "--help", COLUMNS="60").stdout
    assert text.startswith(f"Usage: bin/{name} ")
    assert "RANGE" not in text
    assert [line for line in text.splitlines() if len(line) > 60] == []
    example = text.partition("\n  Example:")[2]
    assert re.search(rf"\n +bin/{name} ", example)


def test_the_help_loads_little_and_touches_nothing(tmp_path: Path) -> None:
    """No driver and no settings, so it is quick; no file is made, here or at home."""
    done = subprocess.run(
        [sys.executable, "-c", PRINT_EVERY_HELP],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path), PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert list(tmp_path.iterdir()) == []


def test_the_version_names_the_product() -> None:
    """`realtime --version`, as a bug report wants it."""
    assert CliRunner().invoke(main, ["--version"]).stdout == f"Rowcast {__version__}\n"


def test_an_unknown_command_is_an_error() -> None:
    """As click says it, with the way to the help."""
    result = CliRunner().invoke(main, ["nothing"], prog_name="realtime")
    assert result.exit_code == 2
    assert "No such command 'nothing'" in result.stderr
    assert "realtime --help" in result.stderr
