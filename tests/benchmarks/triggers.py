"""What the trigger on messages costs an insert, in CPU time of PostgreSQL.

    python -m tests.benchmarks.triggers [rows]

Each round runs the same inserts in turn without a trigger, with that of 0.1.0, with this release's,
and with this release's less the marks that it leaves for other triggers. CPU time of the backend is
nearly the same on a busy machine, and the ratios within a run carry further than the figures.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

import asyncpg

from migrations.scripts import FOLDER, replacing
from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.schema import migrate

ROUNDS = 12
ROWS = 3000
TOGGLE = "ALTER TABLE messages {} TRIGGER relay_insert"
MAKE = """
WITH u AS (INSERT INTO users (username) VALUES ('ada') RETURNING id),
b AS (INSERT INTO bots (name, owner_id) SELECT 'Ada', id FROM u RETURNING id, owner_id)
INSERT INTO sessions (bot_id, user_id) SELECT id, owner_id FROM b
"""
INSERTS = """
DO $$
DECLARE
    s sessions;
BEGIN
    SELECT * INTO s FROM sessions;
    FOR i IN 1..{rows} LOOP
        INSERT INTO messages (session_id, bot_id, user_id, role, content)
        VALUES (s.id, s.bot_id, s.user_id, 'user', 'hello, this is a message of some length');
    END LOOP;
END $$
"""


def trigger_of(release: str) -> str:
    """The trigger function of a revision's folder."""
    script = replacing((FOLDER / release / "reference" / "rendered.sql").read_text("ascii"))
    found = re.search(
        r"^CREATE OR REPLACE FUNCTION relay\.messages_inserted.*?^\$\$;", script, re.M | re.S
    )
    assert found is not None
    return found[0]


def without_marks(function: str) -> str:
    """The same function, which neither looks for marks nor leaves one."""
    bare = re.sub(r"relay\.is_changed\([^)]*\)", "false", function)
    bare = re.sub(r"instant := relay\.mark_written\([^)]*\);", "NULL;", bare)
    return bare.replace(":= relay.instant()", "")


VARIANTS: dict[str, str | None] = {
    "no trigger": None,
    "0.1.0": trigger_of("0001"),
    "this release, without marks": without_marks(trigger_of("0002")),
    "this release": trigger_of("0002"),
}


async def measure(dsn: str, rows: int) -> dict[str, list[float]]:
    """Microseconds of CPU for each insert, by variant and round."""
    found: dict[str, list[float]] = defaultdict(list)
    connection = await asyncpg.connect(dsn, timeout=10)
    schedstat = Path(f"/proc/{connection.get_server_pid()}/schedstat")

    def spent() -> float:
        return int(schedstat.read_text().split()[0]) / 1000

    await connection.execute(MAKE)
    await connection.execute("SELECT setval('relay.bell', 2)")  # silent, as under load
    for _ in range(ROUNDS):
        for name, function in VARIANTS.items():
            await connection.execute(TOGGLE.format("ENABLE" if function else "DISABLE"))
            if function:
                await connection.execute(function)
            transaction = connection.transaction()
            await transaction.start()
            before = spent()
            await connection.execute(INSERTS.format(rows=rows))
            found[name].append((spent() - before) / rows)
            await transaction.rollback()
    await connection.close()
    return found


def main() -> None:
    """Run on a database of its own, and print a line for each variant."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory(prefix="realtime-bench-") as home:
        Path(home).chmod(0o711)
        server = EmbeddedPostgres(Path(home) / "postgres", settings={"fsync": "off"})
        server.start()
        try:
            migrate(server.dsn())
            found = asyncio.run(measure(server.dsn(), rows))
        finally:
            server.stop("immediate")
    for name, figures in found.items():
        print(f"{name:30} {min(figures):6.1f} µs at least, {median(figures):6.1f} µs median")


if __name__ == "__main__":
    main()
