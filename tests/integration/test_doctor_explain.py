"""Of an event and a user: was it for them, seen from the log and from who may watch now."""

from __future__ import annotations

import re

import asyncpg
import pytest

from realtime.attach.attach import apply
from realtime.doctor.explain import Explanation, Verdict, explain
from tests.adopted import SCHEMA, Adopted
from tests.adopted import mapping as adopted_mapping
from tests.doctor import deployment
from tests.platform import Platform
from tests.serving import World


async def write(platform: Platform, world: World, text: str = "hello") -> int:
    """A message on the bot; the number of its event."""
    await platform.message(world.session, world.bot, world.owner, text)
    return int(await platform.connection.fetchval("SELECT max(id) FROM relay.events"))


async def ask(dsn: str, event: int, user: str, **environ: str) -> Explanation:
    return await explain(deployment(dsn, **environ), event, user)


def says(explanation: Explanation, verdict: Verdict, *parts: str) -> None:
    text = explanation.text()
    assert explanation.verdict is verdict, text
    assert [part for part in parts if part not in text] == [], text


@pytest.mark.gen_test
async def test_an_event_for_whom_it_concerns(
    database: str, platform: Platform, world: World
) -> None:
    """Owner and guest, by id or by name, and how they may watch."""
    event = await write(platform, world)
    found = await ask(database, event, world.guest)
    says(found, Verdict.YES, f"chat_message on bot:{world.bot}", "by transaction", "as viewer")
    assert found.exit_code == 0
    says(await ask(database, event, "olga", JWT_SUBJECT="username"), Verdict.YES, "as owner")


@pytest.mark.gen_test
async def test_an_id_as_clients_have_it(database: str, platform: Platform, world: World) -> None:
    """The time beside the number tells it from an event of another history."""
    event = await write(platform, world)
    at = await platform.connection.fetchval(
        "SELECT relay.microseconds(written_at) FROM relay.events WHERE id = $1", event
    )
    here = deployment(database)
    says(await explain(here, event, world.guest, at), Verdict.YES, "as viewer")
    of_another = await explain(here, event, world.guest, at + 1)
    says(
        of_another, Verdict.UNKNOWN, "not in the log", f"another row has that number, {event}-{at}."
    )


@pytest.mark.gen_test
async def test_a_stranger(database: str, platform: Platform, world: World) -> None:
    """No permission now, and none that the log knows of."""
    stranger = await platform.user("sam")
    found = await ask(database, await write(platform, world), stranger)
    says(found, Verdict.NO, "is sam", "may not watch the bot now")
    assert found.exit_code == 1


@pytest.mark.gen_test
async def test_an_ejection_before_the_event(
    database: str, platform: Platform, world: World
) -> None:
    """It was not theirs any more."""
    await platform.revoke(world.bot, world.guest)
    event = await write(platform, world)
    found = await ask(database, event, world.guest)
    says(found, Verdict.NO, "may not watch the bot now", "access was ended before it")


@pytest.mark.gen_test
async def test_an_ejection_after_the_event(database: str, platform: Platform, world: World) -> None:
    """Who was quick has it."""
    event = await write(platform, world)
    await platform.revoke(world.bot, world.guest)
    says(await ask(database, event, world.guest), Verdict.PERHAPS, "access was ended after it")


@pytest.mark.gen_test
async def test_a_revoke_and_a_new_grant_before_the_event(
    database: str, platform: Platform, world: World
) -> None:
    """The last word counts."""
    await platform.revoke(world.bot, world.guest)
    await platform.permit(world.bot, world.guest, "editor")
    event = await write(platform, world)
    found = await ask(database, event, world.guest)
    says(found, Verdict.YES, "ended before it", "given access before it", "as editor")


@pytest.mark.gen_test
async def test_an_ejection_of_somebody_who_keeps_access(
    database: str, platform: Platform, world: World
) -> None:
    """Their sockets were ended, and they came back."""
    await platform.execute("SELECT relay.eject($1, NULL)", world.guest)
    event = await write(platform, world)
    found = await ask(database, event, world.guest)
    says(found, Verdict.YES, "may watch the bot now", "access was ended before it")
    await platform.execute('SELECT relay."grant"($1, NULL)', world.guest)
    found = await ask(database, event, world.guest)
    says(found, Verdict.PERHAPS, "given access to something, perhaps this, after it")


@pytest.mark.gen_test
async def test_a_user_who_is_active_again(database: str, platform: Platform, world: World) -> None:
    """What was written between the two was not for them."""
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.guest)
    between = await write(platform, world)
    says(await ask(database, between, world.guest), Verdict.NO, "access was ended before it")
    await platform.execute("UPDATE users SET is_active = true WHERE id = $1", world.guest)
    says(await ask(database, await write(platform, world), world.guest), Verdict.YES)
    says(await ask(database, between, world.guest), Verdict.PERHAPS, "perhaps this, after it")


@pytest.mark.gen_test
async def test_tables_that_were_attached_with_their_rows(core_database: str) -> None:
    """All sockets were ended then; who had access has it."""
    connection = await asyncpg.connect(core_database)
    try:
        platform = Adopted(connection)
        await platform.execute(SCHEMA)
        owner = await platform.insert("users", username="olga")
        stranger = await platform.insert("users", username="sam")
        bot = await platform.insert("bots", name="Ada", owner_id=owner)
        await apply(connection, adopted_mapping())
        await platform.insert("messages", bot_id=bot, user_id=owner, content="hello")
        event = await connection.fetchval("SELECT max(id) FROM relay.events")
        found = await ask(core_database, event, owner)
        says(found, Verdict.YES, "as owner", "access was ended before it")
        says(await ask(core_database, event, stranger), Verdict.NO)
        await platform.execute("UPDATE bots SET owner_id = NULL")
        says(await ask(core_database, event, owner), Verdict.PERHAPS)
        last = await connection.fetchval("SELECT max(id) FROM relay.events WHERE code IS NOT NULL")
        says(await ask(core_database, last, owner), Verdict.YES, "last message to those")
    finally:
        await connection.close()


