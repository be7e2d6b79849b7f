"""How bin/dev and bin/test make .venv: once, again when the requirements change, and after a kill.

A stub stands in for Python and writes down how it was called, so nothing is downloaded.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.waiting import LIMIT

PYTHONS = ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python")
STUB = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  *version_info*) exit "${TOO_OLD:-0}" ;;
  *ensurepip*) exit "${NO_VENV:-0}" ;;
  "-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  "-m pip install "*) exit "${PIP_FAILS:-0}" ;;
  --version) echo "Python 3.10.0" ;;
esac
"""
VENV = "-m venv --clear"
PIP = "-m pip install"


class Checkout:
    """A checkout that has never been set up, on a machine whose Pythons are stubs."""

    def __init__(self, home: Path) -> None:
        self.root = home / "it's a checkout"
        self.calls = home / "calls"
        (home / "path").mkdir()
        for name in PYTHONS:
            (home / "path" / name).write_text(STUB)
            (home / "path" / name).chmod(0o755)
        self.path = f"{home / 'path'}:/usr/bin:/bin"
        shutil.copytree(ROOT / "bin", self.root / "bin")
        for requirements in ROOT.glob("requirements*.txt"):
            shutil.copy(requirements, self.root)
        client = self.root / "clients" / "python"
        client.mkdir(parents=True)
        shutil.copy(ROOT / "clients" / "python" / "pyproject.toml", client)

    def run(self, script: str, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a script; what it called is in `called` afterwards."""
        self.calls.write_text("")
        return subprocess.run(
            [str(self.root / "bin" / script), *arguments],
            cwd="/",
            env={"PATH": self.path, "HOME": "", "CALLS": str(self.calls), **extra},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def called(self, start: str) -> int:
        return sum(line.startswith(start) for line in self.calls.read_text().splitlines())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_first_run_installs_and_the_second_does_not(checkout: Checkout) -> None:
    """The second time only the command itself runs."""
    first = checkout.run("dev")
    assert first.returncode == 0, first.stderr
    assert (checkout.called(VENV), checkout.called(PIP)) == (1, 1)
    assert "Installing the packages, once" in first.stderr
    second = checkout.run("dev", "--help")
    assert checkout.calls.read_text() == "-m realtime dev --help\n"
    assert second.stderr == ""


def test_changed_requirements_are_installed_into_the_same_environment(checkout: Checkout) -> None:
    """A pull that changes them costs one pip run."""
    checkout.run("dev")
    for changed in ("requirements.txt", "clients/python/pyproject.toml"):
        with (checkout.root / changed).open("a") as file:
            file.write("another\n")
        checkout.run("dev")
        assert (checkout.called(VENV), checkout.called(PIP)) == (0, 1)


def test_an_interrupted_installation_starts_afresh(checkout: Checkout) -> None:
    """What a killed pip left can look installed and be broken."""
    failed = checkout.run("dev", PIP_FAILS="1")
    assert failed.returncode != 0
    assert "run this again" in failed.stderr
    assert checkout.called("-m realtime") == 0
    checkout.run("dev")
    assert (checkout.called(VENV), checkout.called(PIP)) == (1, 1)
    assert checkout.called("-m realtime dev") == 1


def test_an_environment_of_the_developers_own_is_not_cleared(checkout: Checkout) -> None:
    """A .venv that an editor made is filled, not thrown away."""
    (checkout.root / ".venv/bin").mkdir(parents=True)
    shutil.copy(checkout.path.split(":")[0] + "/python3", checkout.root / ".venv/bin/python")
    checkout.run("dev")
    assert (checkout.called(VENV), checkout.called(PIP)) == (0, 1)


def test_an_old_python_is_one_line(checkout: Checkout) -> None:
    """What is needed and what was found."""
    done = checkout.run("dev", TOO_OLD="1")
    assert done.returncode != 0
    assert done.stderr == "Python 3.11 or newer is needed; found: Python 3.10.0\n"


def test_a_python_without_venv_is_one_line(checkout: Checkout) -> None:
    """As Debian ships it."""
    done = checkout.run("dev", NO_VENV="1")
    assert done.returncode != 0
    assert "apt-get install python3-venv" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_test_checks_everything_then_runs_pytest_with_coverage(checkout: Checkout) -> None:
    """Arguments replace the coverage, which a part of the tests cannot reach."""
    checkout.run("test")
    steps = (
        "-m ruff format --check",
        "-m ruff check",
        "-m mypy --strict realtime clients",
        "-m pytest",
    )
    assert [checkout.called(step) for step in steps] == [1, 1, 1, 1]
    assert "--cov-fail-under=100" in checkout.calls.read_text()
    checkout.run("test", "-k", "something")
    assert "-m pytest -k something\n" in checkout.calls.read_text()


@pytest.mark.parametrize("script", ["dev", "bench", "chaos", "fuzz", "test"])
def test_help_touches_nothing(checkout: Checkout, script: str) -> None:
    """In a fresh checkout it is the script's own comment, with an example."""
    done = checkout.run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"bin/{script}" in done.stdout
    assert "Example" in done.stdout
    assert checkout.calls.read_text() == ""
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("script", ["serve", "migrate", "token", "simulate"])
def test_production_commands_install_nothing(checkout: Checkout, script: str) -> None:
    """Without .venv they use the Python on PATH, as on a Procfile host."""
    checkout.run(script, "x")
    assert checkout.calls.read_text() == f"-m realtime {script} x\n"
    assert not (checkout.root / ".venv").exists()
