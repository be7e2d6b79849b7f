"""What the log still has for clients that come back, asked for many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from realtime.postgres.event_log import EventLog
from realtime.postgres.history_log import HistoryLog
from realtime.postgres.wire import Wire
from realtime.relay.closing import CloseCode
from realtime.relay.cursor import Anchor, Cursor
from realtime.relay.errors import Refused
from realtime.relay.events import AccessKind, RowKey
from realtime.relay.position import Lineage
from realtime.relay.resume import GapReason, ResumeRequest, Unrecoverable, range_for
from tests.platform import Platform
from tests.serving import World
from tests.unit.relay_fakes import missed_events

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


@pytest.mark.gen_test
async def test_what_topics_have_along_fits_into_one_portion(
    pool: Pool, lineage: Lineage, platform: Platform, world: World
) -> None:
    """What does not fit comes without its payload, and so does a topic that has too much alone."""
    early = await EventLog(platform.connection).current_cursor()
    bots = sorted([await platform.bot(world.owner) for _ in range(7)])
    for bot, size in zip(bots, [20_000, *[12_000] * 6], strict=True):
        session = await platform.session(bot, world.owner)
        await platform.message(session, bot, world.owner, "x" * size)
    ranges = {f"bot:{bot}": range_for([early]) for bot in bots}
    found = await HistoryLog(pool, lineage, Wire(10)).read(ranges, [world.owner], 100, [])
    came = [found[topic].events[0].payload is not None for topic in ranges]
    assert came == [False, *[True] * 5, False]


GONE = RowKey(1, 1, 1)


@pytest.mark.gen_test
async def test_a_portion_of_another_log_is_not_used(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """Neither one that has removed a row, nor one without the newest row seen, nor a dump's."""
    history = HistoryLog(pool, lineage, Wire(10))

    async def refusal() -> GapReason:
        with pytest.raises(Unrecoverable) as lost:
            await history.payloads([GONE])
        with pytest.raises(Unrecoverable) as also_lost:
            await history.part(GONE, 0, 10)
        assert also_lost.value.reason is lost.value.reason
        return lost.value.reason

    assert await refusal() is GapReason.TOO_OLD
    seen = lineage.newest
    lineage.saw(Anchor(2**40, 1, 1))
    assert await refusal() is GapReason.FOREIGN
    lineage.newest = seen
    await platform.execute("UPDATE relay.floor SET system = system + 1")
    assert await refusal() is GapReason.FOREIGN


@pytest.mark.gen_test
async def test_without_the_floors_row_there_is_no_answer(
    pool: Pool, lineage: Lineage, platform: Platform, world: World
) -> None:
    """For nobody can say what was removed. So it is while a dump is restored in place."""
    early = await EventLog(platform.connection).current_cursor()
    history = HistoryLog(pool, lineage, Wire(10))
    ranges = {f"bot:{world.bot}": range_for([early])}
    await platform.execute("DELETE FROM relay.floor")
    questions = (
        history.payloads([GONE]),
        history.part(GONE, 0, 10),
        history.read(ranges, [world.owner], 100, []),
    )
    for question in questions:
        with pytest.raises(Refused) as refused:
            await question
        assert refused.value.code == CloseCode.TRY_AGAIN_LATER


@pytest.mark.gen_test
async def test_a_live_portion_of_another_log_is_not_used(
    lineage: Lineage, platform: Platform, world: World
) -> None:
    """The same for the process's own reads."""
    log = EventLog(platform.connection)
    await log.signer()
    cursor = await log.current_cursor()
    assert cursor.anchor
    other = cursor.anchor._replace(written_at=cursor.anchor.written_at + 1)

    async def refusal(cursor: Cursor, newest: Anchor | None) -> GapReason:
        with pytest.raises(Unrecoverable) as lost:
            await log.payloads([GONE], cursor, newest)
        return lost.value.reason

    assert await refusal(cursor, None) is GapReason.TOO_OLD
    assert await refusal(cursor.naming(other), None) is GapReason.FOREIGN
    assert await refusal(cursor, other) is GapReason.FOREIGN
    await platform.execute("UPDATE relay.floor SET system = system + 1")
    assert await refusal(cursor, None) is GapReason.FOREIGN


