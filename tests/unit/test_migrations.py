"""The files of the migrations: what is released does not change, and each file has its use."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from migrations import render
from realtime.installation import PROJECT

MIGRATIONS = PROJECT / "migrations"
SQL = MIGRATIONS / "sql"
RELEASED = ["0001"]
"""The folders that a release has run somewhere. At a release, its own joins them."""
FILES = sorted(MIGRATIONS.rglob("*.sql"))


def name_of(path: Path) -> str:
    return path.relative_to(MIGRATIONS).as_posix()


@pytest.mark.parametrize("folder", RELEASED)
def test_what_is_released_never_changes(folder: str) -> None:
    """Or old databases and new ones would differ from then on."""
    sums = (SQL / folder / "SHA256SUMS").read_text("ascii").splitlines()
    released = {name: digest for digest, name in (line.split("  ") for line in sums)}
    found = {
        path.relative_to(SQL / folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (SQL / folder).rglob("*.sql")
    }
    changed = [name for name in released | found if released.get(name) != found.get(name)]
    assert not changed, (
        f"migrations/sql/{folder} is released, so it must not change: put {', '.join(changed)}"
        " back, and make the change in the newest folder (docs/design.md, Migrations)"
    )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sql_is_ascii(path: Path) -> None:
    """Comments too: a database of another encoding than UTF-8 may have no such character."""
    lines = path.read_text("utf-8").splitlines()
    assert [line for line in lines if not line.isascii()] == []


def test_the_newest_revision_runs_the_templates() -> None:
    """Or a migrated database would have other triggers than one attached anew."""
    newest = max(SQL.glob("*/reference/rendered.sql")).parents[1].name
    path = SQL / newest / "reference" / "rendered.sql"
    assert path.read_text("ascii") == render.rendered(newest), (
        "migrations/templates changed: run python -m migrations.render with the number of the"
        f" revision that is not released yet (the newest there is: {newest})"
    )


def test_a_released_revision_is_not_rendered_again(tmp_path: Path) -> None:
    """Nor one that there is no folder of; the line says what to do."""
    with pytest.raises(SystemExit, match="is released and must not change"):
        render.write("0001")
    with pytest.raises(SystemExit, match="make it first"):
        render.write("9999")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "FOLDER", tmp_path)
        (tmp_path / "0042").mkdir()
        assert render.write("0042").read_text("ascii") == render.rendered("0042")


def test_a_revision_runs_its_own_folder_and_all_of_it() -> None:
    """So the folder says what the revision does. Going down may run the folder before again."""
    named = set()
    for revision in sorted((MIGRATIONS / "versions").glob("*.py")):
        branch, number = revision.stem.split("_")
        scripts = set(re.findall(r'"(\d{4}/\w+/\w+)"', revision.read_text("utf-8")))
        upgrade = revision.read_text("utf-8").partition("def downgrade")[0]
        own = {name for name in scripts if name.startswith(f"{number}/{branch}/")}
        assert set(re.findall(r'"(\d{4}/\w+/\w+)"', upgrade)) <= own, revision.name
        named |= own
    assert named == {
        path.relative_to(SQL).with_suffix("").as_posix() for path in SQL.rglob("*.sql")
    }
