"""The database's word on who may be where, and what is said when it cannot be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
from tornado.ioloop import IOLoop

from realtime.embedded.server import EmbeddedPostgres
from realtime.postgres.access import MAX_APART, Access
from realtime.postgres.doorbell import ALIVE_SECONDS
from realtime.postgres.history_log import HistoryLog
from realtime.postgres.listener import read_position
from realtime.postgres.pool import open_pool
from realtime.postgres.wire import Wire
from realtime.relay.admission import Admission, AdmissionRequest
from realtime.relay.closing import CloseCode
from realtime.relay.cursor import Cursor, Signer
from realtime.relay.errors import Refused
from realtime.relay.position import Lineage, Position
from realtime.relay.recheck import RecheckAnswer
from realtime.relay.resume import ReadRange
from tests.integration.nodes import add_node
from tests.platform import Platform
from tests.postgres import restart
from tests.serving import World
from tests.waiting import LIMIT, eventually

if TYPE_CHECKING:
    from realtime.postgres.pool import Pool

LOCK = "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE"
FAILS_FOR_SOME = """
CREATE OR REPLACE FUNCTION relay.authenticate(subject text, kind text)
RETURNS TABLE (user_id uuid, username text) LANGUAGE sql STABLE
AS 'SELECT id, username FROM public.users WHERE id = subject::uuid'
"""


@pytest.fixture
def access(pool: Pool, lineage: Lineage) -> Access:
    return Access(pool, lineage, subject_kind="id", timeout=10)


@pytest.fixture
def access_by_username(pool: Pool, lineage: Lineage) -> Access:
    return Access(pool, lineage, subject_kind="username", timeout=10)


async def admit(access: Access, subject: str, bot_id: str | None = None) -> Admission:
    """Ask for one alone."""
    (answer,) = await access.authorize([AdmissionRequest(subject, bot_id)])
    assert isinstance(answer, Admission)
    return answer


async def refusal_of(access: Access, subject: str, bot_id: str | None = None) -> int:
    (answer,) = await access.authorize([AdmissionRequest(subject, bot_id)])
    assert isinstance(answer, Refused)
    return answer.code


def may_stay(answers: Sequence[RecheckAnswer | Refused]) -> list[RecheckAnswer]:
    """Answers, of which none is a refusal."""
    found = [one for one in answers if isinstance(one, RecheckAnswer)]
    assert len(found) == len(answers)
    return found


async def is_waiting(platform: Platform) -> Any:
    """Whether somebody in this database waits for a lock."""
    return await platform.connection.fetchval(
        "SELECT count(*) FROM pg_locks WHERE NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )


# Who is meant.


@pytest.mark.gen_test
async def test_of_long_names_only_the_beginning_is_read(
    access: Access, platform: Platform, world: World
) -> None:
    """Each socket holds them, however many sockets there are."""
    await platform.execute("UPDATE bots SET name = repeat('b', 10000000)")
    await platform.execute(
        "UPDATE users SET username = repeat('u', 10000) WHERE id = $1", world.guest
    )
    admission = await admit(access, world.guest, world.bot)
    assert admission[:4] == (world.guest, "u" * 1000, "b" * 1000, "viewer")
    assert (await admit(access, world.guest)).username == "u" * 1000


@pytest.mark.gen_test
async def test_who_they_are_and_what_they_may(access: Access, world: World) -> None:
    """An owner, a guest, and the same two where no bot is asked about."""
    admission = await admit(access, world.owner, world.bot)
    assert admission[:4] == (world.owner, "olga", "Ada", "owner")
    admission = await admit(access, world.guest, world.bot)
    assert admission[:4] == (world.guest, "gus", "Ada", "viewer")
    admission = await admit(access, world.guest, None)
    assert admission[:4] == (world.guest, "gus", None, None)


@pytest.mark.gen_test
async def test_how_many_sockets_they_have_elsewhere(
    pool: Pool, lineage: Lineage, platform: Platform, world: World
) -> None:
    """In other processes that live. A socket counts once, however much it is subscribed to."""
    here, there, dead = [await add_node(platform, age) for age in (0.0, 0.0, ALIVE_SECONDS + 5)]
    for node, user, is_socket in (
        (here, world.guest, True),
        (there, world.guest, True),
        (there, world.guest, True),
        (there, world.guest, False),
        (there, world.owner, True),
        (dead, world.guest, True),
    ):
        await platform.execute(
            "INSERT INTO relay.connections"
            " (id, node_id, topic, user_id, username, opened_at, socket_id)"
            " VALUES (gen_random_uuid(), $1, 'socket', $2, '', now(), $3)",
            *(node, user, None if is_socket else uuid4()),
        )
    access = Access(pool, lineage, subject_kind="id", timeout=10, node_id=str(here))
    assert (await admit(access, world.guest)).remote_sockets == 2
    assert (await admit(access, world.owner)).remote_sockets == 1


@pytest.mark.gen_test
async def test_by_name(access_by_username: Access, world: World, platform: Platform) -> None:
    """Never guessed: one who takes somebody's id as a name does not become them."""
    imposter = await platform.user(world.owner)
    assert (await admit(access_by_username, "gus", world.bot)).user_id == world.guest
    assert (await admit(access_by_username, world.owner, None)).user_id == imposter
    assert await refusal_of(access_by_username, world.guest) == CloseCode.UNAUTHENTICATED