@pytest.mark.gen_test
async def test_a_grant_after_the_event(database: str, platform: Platform, world: World) -> None:
    """Whoever is let in does not see what was before."""
    event = await write(platform, world)
    newcomer = await platform.user("nora")
    await platform.permit(world.bot, newcomer)
    found = await ask(database, event, newcomer)
    says(found, Verdict.NO, "may watch the bot now, as viewer", "given access after it")


@pytest.mark.gen_test
async def test_an_ejection_in_the_same_transaction(
    database: str, platform: Platform, world: World
) -> None:
    """It comes first, whatever the order of the statements."""
    async with platform.connection.transaction():
        event = await write(platform, world)
        await platform.revoke(world.bot, world.guest)
    says(await ask(database, event, world.guest), Verdict.NO, "ended in the same transaction")


@pytest.mark.gen_test
async def test_a_user_who_was_deactivated(database: str, platform: Platform, world: World) -> None:
    """Known by the id alone, and ejected from everything."""
    event = await write(platform, world)
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.guest)
    found = await ask(database, event, world.guest)
    says(found, Verdict.PERHAPS, "No active user", "access was ended after it")
    says(await ask(database, event, "gus", JWT_SUBJECT="username"), Verdict.UNKNOWN, "No active")


@pytest.mark.gen_test
async def test_notifications(database: str, platform: Platform, world: World) -> None:
    """They are one user's own."""
    await platform.execute("SELECT relay.notify_user($1, 'quota', '{}')", world.guest)
    event = await platform.connection.fetchval("SELECT max(id) FROM relay.events")
    says(await ask(database, event, world.guest), Verdict.YES, "this user's notifications")
    says(await ask(database, event, world.owner), Verdict.NO, "another user's notifications")


async def final_message(platform: Platform) -> int:
    """The row of the latest change of access."""
    query = "SELECT max(id) FROM relay.events WHERE code IS NOT NULL"
    return int(await platform.connection.fetchval(query))


@pytest.mark.gen_test
async def test_the_message_that_ends_access(
    database: str, platform: Platform, world: World
) -> None:
    """It is for whom it is about, and for nobody else."""
    await platform.revoke(world.bot, world.guest)
    first = await final_message(platform)
    says(await ask(database, first, world.guest), Verdict.YES, "last message to those whose access")
    says(await ask(database, first, world.owner), Verdict.NO, "last message to another user")
    await platform.execute("DELETE FROM bots WHERE id = $1", world.bot)
    last = await final_message(platform)
    says(await ask(database, last, world.guest), Verdict.NO, "ended before it")
    says(await ask(database, last, world.owner), Verdict.YES, "on sockets open then")


@pytest.mark.gen_test
async def test_a_message_for_those_who_turn_out_to_have_no_access(
    database: str, platform: Platform, world: World
) -> None:
    """They are asked about first."""
    await platform.permit(world.bot, world.owner)
    await platform.revoke(world.bot, world.owner)
    asked = await final_message(platform)
    says(await ask(database, asked, world.owner), Verdict.PERHAPS, "only if they do not")


@pytest.mark.gen_test
async def test_a_note_to_the_servers(database: str, platform: Platform, world: World) -> None:
    """Rows of the log that nobody is sent."""
    await platform.execute("SELECT relay.eject($1, NULL)", world.guest)
    event = await platform.connection.fetchval("SELECT max(id) FROM relay.events")
    says(await ask(database, event, world.guest), Verdict.NO, "a note to the servers")


@pytest.mark.gen_test
async def test_events_that_are_not_there(database: str, platform: Platform, world: World) -> None:
    """Never written, rolled back, or removed by retention: as far as numbers tell."""
    event = await write(platform, world)
    says(await ask(database, event + 1, world.guest), Verdict.NO, "was ever written")
    says(await ask(database, 0, world.guest), Verdict.NO, "was ever written")
    transaction = platform.connection.transaction()
    await transaction.start()
    undone = await write(platform, world)
    await transaction.rollback()
    says(await ask(database, undone, world.guest), Verdict.NO, "rolled back, or has not committed")
    await platform.execute("DELETE FROM relay.events WHERE id <= $1", event)
    await write(platform, world)
    says(await ask(database, event, world.guest), Verdict.UNKNOWN, "retention has removed it")


@pytest.mark.gen_test
async def test_an_event_from_another_servers_dump(
    database: str, platform: Platform, world: World
) -> None:
    """It is in the log, and never delivered."""
    event = await write(platform, world)
    await platform.execute("UPDATE relay.events SET xid = '99999999999' WHERE id = $1", event)
    says(await ask(database, event, world.guest), Verdict.NO, "from another server")


@pytest.mark.gen_test
async def test_nothing_of_the_message_is_shown(
    database: str, platform: Platform, world: World
) -> None:
    """Whoever runs the doctor need not read what people write."""
    event = await write(platform, world, "our secret")
    found = await ask(database, event, world.guest)
    assert not re.search("secret", found.text() + found.json())


@pytest.mark.gen_test
async def test_a_row_for_every_topic(database: str, platform: Platform, world: World) -> None:
    """A row about access without a topic is about all of them."""
    await platform.execute("SELECT relay.eject($1::text::uuid, NULL)", world.guest)
    event = await platform.connection.fetchval("SELECT max(id) FROM relay.events")
    says(await ask(database, event, world.guest), Verdict.NO, "eject on every topic")
