"""The doctor on the log: too long, from elsewhere, with a silent bell; and an event all the way."""

from __future__ import annotations

from uuid import uuid4

import pytest

from realtime.doctor.report import Level
from realtime.postgres.event_log import EventLog
from realtime.postgres.pool import connect
from realtime.postgres.schema import SchemaError
from tests.doctor import ask, deployment, finds, said
from tests.platform import Platform
from tests.serving import RunningServer
from tests.waiting import LIMIT, eventually

OLD = (
    "INSERT INTO relay.events (topic, type, payload, written_at)"
    " VALUES ('bot:x', 'x', '{}', now() - interval '5 hours')"
)


async def someone_alive(platform: Platform, *, awake: bool = False) -> None:
    await platform.execute(
        "INSERT INTO relay.nodes (id, awake) VALUES ($1, $2)", str(uuid4()), awake
    )


@pytest.mark.gen_test
async def test_a_log_without_a_key_for_cursors(database: str, platform: Platform) -> None:
    """As after a restore that left the table's rows out: servers refuse it, and say the same."""
    await platform.execute("DELETE FROM relay.cursor_keys")
    with pytest.raises(SchemaError) as refused:
        await EventLog(platform.connection).start()
    (finding,) = await ask("restored dump", deployment(database))
    assert finding.level is Level.PROBLEM
    assert str(refused.value) == f"{finding.said}: {finding.cure}"
    await platform.execute("SELECT relay.make_cursor_key()")
    await finds(Level.FINE, "restored dump", deployment(database))
    await EventLog(platform.connection).start()
    await platform.execute("UPDATE relay.cursor_keys SET signs = false")
    await finds(Level.PROBLEM, "restored dump", deployment(database), "no key that signs")


# Its length.


@pytest.mark.gen_test
async def test_a_log_of_a_good_length(database: str, platform: Platform) -> None:
    """Rows and age are told."""
    await finds(Level.FINE, "log", deployment(database), "it is empty")
    await platform.user()
    await finds(Level.FINE, "log", deployment(database), "1 row, the oldest")


@pytest.mark.gen_test
async def test_a_log_that_nobody_empties(database: str, platform: Platform) -> None:
    """No server runs, which would."""
    await platform.execute(OLD)
    await finds(Level.WARNING, "log", deployment(database), "5 h old", "start a server")
    await finds(Level.FINE, "log", deployment(database, RETENTION_SECONDS="7200"))