@pytest.mark.gen_test
@pytest.mark.parametrize("bot", [True, False])
async def test_an_inactive_user(
    access: Access, world: World, platform: Platform, bot: bool
) -> None:
    """Is nobody, on a bot of their own as anywhere."""
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.owner)
    refusal = await refusal_of(access, world.owner, world.bot if bot else None)
    assert refusal == CloseCode.UNAUTHENTICATED
    assert (await admit(access, world.guest, world.bot)).role == "viewer"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "subject",
    [
        "",
        "gus",
        "0ba5e1e5-5cab-4f21-9d0c-3f5b8b1c7c11",
        "0" * 36,
        "x" * 100_000,
        "'; --",
        "\x00",
        "\ud800",
    ],
)
async def test_nobody(
    access: Access, access_by_username: Access, world: World, subject: str
) -> None:
    """An unknown or malformed subject is told so, however it is malformed, and need not return."""
    assert await refusal_of(access, subject, world.bot) == CloseCode.UNAUTHENTICATED
    if subject != "gus":
        assert await refusal_of(access_by_username, subject) == CloseCode.UNAUTHENTICATED


@pytest.mark.gen_test
async def test_not_here(access: Access, world: World, platform: Platform) -> None:
    """A bot that is not there, and one where the user is not."""
    stranger = await platform.user()
    assert await refusal_of(access, stranger, world.bot) == CloseCode.ACCESS_DENIED
    assert await refusal_of(access, world.owner, str(uuid4())) == CloseCode.ACCESS_DENIED


@pytest.mark.gen_test
async def test_connections_know_the_question_before_it_is_asked(
    access: Access, pool: Pool, world: World
) -> None:
    """As many as are warmed up are open, and what the first clients ask is prepared on each."""
    await access.warm_up(2)
    assert pool.get_size() == 2
    async with pool.acquire() as one, pool.acquire() as other:
        for connection in (one, other):
            prepared = await connection.fetchval(
                "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE $1",
                "%relay.authenticate%relay.authorize%",
            )
            assert prepared == 1
    await admit(access, world.owner, world.bot)
    assert pool.get_size() == 2


@pytest.mark.gen_test
async def test_a_warm_up_without_a_database_raises_nothing(database: str) -> None:
    """The first client is told to try again, not the process that starts."""
    server, _, name = database.rpartition("/")
    async with open_pool(f"{server}/no_{name}", size=2, timeout=10, is_pooled=False) as pool:
        lineage = Lineage(await read_position(database, 10))
        await Access(pool, lineage, subject_kind="id", timeout=10).warm_up(2)


