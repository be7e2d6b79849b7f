"""Which database a command works on that needs no other setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from realtime.config.settings import Settings

DIRECT: Final = "DATABASE_DIRECT_URL"


def direct_name(environ: Mapping[str, str]) -> str:
    """The setting that has this address."""
    return DIRECT if environ.get(DIRECT) else "DATABASE_URL"


def direct_url(environ: Mapping[str, str]) -> str:
    """The address without a pooler between. Keys are not needed for this, or not known.

    Raises:
        SettingsError: DATABASE_URL is missing or wrong.
    """
    if not environ.get("DATABASE_URL"):
        from realtime.dev.database import export_line  # slow to load

        raise Settings.missing("database_url", environ, export_line())
    names = ("DATABASE_URL", DIRECT)
    given = {name: environ[name] for name in names if name in environ}
    settings = Settings.from_environ({"JWT_SECRET": "not used here".center(64), **given})
    return settings.database_direct_url.get_secret_value()
