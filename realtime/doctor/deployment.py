"""The deployment that is looked at: its settings, and connections to its database.

Made by the command line and by tests, handed to every check. A connection lives as long as the
check that opened it, so that one check's trouble is not the next one's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from realtime.config.settings import Settings, SettingsError
from realtime.config.spelling import Misspelling
from realtime.postgres.own_names import without_path
from realtime.postgres.pool import connect_command

if TYPE_CHECKING:
    from realtime.postgres.pool import HearingConnection

    Connection = HearingConnection

STATEMENT_SECONDS = 5.0
CLOSE_SECONDS = 1.0
_NO_KEY = {"JWT_SECRET": "not used here".center(64)}
_DATABASE_SETTINGS = ("DATABASE_URL", "DATABASE_DIRECT_URL")


@dataclass(frozen=True)
class Deployment:
    """The deployment that the checks look at.

    Args:
        settings: as the server has them; where they are wrong, those of the database alone.
        complaint: what is wrong with the settings.
        clock: seconds since the epoch, on this host.
        open_files: how many files a process may have open here (`ulimit -n`).
    """

    settings: Settings
    complaint: str
    misspelt: list[Misspelling]
    clock: Callable[[], float]
    open_files: int

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str], clock: Callable[[], float], open_files: int
    ) -> Deployment:
        """Read the settings; those of the database are enough to go on with.

        Raises:
            SettingsError: not even the database is named rightly.
        """
        complaint = ""
        try:
            settings = Settings.from_environ(environ)
        except SettingsError as error:
            complaint = str(error)
            given = {name: environ[name] for name in _DATABASE_SETTINGS if name in environ}
            settings = Settings.from_environ(_NO_KEY | given)
        return cls(settings, complaint, Settings.misspelt(environ), clock, open_files)

    @property
    def dsn(self) -> str:
        return self.settings.database_url.get_secret_value()

    @property
    def direct_dsn(self) -> str:
        return self.settings.database_direct_url.get_secret_value()

    @property
    def has_direct(self) -> bool:
        """Whether there is a second way to the database."""
        return self.settings.has_direct_url

    @asynccontextmanager
    async def connect(
        self, *, direct: bool = False, as_server: bool = False
    ) -> AsyncIterator[Connection]:
        """Open a connection by DATABASE_URL, or by DATABASE_DIRECT_URL.

        Its statements find PostgreSQL's own names only. `as_server`, they find what a server's do,
        and text is read and written as there: a platform's own `relay.authorize` may depend on it.

        It keeps no prepared statements, which a pooler might lose, and does without limits of the
        server's where a pooler refuses them.

        Raises:
            One of `realtime.postgres.pool.DATABASE_ERRORS`.
        """
        keeps_path = False
        if as_server:
            async with self.connect(direct=direct) as looking:
                keeps_path = bool(await without_path(looking))
        connection = await connect_command(
            self.direct_dsn if direct else self.dsn,
            STATEMENT_SECONDS,
            "realtime doctor",
            statement_cache_size=0,
            as_server=as_server,
            keeps_path=keeps_path,
        )
        try:
            yield connection
        finally:
            await _close(connection)


async def _close(connection: Connection) -> None:
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()  # it is broken, of which the check has told