@pytest.mark.gen_test
async def test_many_come_in_at_once(access: Access, world: World, platform: Platform) -> None:
    """Each gets the answer to their own question, all as of one moment."""
    stranger = await platform.user()
    asked = [
        (AdmissionRequest(world.owner, world.bot), "owner"),
        (AdmissionRequest(stranger, world.bot), CloseCode.ACCESS_DENIED),
        (AdmissionRequest("\x00", world.bot), CloseCode.UNAUTHENTICATED),
        (AdmissionRequest(world.guest, None), None),
        (AdmissionRequest(world.guest, str(uuid4())), CloseCode.ACCESS_DENIED),
        (AdmissionRequest(str(uuid4()), None), CloseCode.UNAUTHENTICATED),
        (AdmissionRequest(world.guest, world.bot), "viewer"),
    ] * 20
    answers = await access.authorize([question for question, _ in asked])
    found = [one.code if isinstance(one, Refused) else one.role for one in answers]
    assert found == [expected for _, expected in asked]
    assert len({one.cursor for one in answers if isinstance(one, Admission)}) == 1


@pytest.mark.gen_test
async def test_an_error_for_one_is_not_the_others(
    access: Access, world: World, platform: Platform
) -> None:
    """The platform's own functions may fail for some subject; the others come in all the same."""
    await platform.execute(FAILS_FOR_SOME)
    questions = [
        AdmissionRequest(subject, None) for subject in (world.owner, "no uuid", world.guest)
    ]
    owner, nobody, guest = await access.authorize(questions)
    assert isinstance(owner, Admission)
    assert isinstance(guest, Admission)
    assert (owner.user_id, guest.user_id) == (world.owner, world.guest)
    assert isinstance(nobody, Refused)
    assert nobody.code == CloseCode.TRY_AGAIN_LATER


