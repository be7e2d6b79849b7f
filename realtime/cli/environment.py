"""The environment that every command reads: the process's own, and the file that it names."""

from __future__ import annotations

import os
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """The variables of this process, with those of `ENV_FILE`.

    Raises:
        SettingsError: the file cannot be read.
    """
    from realtime.config.env_file import with_env_file

    return with_env_file(os.environ)
