"""`python -m realtime COMMAND`, which `bin/COMMAND` and the installed `realtime` end in."""

from __future__ import annotations

import sys

NOT_INSTALLED = (
    "the packages are not installed: bin/dev does it, or python3 -m venv .venv and then"
    " .venv/bin/pip install -r requirements.txt"
)

try:
    from realtime.cli.commands import CHECKOUT, main
except ModuleNotFoundError as error:
    if error.name != "click":
        raise
    sys.exit(NOT_INSTALLED)

__all__ = ["main"]

if __name__ == "__main__":
    try:
        main(prog_name=CHECKOUT)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("realtime", "migrations"):
            raise
        sys.exit(f"{NOT_INSTALLED} (there is no {error.name})")