@pytest.mark.gen_test
async def test_where_very_many_fail_it_is_not_asked_about_each(
    access: Access, world: World, platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the platform's function is broken: that would be a thousand questions for 500."""
    await platform.execute(FAILS_FOR_SOME)
    answers = await access.authorize([AdmissionRequest("no uuid", None)] * 500)
    assert [one.code for one in answers if isinstance(one, Refused)] == [1013] * 500
    assert len(caplog.records) == 1 + 2 * MAX_APART
    bad = AdmissionRequest("no uuid", None)
    answers = await access.authorize([AdmissionRequest(world.owner, None)] * 499 + [bad])
    assert sum(isinstance(one, Admission) for one in answers) == 499


@pytest.mark.gen_test
async def test_access_to_no_bot_is_not_asked_for(
    access: Access, world: World, platform: Platform
) -> None:
    """A socket for notifications is let in, and who is nobody is told so, whatever it raises."""
    await platform.execute(
        "CREATE OR REPLACE FUNCTION relay.authorize(user_id uuid, bot_id uuid)"
        " RETURNS TABLE (bot_name text, role text, username text) LANGUAGE plpgsql STABLE"
        " AS $$ BEGIN RAISE 'asked'; END $$"
    )
    assert (await admit(access, world.owner)).user_id == world.owner
    assert await refusal_of(access, str(uuid4()), world.bot) == CloseCode.UNAUTHENTICATED


# As of when.


@pytest.mark.gen_test
async def test_answer_and_place_are_of_one_moment(
    access: Access, world: World, platform: Platform
) -> None:
    """What commits while the question is being answered is neither in the answer nor covered."""
    await platform.execute(LOCK)
    question = asyncio.create_task(admit(access, world.guest, world.bot))
    await eventually(lambda: is_waiting(platform))
    await platform.revoke(world.bot, world.guest)
    newest = await newest_of(platform)
    await platform.execute("COMMIT")
    admission = await question
    assert admission.role == "viewer"
    assert not admission.cursor.covers(newest)
    assert await refusal_of(access, world.guest, world.bot) == CloseCode.ACCESS_DENIED


@pytest.mark.gen_test
async def test_a_place_covers_all_that_was_committed(
    access: Access, world: World, platform: Platform, database: str
) -> None:
    """And nothing that is open, though it lies below."""
    other = await Platform.connect(database)
    await other.execute("BEGIN")
    await other.message(world.session, world.bot, world.owner)
    open_one = await newest_of(other)
    await platform.message(world.session, world.bot, world.guest)
    committed = await newest_of(platform)
    admission: Admission = await admit(access, world.owner, None)
    await other.connection.close(timeout=LIMIT)
    assert open_one < committed
    assert admission.cursor.covers(committed)
    assert not admission.cursor.covers(open_one)


async def newest_of(platform: Platform) -> int:
    number: int = await platform.connection.fetchval(
        "SELECT xid FROM relay.events ORDER BY id DESC LIMIT 1"
    )
    return number


# May they stay?


@pytest.mark.gen_test
async def test_many_are_asked_about_at_once(
    access: Access, world: World, platform: Platform
) -> None:
    """The answers come in the order of the questions, whatever is asked and how often."""
    stranger, gone = await platform.user(), await platform.user()
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", gone)
    questions = [
        (world.guest, f"bot:{world.bot}", True),
        (stranger, f"bot:{world.bot}", False),
        (stranger, f"user:{stranger}", True),
        (gone, f"user:{gone}", False),
        (str(uuid4()), f"user:{uuid4()}", False),
        (world.owner, f"bot:{uuid4()}", False),
        (world.owner, f"bot:{world.bot}", True),
        (world.guest, f"bot:{world.bot}", True),
    ] * 60
    answers = await access.recheck([question[:2] for question in questions])
    assert [one.is_allowed for one in may_stay(answers)] == [allowed for *_, allowed in questions]


@pytest.mark.gen_test
async def test_a_recheck_is_of_one_moment(access: Access, world: World, platform: Platform) -> None:
    """What commits while it is being answered is neither in the answer nor covered by its place."""
    await platform.execute(LOCK)
    asked = [(world.guest, f"bot:{world.bot}"), (world.guest, f"user:{world.guest}")]
    question = asyncio.create_task(access.recheck(asked))
    await eventually(lambda: is_waiting(platform))
    await platform.revoke(world.bot, world.guest)
    newest = await newest_of(platform)
    await platform.execute("COMMIT")
    answers = may_stay(await question)
    assert [one.is_allowed for one in answers] == [True, True]
    assert not any(one.cursor.covers(newest) for one in answers)
    answers = may_stay(await access.recheck(asked))
    assert [one.is_allowed for one in answers] == [False, True]
    assert all(one.cursor.covers(newest) for one in answers)


@pytest.mark.gen_test
async def test_without_the_floors_row_nobody_is_refused_for_good(
    access: Access, world: World, platform: Platform
) -> None:
    """As for a moment while a dump is restored in place: there is no cursor to be had."""
    await platform.execute("DELETE FROM relay.floor")
    assert await refusal_of(access, world.owner, world.bot) == CloseCode.TRY_AGAIN_LATER
    (answer,) = await access.recheck([(world.owner, f"bot:{world.bot}")])
    assert isinstance(answer, Refused)
    assert answer.code == CloseCode.TRY_AGAIN_LATER


@pytest.mark.gen_test
async def test_nobody_is_asked_about(access: Access) -> None:
    """Then nothing is answered."""
    assert await access.recheck([]) == []


FAILS_FOR_ONE = """
CREATE OR REPLACE FUNCTION relay.authorize(user_id uuid, bot_id uuid)
RETURNS TABLE (bot_name text, role text, username text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF user_id = '{user}' THEN RAISE 'of this one nobody knows'; END IF;
    RETURN QUERY SELECT 'Ada', 'viewer', 'name';
END $$
"""


@pytest.mark.gen_test
async def test_an_error_for_one_keeps_the_others_where_they_are(
    access: Access, world: World, platform: Platform
) -> None:
    """The platform's own function fails for one user; each of the others has an answer."""
    await platform.execute(FAILS_FOR_ONE.format(user=world.guest))
    topic = f"bot:{world.bot}"
    asked = [(world.owner, topic), (world.guest, topic), (str(uuid4()), topic)] * 5
    answers = await access.recheck(asked)
    found = [one.code if isinstance(one, Refused) else one.is_allowed for one in answers]
    assert found == [True, CloseCode.TRY_AGAIN_LATER, True] * 5


# When the database cannot be asked.


async def is_told_to_try_again(access: Access, world: World) -> None:
    assert await refusal_of(access, world.owner, world.bot) == CloseCode.TRY_AGAIN_LATER
    (answer,) = await access.recheck([(world.owner, f"bot:{world.bot}")])
    assert isinstance(answer, Refused)
    assert answer.code == CloseCode.TRY_AGAIN_LATER


@pytest.mark.gen_test
async def test_a_slow_database(
    pool: Pool, world: World, platform: Platform, lineage: Lineage
) -> None:
    """Nobody waits for ever, nor is taken for somebody else; afterwards all is as before."""
    impatient = Access(pool, lineage, subject_kind="id", timeout=0.2)
    await platform.execute(LOCK)
    await is_told_to_try_again(impatient, world)
    await platform.execute("COMMIT")
    patient = Access(pool, lineage, subject_kind="id", timeout=10)
    assert (await admit(patient, world.owner, world.bot)).role == "owner"


@pytest.mark.gen_test
async def test_an_exhausted_pool(pool: Pool, world: World, lineage: Lineage) -> None:
    """A question that gets no connection is refused like one that gets no answer."""
    impatient = Access(pool, lineage, subject_kind="id", timeout=0.2)
    taken = [await pool.acquire() for _ in range(pool.get_max_size())]
    await is_told_to_try_again(impatient, world)
    for connection in taken:
        await pool.release(connection)
    assert (await admit(Access(pool, lineage, subject_kind="id", timeout=10), world.owner)).user_id


@pytest.mark.gen_test
async def test_broken_connections(access: Access, world: World, platform: Platform) -> None:
    """Each is replaced by a new one when it is found to be broken."""
    await asyncio.gather(*(admit(access, world.owner, None) for _ in range(20)))
    await platform.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = $1",
        "client backend",
    )

    codes: set[int] = set()

    async def is_admitted() -> Any:
        (answer,) = await access.authorize([AdmissionRequest(world.owner, world.bot)])
        if isinstance(answer, Admission):
            return answer
        codes.add(answer.code)
        return None

    await eventually(is_admitted)
    assert codes <= {CloseCode.TRY_AGAIN_LATER}


