"""`python -m realtime COMMAND`, which `bin/COMMAND` and the installed `realtime` end in."""

from __future__ import annotations

import sys

try:
    from realtime.cli.commands import main
except ModuleNotFoundError as error:
    if error.name != "click":
        raise
    sys.exit("the packages are not installed: pip install -r requirements.txt (bin/dev does it)")

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="realtime")
