"""What the database knows for the metrics: the other processes' figures, and how the log is.

Asked once for each scrape, one scrape at a time. Asked by `web.figures`.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from realtime.metrics.snapshot import DatabaseState, LogState
from realtime.postgres.pool import DATABASE_ERRORS
from realtime.postgres.socket_table import LIVE

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool

log = logging.getLogger(__name__)

MAX_SECONDS = 1.0
"""Prometheus waits ten, and then has not even what this process knows of itself."""
MAX_NODES = 200

_OTHERS = f"""
SELECT node.id::text, node.info::text FROM relay.nodes AS node
 WHERE node.id <> $1 AND {LIVE} ORDER BY node.started_at, node.id LIMIT {MAX_NODES}
"""
# The rows are the statistics' (to count them takes long); the oldest is found by the index.
_LOG = """
SELECT (SELECT coalesce(sum(pg_stat_get_live_tuples(inhrelid)), 0)::bigint
          FROM pg_inherits WHERE inhparent = 'relay.events'::regclass),
       (SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint
          FROM pg_inherits WHERE inhparent = 'relay.events'::regclass),
       coalesce(date_part('epoch', clock_timestamp() - (
           SELECT written_at FROM relay.events
            WHERE xid < pg_snapshot_xmax(pg_current_snapshot()) ORDER BY xid LIMIT 1)), 0),
       pg_notification_queue_usage()
"""


class DatabaseMetrics:
    """Asks for them.

    Args:
        node_id: this process's, in `relay.nodes`.
        timeout: seconds until a question counts as unanswered.
    """

    def __init__(self, pool: "Pool", node_id: str, *, timeout: float) -> None:
        self._pool = pool
        self._node_id = node_id
        self._timeout = min(timeout, MAX_SECONDS)
        self._turn = asyncio.Lock()

    async def ask(self) -> DatabaseState | None:
        """None: the database cannot be asked at the moment."""
        try:
            # One at a time, as in `connections`.
            async with (
                asyncio.timeout(self._timeout),
                self._turn,
                self._pool.acquire() as connection,
            ):
                others = await connection.fetch(_OTHERS, self._node_id)
                row = await connection.fetchrow(_LOG)
        except DATABASE_ERRORS as error:
            log.warning("figures: %s: %s", type(error).__name__, error)
            return None
        assert row is not None
        return DatabaseState([(node_id, info) for node_id, info in others], LogState(*row))