@pytest.mark.gen_test
async def test_no_database(io_loop: IOLoop, world: World, lineage: Lineage) -> None:
    """A server that is not there is not asked in vain for long."""
    assert io_loop
    nowhere = "postgresql://postgres@/none?host=/nonexistent"
    async with open_pool(nowhere, size=2, timeout=5, is_pooled=False) as pool:
        await is_told_to_try_again(Access(pool, lineage, subject_kind="id", timeout=5), world)


@pytest.mark.gen_test
async def test_a_database_without_a_schema(
    empty_database: str, world: World, lineage: Lineage
) -> None:
    """Somebody else's mistake is not the client's."""
    async with open_pool(empty_database, size=1, timeout=5, is_pooled=False) as pool:
        await is_told_to_try_again(Access(pool, lineage, subject_kind="id", timeout=5), world)
    with pytest.raises(asyncpg.InterfaceError):
        await pool.execute("SELECT 1")


@pytest.mark.gen_test
async def test_a_question_that_is_given_up(
    io_loop: IOLoop, database: str, world: World, platform: Platform, lineage: Lineage
) -> None:
    """A client that leaves while it is asked about gives the connection back."""
    assert io_loop
    async with open_pool(database, size=1, timeout=10, is_pooled=False) as pool:
        access = Access(pool, lineage, subject_kind="id", timeout=10)
        await platform.execute(LOCK)
        question = asyncio.create_task(admit(access, world.owner, world.bot))
        await eventually(lambda: is_waiting(platform))
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        await platform.execute("COMMIT")
        assert (await admit(access, world.owner, world.bot)).role == "owner"


# Which log it is of.


