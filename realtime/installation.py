"""Where the files beside the code are: in a checkout, and where the wheel was installed.

A checkout has `alembic.ini` and `migrations` at its top. The wheel has both in `realtime/database`
(see pyproject.toml), because a package `migrations` at the top of site-packages could be anybody's.
The JavaScript client is a package of its own, `clients/javascript`; the wheel has a copy to serve.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parent
_IN_THE_WHEEL: Final = _PACKAGE / "database"

IS_CHECKOUT: Final = not _IN_THE_WHEEL.exists()
"""Whether this is a checkout, and not an installed wheel."""

PROJECT: Final = _PACKAGE.parent if IS_CHECKOUT else _IN_THE_WHEEL
"""The folder that holds `alembic.ini` and `migrations`."""

ALEMBIC_INI: Final = PROJECT / "alembic.ini"

TEMPLATES: Final = PROJECT / "migrations" / "templates"
"""The triggers and access functions, before a mapping has filled them."""

JAVASCRIPT_CLIENT: Final = (
    PROJECT / "clients" / "javascript" / "src" if IS_CHECKOUT else _PACKAGE / "web" / "static"
)
"""What is served as `/static/realtime.js`, its types, and the modules that it imports."""

DATA: Final = (
    PROJECT / ".data" if IS_CHECKOUT else Path(os.path.expanduser("~/.local/share/rowcast"))  # noqa: PTH111 - raises nothing
)
"""What `dev` keeps: its database and its secret."""


def python_of(module: str) -> list[str]:
    """The command that runs a module of this installation in a new Python.

    Where a wheel is installed, a folder `realtime` that happens to be in the current directory does
    not count; a checkout is found by the current directory.
    """
    return [sys.executable, *(() if IS_CHECKOUT else ("-P",)), "-m", module]


def as_called(text: str) -> str:
    """Name commands as they are called here: `bin/dev` in a checkout, else `realtime dev`."""
    return text if IS_CHECKOUT else re.sub(r"(?<![\w/])bin/(?=\w)", "realtime ", text)
