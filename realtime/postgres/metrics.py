"""Asks the database for metrics: those of the other processes, and those of the log.

It is asked once for each scrape, one scrape at a time.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from realtime.metrics.snapshot import DatabaseMetrics, LogMetrics
from realtime.postgres.pool import DATABASE_ERRORS
from realtime.postgres.socket_table import LIVE

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool

log = logging.getLogger(__name__)

MAX_SECONDS = 1.0
"""How long the database may take to answer. Prometheus waits 10 s for a scrape, and then it gets
not even the metrics of this process."""
MAX_NODES = 200
"""How many other processes are told of."""

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


class MetricsQuery:
    """Asks for the metrics that the database has.

    Args:
        node_id: this process's, in `relay.nodes`.
        timeout: seconds that the database may take to answer.
    """

    def __init__(self, pool: "Pool", node_id: str, *, timeout: float) -> None:
        self._pool = pool
        self._node_id = node_id
        self._timeout = min(timeout, MAX_SECONDS)
        self._turn = asyncio.Lock()

    async def ask(self) -> DatabaseMetrics | None:
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
            log.warning("metrics: %s: %s", type(error).__name__, error)
            return None
        assert row is not None
        return DatabaseMetrics([(node_id, info) for node_id, info in others], LogMetrics(*row))
