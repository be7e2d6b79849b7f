"""Renders the templates for the reference tables: `python -m migrations.render 0002`.

In a template, names of tables and columns stand in double braces. `bin/attach` fills in those of a
platform, this those of the reference tables. `realtime/attach/templates.py` has the rules.

Run it after each change of a template, with the number of the revision that is not released yet.
It writes `sql/<number>/reference/rendered.sql`, which that revision runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from migrations.scripts import FOLDER, replacing
from realtime.attach.mapping import read_mapping
from realtime.attach.templates import render_all

HEADER = """\
-- Made from migrations/templates by: python -m migrations.render {number}
-- Change the templates, not this file, and run that again.

"""


def rendered(number: str) -> str:
    """The SQL of the templates, for a database that may have older ones."""
    return HEADER.format(number=number) + replacing(render_all(read_mapping(), {}))


def write(number: str) -> Path:
    """Render into the folder of a revision.

    Raises:
        SystemExit: there is no such folder, or it is released.
    """
    folder = FOLDER / number
    if (folder / "SHA256SUMS").exists():
        sys.exit(f"{folder} is released and must not change: make a folder with the next number")
    if not folder.is_dir():
        sys.exit(f"there is no folder {folder}: make it first")
    target = folder / "reference" / "rendered.sql"
    target.parent.mkdir(exist_ok=True)
    target.write_text(rendered(number), encoding="ascii")
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("say the number of the revision: python -m migrations.render 0002")
    print(write(sys.argv[1]))
