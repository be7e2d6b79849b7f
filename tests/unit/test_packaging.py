"""What pyproject.toml says of the distribution is what the repository has."""

from __future__ import annotations

import json
import re
import tomllib

from realtime import __version__
from realtime.installation import ALEMBIC_INI, IS_CHECKOUT, TEMPLATES
from tests.commands import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def lines(name: str) -> list[str]:
    """The requirements in a file, without comments and options."""
    text = (ROOT / name).read_text("utf-8")
    found = (re.sub(r"\s*#.*", "", line) for line in text.splitlines())
    return [line for line in found if line and not line.startswith("-")]


def test_the_wheel_needs_what_hosts_install() -> None:
    """One says it to pip, the other to hosts that install requirements.txt alone.

    The client is no dependency of the wheel, which is installed where no index has it.
    """
    assert ["./clients/python", *PROJECT["dependencies"]] == lines("requirements.txt")


def test_the_client_is_a_distribution_that_fits_the_server() -> None:
    """Both are installed together, so the client takes the server's Tornado; it has its license."""
    client = ROOT / "clients" / "python"
    project = tomllib.loads((client / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(project["dependencies"]) <= set(PROJECT["dependencies"])
    assert project["requires-python"] == PROJECT["requires-python"]
    assert (client / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_npm_package_is_of_the_servers_release() -> None:
    """npm knows no `.dev0`, and the license is the same."""
    client = ROOT / "clients" / "javascript"
    package = json.loads((client / "package.json").read_text("utf-8"))
    assert package["version"] == __version__.removesuffix(".dev0")
    assert (client / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_build_tool_is_installed_for_the_tests() -> None:
    """They build the wheel offline, so with the very version that pip would fetch."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert tomllib.loads(text)["build-system"]["requires"][0] in lines("requirements-dev.txt")


def test_a_checkout_has_its_files_at_the_top() -> None:
    """The wheel has them elsewhere: tests/acceptance/test_installed.py."""
    assert IS_CHECKOUT
    assert ALEMBIC_INI == ROOT / "alembic.ini"
    assert TEMPLATES == ROOT / "migrations" / "templates"