@pytest.mark.gen_test
async def test_rows_from_before_the_clock_was_set_back(database: str, platform: Platform) -> None:
    """They say nothing of the log's age, and somebody is to look after the clock."""
    await platform.user()
    await platform.execute("UPDATE relay.events SET written_at = now() + interval '5 s'")
    await finds(Level.FINE, "log", deployment(database), "the oldest 0")
    await platform.execute("UPDATE relay.events SET written_at = now() + interval '5 hours'")
    await finds(Level.WARNING, "log", deployment(database), "future: 1, by up to 5 h", "right time")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("DETACH PARTITION relay.events_2", "relay.events_2 is no partition of the log"),
        ("SET UNLOGGED", "relay.events_2 is UNLOGGED"),
    ],
)
async def test_a_partition_that_is_not_as_it_was_made(
    database: str, platform: Platform, broken: str, said: str
) -> None:
    """What it says to run makes it so again."""
    table = "events" if broken.startswith("DETACH") else "events_2"
    await platform.execute(f"ALTER TABLE relay.{table} {broken}")
    (finding,) = await ask("log", deployment(database))
    assert finding.level is Level.PROBLEM
    assert finding.said.startswith(said)
    await platform.execute(finding.cure)
    await finds(Level.FINE, "log", deployment(database), "it is empty")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "lock", ["relay.events_0 IN ACCESS SHARE MODE", "relay.retention_turn IN EXCLUSIVE MODE"]
)
async def test_a_log_that_cannot_be_emptied(
    database: str, platform: Platform, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """Somebody holds a lock on a partition, or keeps the turn, and is named."""
    monkeypatch.setattr("realtime.doctor.log.HOLDER_SECONDS", 0.0)
    await platform.execute(OLD)
    await someone_alive(platform)
    holder = await Platform.connect(database)
    transaction = holder.connection.transaction()
    await transaction.start()
    await holder.execute(f"LOCK TABLE {lock}")
    pid = holder.connection.get_server_pid()
    await finds(Level.WARNING, "log", deployment(database), f"lock on the log: process {pid}")
    await transaction.rollback()
    await finds(Level.WARNING, "log", deployment(database), "end old transactions")
    await holder.connection.close(timeout=LIMIT)


# What came with a dump.


@pytest.mark.gen_test
async def test_a_log_from_another_database(database: str, platform: Platform) -> None:
    """As after a restore of another database's dump; what it says to run begins the log anew."""
    await finds(Level.FINE, "restored dump", deployment(database), "this database's own")
    await platform.execute("UPDATE relay.floor SET system = system + 1")
    await finds(
        Level.WARNING, "restored dump", deployment(database), "came with a dump from another"
    )
    (finding,) = await ask("restored dump", deployment(database))
    await platform.execute(finding.cure.split("or now: ")[1])
    await finds(Level.FINE, "restored dump", deployment(database))


@pytest.mark.gen_test
async def test_rows_from_a_server_that_is_ahead(database: str, platform: Platform) -> None:
    """As after rows of the log alone were copied; what it says to run removes them."""
    await platform.user()
    await platform.execute(
        "INSERT INTO relay.events (topic, type, payload, xid)"
        " SELECT topic, type, payload, '1000000000' FROM relay.events"
    )
    await finds(Level.WARNING, "restored dump", deployment(database), "still to come here: 1")
    (finding,) = await ask("restored dump", deployment(database))
    await platform.execute(finding.cure.split("owner: ")[1])
    await finds(Level.FINE, "restored dump", deployment(database))
    assert await platform.connection.fetchval("SELECT count(*) FROM relay.events") == 1


# The bell.


@pytest.mark.gen_test
async def test_a_silent_bell_and_nobody_awake(
    database: str, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there are sleepers or nobody at all; not while somebody is awake."""
    monkeypatch.setattr("realtime.doctor.log.SILENCE_SECONDS", 0.01)
    await finds(Level.FINE, "doorbell", deployment(database), "on; live processes: 0")
    await platform.execute("SELECT setval('relay.bell', 2)")
    await finds(Level.PROBLEM, "doorbell", deployment(database), "the bell is silent")
    await someone_alive(platform)
    await finds(Level.PROBLEM, "doorbell", deployment(database), "the bell is silent")
    await someone_alive(platform, awake=True)
    await finds(Level.FINE, "doorbell", deployment(database), "silent; live processes: 2, awake: 1")
    await platform.execute("UPDATE relay.nodes SET heartbeat_at = now() - interval '1 minute'")
    (finding,) = await ask("doorbell", deployment(database))
    await platform.execute(finding.cure.split("or now: ")[1])
    await finds(Level.FINE, "doorbell", deployment(database))


# An event all the way.


@pytest.mark.gen_test
async def test_an_event_goes_all_the_way(database: str, platform: Platform) -> None:
    """It is the one thing that is written, on a topic that nobody watches."""
    await finds(Level.FINE, "full loop", deployment(database), "written, rung for, heard and read")
    (row,) = await platform.connection.fetch("SELECT topic, type FROM relay.events")
    assert row["type"] == "doctor_check"
    assert row["topic"].startswith("bot:")


@pytest.mark.gen_test
async def test_the_loop_while_servers_are_awake(
    database: str, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing rings then, and nothing needs to."""
    monkeypatch.setattr("realtime.doctor.loop.RING_SECONDS", 0.1)
    await platform.execute("SELECT setval('relay.bell', 2)")
    await finds(Level.FINE, "full loop", deployment(database), "nothing rang")


@pytest.mark.gen_test
async def test_the_loop_without_a_ring(
    database: str, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where relay.quiet is set for everybody."""
    monkeypatch.setattr("realtime.doctor.loop.RING_SECONDS", 0.1)
    name = await platform.connection.fetchval("SELECT current_database()")
    await platform.execute(f"ALTER DATABASE {name} SET relay.quiet = 'on'")
    await finds(Level.PROBLEM, "full loop", deployment(database), "its ring was not heard")


@pytest.mark.gen_test
async def test_a_running_server_is_counted(server: RunningServer, database: str) -> None:
    """And the loop goes past it without harm."""

    async def counted() -> bool:
        (finding,) = await ask("doorbell", deployment(database))
        return "live processes: 1" in finding.said

    await eventually(counted)
    await finds(Level.FINE, "full loop", deployment(database))


@pytest.mark.gen_test
async def test_a_process_that_cannot_read_the_log(database: str, platform: Platform) -> None:
    """It says so with its heartbeats. One that is ready, or long gone, is no matter."""
    await finds(Level.FINE, "processes", deployment(database), "ready")
    for host, is_ready, age in (("stuck", False, 0), ("well", True, 0), ("gone", False, 60)):
        await platform.execute(
            "INSERT INTO relay.nodes (id, heartbeat_at, info) VALUES (gen_random_uuid(),"
            " now() - make_interval(secs => $1), jsonb_build_object('hostname', $2::text,"
            " 'port', 8000, 'ready', $3::boolean))",
            age,
            host,
            is_ready,
        )
    await finds(Level.WARNING, "processes", deployment(database), "stuck:8000", "log_not_read")
    await finds(Level.WARNING, "processes", deployment(database), "starts", "again in 10 s")
    assert "well" not in said(await ask("processes", deployment(database)))
    assert "gone" not in said(await ask("processes", deployment(database)))


@pytest.mark.gen_test
async def test_a_process_whose_heartbeats_are_not_taken(database: str, platform: Platform) -> None:
    """As where the disk is full. It is told from one that is gone by its session."""
    listening = await connect(database, LIMIT)
    await platform.execute(
        "INSERT INTO relay.nodes (id, heartbeat_at, backend, info)"
        " SELECT gen_random_uuid(), now() - interval '60 s', backend,"
        "        jsonb_build_object('hostname', host, 'port', 8000)"
        "   FROM (VALUES ('there', $1::integer), ('gone', 0), ('other', pg_backend_pid()))"
        "        AS nodes (host, backend)",
        listening.get_server_pid(),
    )
    there = deployment(database)
    await finds(Level.WARNING, "processes", there, "a heartbeat: there:8000", "heartbeat_failed")
    await listening.close(timeout=LIMIT)
    await finds(Level.FINE, "processes", there)
