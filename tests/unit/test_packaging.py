"""What pyproject.toml says of the distribution is what the repository has."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import rowcast
from realtime import __version__
from realtime.config.settings import Settings
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


def test_server_and_clients_have_one_version() -> None:
    """In the form of each: `0.2.0.dev0` for pip is `0.2.0-dev.0` for npm, and not 0.2.0.

    The README names the file that npm makes of it.
    """
    client = ROOT / "clients" / "javascript"
    package = json.loads((client / "package.json").read_text("utf-8"))
    assert rowcast.__version__ == __version__
    assert package["version"] == re.sub(r"\.dev(\d+)$", r"-dev.\1", __version__)
    named = re.findall(r"rowcast-(\S+)\.tgz", (client / "README.md").read_text("utf-8"))
    assert set(named) == {package["version"]}


def test_the_npm_package_has_the_servers_license() -> None:
    """The same text."""
    client = ROOT / "clients" / "javascript"
    assert (client / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("folder", [".", "clients/python", "clients/javascript"])
def test_a_packages_page_has_no_links_that_lead_nowhere(folder: str) -> None:
    """PyPI and npm show the README alone, without the files beside it."""
    home = ROOT / folder
    readme = "README.md"
    if (home / "pyproject.toml").exists():
        readme = tomllib.loads((home / "pyproject.toml").read_text("utf-8"))["project"]["readme"]
    links = re.findall(r"\]\(([^)]*)\)", (home / readme).read_text("utf-8"))
    assert [one for one in links if not one.startswith(("https://", "#"))] == []


def test_the_build_tool_is_installed_for_the_tests() -> None:
    """They build the wheel offline, so with the very version that pip would fetch."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert tomllib.loads(text)["build-system"]["requires"][0] in lines("requirements-dev.txt")


def test_a_checkout_has_its_files_at_the_top() -> None:
    """The wheel has them elsewhere: tests/acceptance/test_installed.py."""
    assert IS_CHECKOUT
    assert ALEMBIC_INI == ROOT / "alembic.ini"
    assert TEMPLATES == ROOT / "migrations" / "templates"


def test_the_lock_file_pins_what_is_required() -> None:
    """Each requirement in its range, each package by its hashes, and nothing of this machine."""
    text = (ROOT / "requirements.lock").read_text("utf-8")
    entries = re.findall(
        r"^(\S+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.M
    )
    bare = re.sub(r"(?m)^ *#.*\n|^\n", "", text)
    assert "".join(f"{name}=={pin} \\\n{all_of_it}" for name, pin, all_of_it in entries) == bare
    pinned = {name: pin for name, pin, _ in entries}
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_hosts_and_images_have_a_python_that_is_supported() -> None:
    """The same one, and the classifiers say which were tried."""
    version = (ROOT / ".python-version").read_text().strip()
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    images = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert set(images) == {f"python:{version}-slim"}
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_app_json_sets_what_are_settings() -> None:
    """And what must be set is."""
    app = json.loads((ROOT / "app.json").read_text("utf-8"))
    settings = {name.upper() for name in Settings.model_fields}
    assert {"DATABASE_URL", "JWT_SECRET"} <= set(app["env"]) <= settings
    assert {check["path"] for check in app["healthchecks"]["web"]} == {"/api/ready", "/api/health"}
