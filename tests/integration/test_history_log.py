"""What the log still has for clients that come back, asked for many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from realtime.postgres.event_log import EventLog
from realtime.postgres.history_log import HistoryLog
from realtime.postgres.wire import Wire
from realtime.relay.cursor import Cursor
from realtime.relay.position import Lineage
from realtime.relay.resume import ResumeRequest, missed_events, range_for
from tests.platform import Platform
from tests.serving import World

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool


@pytest.mark.gen_test
async def test_what_one_client_missed_as_open_and_another_as_newer_comes_once_to_each(
    pool: Pool, lineage: Lineage, platform: Platform, world: World, database: str
) -> None:
    """Also where all that is newer is too much to come with its payloads."""
    log = EventLog(platform.connection)
    early = await log.current_cursor()
    slow = await Platform.connect(database)
    begun = slow.connection.transaction()
    await begun.start()
    await slow.message(world.session, world.bot, world.owner, "slow")
    await platform.message(world.session, world.bot, world.owner, "x" * 20_000)
    late = await log.current_cursor()
    await begun.commit()
    await slow.connection.close()
    assert late.open
    until = await log.current_cursor()
    topic = f"bot:{world.bot}"

    async def owed_to(cursor: Cursor) -> int:
        history = HistoryLog(pool, lineage, Wire(10))
        seen = [one.anchor for one in (early, late, until) if one.anchor]
        ranges = {topic: range_for([early, late])}
        found = await history.read(ranges, [world.owner], 100, seen)
        request = ResumeRequest(topic, world.owner, cursor, until)
        return len(missed_events(request, found[topic], 100))

    assert await owed_to(early) == 2
    assert await owed_to(late) == 1
