"""Holds the import directions: relay knows nobody, web and postgres know relay, few know all."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import realtime
import rowcast

ROOT = Path(realtime.__file__).parent
ROOMS = {"realtime.relay", "realtime.web", "realtime.postgres"}
COMPOSERS = {
    "realtime.runtime.parts",
    "realtime.runtime.server",
    "realtime.dev.command",
    "realtime.dev.platform",
}
"""They alone may know all three rooms."""
DRIVERS = {"tornado", "asyncpg", "sqlalchemy", "alembic"}
FORBIDDEN = {
    "realtime.relay": ROOMS - {"realtime.relay"} | DRIVERS,
    "realtime.web": {"realtime.postgres", "realtime.runtime"} | DRIVERS - {"tornado"},
    "realtime.postgres": {"realtime.web", "realtime.runtime", "tornado"},
    "realtime.config": ROOMS | DRIVERS | {"realtime.runtime"},
    "realtime.auth": ROOMS | DRIVERS - {"tornado"} | {"realtime.runtime"},
    # A tool for operators, with SQL of its own: it asks the database, and serves nobody.
    "realtime.doctor": {"realtime.web", "realtime.runtime.server", "sqlalchemy", "alembic"},
}


def modules(root: Path) -> dict[str, Path]:
    """The modules of a package, by their names."""
    return {
        ".".join((root.name, *path.relative_to(root).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in sorted(root.rglob("*.py"))
    }


MODULES = modules(ROOT)
CLIENT = modules(Path(rowcast.__file__).parent)


def imports(name: str, path: Path) -> Iterator[str]:
    """Everything that a module imports, wherever in it: under TYPE_CHECKING and in functions too.

    `from realtime import runtime` counts as `realtime.runtime`, and relative imports are resolved.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            origin = ".".join([*parents, node.module or ""]).strip(".")
            source = origin if node.level else node.module or ""
            yield from (f"{source}.{alias.name}" for alias in node.names)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def rooms_of(names: Iterator[str]) -> set[str]:
    return {room for name in names for room in ROOMS if is_within(name, room)}


@pytest.mark.parametrize("name", MODULES)
def test_arrows_point_down(name: str) -> None:
    """No module imports what lies above or beside it."""
    found = set(imports(name, MODULES[name]))
    forbidden = {no for ours, noes in FORBIDDEN.items() if is_within(name, ours) for no in noes}
    assert not [one for one in found for no in forbidden if is_within(one, no)]


@pytest.mark.parametrize("name", [name for name in MODULES if is_within(name, "realtime.relay")])
def test_relay_knows_nobody(name: str) -> None:
    """Of this project, the relay's modules import one another and nothing else."""
    ours = {one for one in imports(name, MODULES[name]) if is_within(one, "realtime")}
    assert all(is_within(one, "realtime.relay") for one in ours)


@pytest.mark.parametrize("name", CLIENT)
def test_the_client_knows_nobody(name: str) -> None:
    """It is installed by services that have nothing else of this project."""
    roots = {one.partition(".")[0] for one in imports(name, CLIENT[name])}
    assert roots <= sys.stdlib_module_names | {"rowcast", "tornado"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_few_need_the_client(name: str) -> None:
    """The server's wheel is installed without it: `tail` alone says that it is missing."""
    if name in ("realtime.client", "realtime.tail.command"):
        return
    assert not [one for one in imports(name, MODULES[name]) if is_within(one, "rowcast")]


@pytest.mark.parametrize("name", [name for name in MODULES if is_within(name, "realtime.simulate")])
def test_the_simulation_knows_nobody(name: str) -> None:
    """It writes rows as any service would, without a line of the relay's."""
    found = set(imports(name, MODULES[name]))
    assert all(is_within(one, "realtime.simulate") for one in found if is_within(one, "realtime"))
    assert not [one for one in found for no in DRIVERS - {"asyncpg"} if is_within(one, no)]


@pytest.mark.parametrize("name", sorted(MODULES.keys() - COMPOSERS))
def test_few_know_all(name: str) -> None:
    """Only the composing modules know both sides, web and postgres."""
    assert not {"realtime.web", "realtime.postgres"} <= rooms_of(imports(name, MODULES[name]))


@pytest.mark.parametrize("name", [name for name in MODULES if rooms_of(iter([name]))])
def test_rooms_do_not_know_their_composers(name: str) -> None:
    """No module in a room imports what composes it."""
    found = set(imports(name, MODULES[name]))
    assert not [one for one in found for up in COMPOSERS if is_within(one, up)]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nobody_needs_the_doctor(name: str) -> None:
    """Its own command apart, nothing imports it."""
    if is_within(name, "realtime.doctor") or name == "realtime.cli.doctor":
        return
    assert not [one for one in imports(name, MODULES[name]) if is_within(one, "realtime.doctor")]


def test_every_kind_of_import_is_seen(tmp_path: Path) -> None:
    """The check sees imports under TYPE_CHECKING, in functions, relative and by package."""
    source = tmp_path / "module.py"
    source.write_text(
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    from e.f import g\n"
        "def function():\n    from . import h\n    from ..i import j\n"
    )
    expected = {"a.b", "c.d", "e.f.g", "realtime.web.h", "realtime.i.j"}
    assert set(imports("realtime.web.module", source)) == expected
    assert {
        "realtime.relay.hub",
        "realtime.web.sockets",
        "realtime.runtime.server",
    } <= MODULES.keys()


def test_no_class_name_means_two_things() -> None:
    """Each name is of one class."""
    names = Counter(
        node.name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_names_its_callers(name: str) -> None:
    """Such lines go stale, and an editor finds the callers."""
    assert not re.search(r"\b(Called|Used) by\b", MODULES[name].read_text())
