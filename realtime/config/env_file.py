"""The file that `ENV_FILE` names: settings as lines `NAME=value`, read at each start of a process.

The environment of a process cannot be changed from outside; the file can, and a reload reads it
again. So what it says wins over the environment.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from realtime.config.settings import SettingsError

_LINE = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.ASCII)


def with_env_file(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment, with what the file says where `ENV_FILE` names one.

    Raises:
        SettingsError: the file cannot be read, or a line of it is none of ours.
    """
    name = environ.get("ENV_FILE")
    return {**environ, **_read(Path(name))} if name else environ


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise SettingsError(f"ENV_FILE {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"ENV_FILE {path} must be UTF-8 text") from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        match = _LINE.fullmatch(bare)
        if match is None:
            # The line is not repeated: there may be a secret in it.
            raise SettingsError(f"ENV_FILE {path} must have NAME=value in line {number}")
        found[match[1]] = _unquoted(match[2].strip())
    return found


def _unquoted(value: str) -> str:
    """A value without the quotation marks around it, where it has any."""
    is_quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value
