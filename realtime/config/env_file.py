"""The file that `ENV_FILE` names: settings as lines `NAME=value`, read at each start of a process.

The environment of a process cannot be changed from outside; the file can, and a reload reads it
again. So what it says wins over the environment.

A shell and systemd may read the same file. A line that one of them would take for something else
is refused: python-dotenv, for instance, would read it in a third way, and say nothing.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from realtime.config.settings import SettingsError

_LINE = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.ASCII)
# A blank or one of `;&|<>()` ends a value for a shell, and not for systemd; what `$`, ` and ~ begin
# is replaced by a shell; a backslash is taken away by both, between double quotation marks only at
# times.
_VALUE = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:[^"\\$`]|\\[^"\\$`])*)"|(?P<bare>[^\s'"\\$`~;&|<>()]*)"""
)


def with_env_file(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment, with what the file says where `ENV_FILE` names one.

    Raises:
        SettingsError: the file cannot be read, or a line of it is none of ours.
    """
    name = environ.get("ENV_FILE")
    return {**environ, **_read(Path(name))} if name else environ


def _read(path: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        if line.endswith("\r"):
            raise SettingsError(
                f"ENV_FILE {path} must have lines that end with LF alone: a shell takes the CR of"
                f" line {number} as part of the value"
            )
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        # The line is not repeated: there may be a secret in it.
        match = _LINE.fullmatch(bare)
        if match is None:
            raise SettingsError(f"ENV_FILE {path} must have NAME=value in line {number}")
        value = _VALUE.fullmatch(match[2].strip())
        if value is None:
            raise SettingsError(
                f"ENV_FILE {path} must have, in line {number}, a value that a shell and systemd"
                " read alike: write it as NAME='value', with a comment on a line of its own"
            )
        found[match[1]] = value[value.lastgroup or 0]
    return found


def _text_of(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # to open a pipe waits for somebody who writes
            raise SettingsError(f"ENV_FILE {path} cannot be read: it is no regular file")
        # Editors on Windows begin a file with a mark. Ends of lines stay as they are.
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"ENV_FILE {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"ENV_FILE {path} must be UTF-8 text") from None