@pytest.mark.gen_test
async def test_a_payload_in_parts(
    pool: Pool, lineage: Lineage, platform: Platform, world: World
) -> None:
    """The bytes of its UTF-8, and which part is the last, also where that is full."""
    await platform.message(world.session, world.bot, world.owner, "aé€" * 100)
    row = await platform.connection.fetchrow(
        "SELECT xid, id, payload, octet_length(payload) AS size FROM relay.events"
        " ORDER BY id DESC LIMIT 1"
    )
    assert row is not None
    key, whole = RowKey(row["xid"], row["id"], row["size"]), row["payload"].encode()
    history = HistoryLog(pool, lineage, Wire(10))
    for size in (7, len(whole) // 2, len(whole), len(whole) + 1):
        parts = [await history.part(key, at, size) for at in range(0, len(whole), size)]
        assert b"".join(part.data for part in parts) == whole
        assert [part.is_last for part in parts] == [*[False] * (len(parts) - 1), True]
    [event] = await history.payloads([key])
    assert parts[0].wire_id == event.wire_id


@pytest.mark.gen_test
async def test_which_changes_of_access_are_told(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """Those on the topics and of the users that are asked about; of rechecks, those of all."""
    log = EventLog(platform.connection)
    start = await log.current_cursor()
    topic, ada, grace = "bot:b1", str(uuid4()), str(uuid4())
    for kind, code, place, user in [
        ("eject", 4003, topic, ada),
        ("eject", 4003, topic, grace),
        ("eject", 4003, "bot:b2", ada),
        ("eject", 4001, None, ada),
        ("eject", 4003, topic, None),
        ("grant", None, topic, ada),
        ("grant", None, topic, None),
        ("recheck", 4003, topic, ada),
        ("recheck", 4003, topic, None),
        ("recheck", 4001, None, ada),
        ("recheck", 4003, None, None),
    ]:
        await platform.execute(
            "INSERT INTO relay.events (type, code, topic, user_id) VALUES ($1, $2, $3, $4)",
            kind,
            code,
            place,
            user,
        )
    history = HistoryLog(pool, lineage, Wire(10))
    found = await history.read({topic: range_for([start])}, [ada], 100, [])
    told = [(change.kind, change.topic, change.user_id) for change in found[topic].changes]
    assert sorted(told, key=str) == sorted(
        [
            (AccessKind.REVOKE, topic, ada),
            (AccessKind.REVOKE, None, ada),
            (AccessKind.REVOKE, topic, None),
            (AccessKind.GRANT, topic, ada),
            (AccessKind.RECHECK, None, None),
        ],
        key=str,
    )
    nothing = await history.read({topic: range_for([await log.current_cursor()])}, [ada], 100, [])
    assert nothing[topic].changes == []


@pytest.mark.gen_test
async def test_a_revoke_by_a_transaction_that_was_open_is_told(
    pool: Pool, lineage: Lineage, platform: Platform, database: str
) -> None:
    """Its id is lower than the cursor's last: who comes back was locked out all the same."""
    log = EventLog(platform.connection)
    ada = str(uuid4())
    slow = await Platform.connect(database)
    begun = slow.connection.transaction()
    await begun.start()
    await slow.execute(
        "INSERT INTO relay.events (type, code, topic, user_id)"
        " VALUES ('eject', 4003, 'bot:b1', $1)",
        ada,
    )
    await platform.execute("INSERT INTO relay.events (type, topic) VALUES ('grant', 'bot:b2')")
    cursor = await log.current_cursor()
    await begun.commit()
    await slow.connection.close()
    assert cursor.open
    history = HistoryLog(pool, lineage, Wire(10))
    found = await history.read({"bot:b1": range_for([cursor])}, [ada], 100, [])
    assert [(one.kind, one.user_id) for one in found["bot:b1"].changes] == [
        (AccessKind.REVOKE, ada)
    ]


@pytest.mark.gen_test
async def test_of_too_many_the_newest_are_complete_and_no_others(
    pool: Pool, lineage: Lineage, platform: Platform
) -> None:
    """Who saw all but the newest is served; the others are told that something is missing.

    Also where what is read besides was written after the client was let in.
    """
    log = EventLog(platform.connection)
    places = [await log.current_cursor()]
    for text in ("1", "2", "3", "4"):
        await platform.execute(
            "INSERT INTO relay.events (topic, type, payload) VALUES ('bot:b1', 'x', $1)", text
        )
        places.append(await log.current_cursor())
    history = HistoryLog(pool, lineage, Wire(10))
    seen = [one.anchor for one in places if one.anchor]
    found = await history.read({"bot:b1": range_for(places)}, [], 2, seen)

    def missed(cursor: Cursor, until: Cursor) -> list[str | None]:
        request = ResumeRequest("bot:b1", str(uuid4()), cursor, until)
        return [event.payload for event in missed_events(request, found["bot:b1"], 2)]

    assert missed(places[2], places[4]) == ["3", "4"]
    with pytest.raises(Unrecoverable) as lost:
        missed(places[0], places[3])
    assert lost.value.reason is GapReason.TOO_MANY