@pytest.mark.gen_test
async def test_what_it_saw_is_remembered(
    access: Access, world: World, platform: Platform, lineage: Lineage
) -> None:
    """The next statement of anybody in the process must find that row."""
    before = lineage.newest
    await platform.message(world.session, world.bot, world.owner)
    admission = await admit(access, world.owner, world.bot)
    assert before != lineage.newest == admission.cursor.anchor


@pytest.mark.gen_test
async def test_nobody_is_admitted_to_another_history(
    access: Access, world: World, platform: Platform, lineage: Lineage
) -> None:
    """Where a row that was seen is not there, the answer's cursor would hide what is."""
    await platform.message(world.session, world.bot, world.owner)
    await admit(access, world.owner, world.bot)
    seen = lineage.newest
    assert seen is not None
    for other in (
        seen._replace(written_at=seen.written_at - 1),
        seen._replace(id=seen.id + 1),
        seen._replace(xid=seen.xid - 1),
    ):
        lineage.newest = other
        await is_told_to_try_again(access, world)
        assert lineage.newest == other
    lineage.newest = seen
    await admit(access, world.owner, world.bot)
    await platform.execute(f"UPDATE relay.floor SET last = '{seen.xid}'")
    await platform.execute("TRUNCATE relay.events")
    assert (await admit(access, world.owner, world.bot)).cursor.anchor == seen


@pytest.mark.gen_test
async def test_an_answer_of_the_history_before_is_none(
    access: Access, world: World, platform: Platform, lineage: Lineage
) -> None:
    """The reader has gone on to another database while this one was asked."""
    await platform.execute(LOCK)
    question = asyncio.create_task(refusal_of(access, world.owner, world.bot))
    await eventually(lambda: is_waiting(platform))
    database = lineage.database
    signer = Signer(database._replace(timeline=database.timeline + 1), lineage.signer.keys)
    lineage.start_over(Position(Cursor(1, (), None), signer))
    await platform.execute("COMMIT")
    assert await question == CloseCode.TRY_AGAIN_LATER
    assert lineage.newest is None


@pytest.mark.gen_test
async def test_nobody_is_admitted_by_a_log_from_elsewhere(
    access: Access, world: World, platform: Platform
) -> None:
    """It came with a dump, and its ids mean nothing here."""
    await platform.execute("UPDATE relay.floor SET database = database::bigint + 1")
    await is_told_to_try_again(access, world)


@pytest.mark.gen_test
async def test_a_standby_is_not_asked(stoppable_postgres: EmbeddedPostgres) -> None:
    """Its snapshots list no open transactions: what those write would count as seen.

    A pooler may lead there, though the process listens at the primary.
    """
    dsn = stoppable_postgres.dsn()
    lineage = Lineage(await read_position(dsn, 10))
    topic, user = f"bot:{uuid4()}", str(uuid4())
    standby = stoppable_postgres.data_directory / "standby.signal"
    await restart(stoppable_postgres, standby.touch)
    async with open_pool(dsn, size=1, timeout=10, is_pooled=False) as pool:
        access = Access(pool, lineage, subject_kind="id", timeout=10)
        (answer,) = await access.recheck([(user, topic)])
        assert isinstance(answer, Refused)
        assert answer.code == CloseCode.TRY_AGAIN_LATER
        history = HistoryLog(pool, lineage, Wire(10))
        found = await history.read({topic: ReadRange(0, ())}, [user], 10, [])
        assert not found[topic].state.floor.is_ours


@pytest.mark.gen_test
async def test_a_username_is_compared_exactly(
    access_by_username: Access, platform: Platform
) -> None:
    """Also where the column's collation ignores case: else a token of one would be another's."""
    try:
        await platform.execute(
            "CREATE COLLATION ignoring (provider = icu, locale = 'und-u-ks-level1',"
            " deterministic = false); ALTER TABLE users ALTER username TYPE text COLLATE ignoring"
        )
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("this PostgreSQL was built without ICU")
    user = await platform.user("rené")
    assert (await admit(access_by_username, "rené")).user_id == user
    for other in ("RENÉ", "rene"):
        assert await refusal_of(access_by_username, other) == CloseCode.UNAUTHENTICATED
