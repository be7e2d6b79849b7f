"""Nothing committed after a revocation reaches the revoked user, whatever the order of writing."""

from __future__ import annotations

import asyncpg
import pytest

from tests.clients import Socket
from tests.platform import Platform
from tests.serving import RunningServer, World
from tests.waiting import LIMIT


def types(socket: Socket) -> list[str]:
    return [one["type"] for one in socket.messages[1:]]


@pytest.mark.gen_test
async def test_a_message_written_before_the_revoke_and_committed_after_it_is_not_shown(
    server: RunningServer, platform: Platform, world: World, database: str
) -> None:
    """Its row in the log has the lower id; the revoke comes first all the same."""
    guest = await server.chat(world.bot, world.guest)
    owner = await server.chat(world.bot, world.owner)
    slow = await Platform.connect(database)
    transaction = slow.connection.transaction()
    await transaction.start()
    await slow.message(world.session, world.bot, world.owner, "not for gus")
    await platform.revoke(world.bot, world.guest)
    await transaction.commit()
    await slow.connection.close(timeout=LIMIT)
    assert await guest.closed() == 4003
    assert types(guest) == ["permission_change"]
    await owner.next("chat_message")
    await owner.next("permission_change")


@pytest.mark.gen_test
async def test_a_role_changed_by_delete_and_insert_sends_the_socket_round_again(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Closed with 1013, it comes back and starts clean."""
    guest = await server.chat(world.bot, world.guest)
    async with platform.connection.transaction():
        await platform.revoke(world.bot, world.guest)
        await platform.permit(world.bot, world.guest, "editor")
    assert await guest.closed() == 1013
    again = await server.chat(world.bot, world.guest)
    assert (await again.established())["data"]["role"] == "editor"


@pytest.mark.gen_test
async def test_a_change_of_role_by_update_leaves_the_socket_alone(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """It is told like everybody."""
    guest = await server.chat(world.bot, world.guest)
    await platform.execute("UPDATE permissions SET role = 'admin'")
    await guest.next("permission_change")
    await platform.message(world.session, world.bot, world.owner)
    await guest.next("chat_message")


@pytest.mark.gen_test
async def test_a_socket_opened_after_a_grant_stays_however_late_the_revoke_is_heard(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """The answer that let it in was given after both."""
    await platform.execute("SET relay.two_phase = 'on'")
    await platform.revoke(world.bot, world.guest)
    await platform.permit(world.bot, world.guest)
    guest = await server.chat(world.bot, world.guest)
    await platform.execute("RESET relay.two_phase")
    await platform.message(world.session, world.bot, world.owner)
    await guest.next("chat_message")
    assert types(guest) == ["chat_message"]


@pytest.mark.gen_test
async def test_a_thousand_revokes_in_one_statement_close_whom_they_concern(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """And nobody else."""
    guest = await server.chat(world.bot, world.guest)
    owner = await server.chat(world.bot, world.owner)
    await platform.execute(
        "WITH made AS (INSERT INTO users (username) SELECT 'u' || n FROM generate_series(1, 1000) n"
        " RETURNING id) INSERT INTO permissions (bot_id, user_id, role)"
        " SELECT $1, id, 'viewer' FROM made",
        world.bot,
    )
    await platform.execute("DELETE FROM permissions")
    assert await guest.closed() == 4003
    await owner.next("permission_change", 2001)
    await platform.message(world.session, world.bot, world.owner)
    await owner.next("chat_message")


@pytest.mark.gen_test
async def test_an_event_is_never_silently_dropped(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """A log insert that fails takes the writer's transaction with it."""
    guest = await server.chat(world.bot, world.guest)
    await platform.execute(
        "ALTER TABLE relay.events ADD CONSTRAINT no CHECK (type <> 'chat_message')"
    )
    with pytest.raises(asyncpg.CheckViolationError):
        await platform.message(world.session, world.bot, world.owner, "never")
    await platform.execute("ALTER TABLE relay.events DROP CONSTRAINT no")
    assert await platform.connection.fetchval("SELECT count(*) FROM messages") == 0
    await platform.message(world.session, world.bot, world.owner, "this")
    assert (await guest.next("chat_message"))["data"]["content"] == "this"


@pytest.mark.parametrize("table", ["permissions", "bots"])
@pytest.mark.gen_test
async def test_no_writer_makes_a_revoke_silent(
    server: RunningServer, platform: Platform, world: World, table: str
) -> None:
    """What a transaction has told is a setting of it, which any SQL can set."""
    user = world.guest if table == "permissions" else world.owner
    await platform.execute("UPDATE permissions SET role = 'owner'")
    socket = await server.chat(world.bot, user)
    async with platform.connection.transaction():
        told = f"{world.bot}/{user}=revoked:;"
        await platform.execute("SELECT set_config('relay.told', $1, true)", told)
        if table == "permissions":
            await platform.revoke(world.bot, user)
        else:
            await platform.execute("UPDATE bots SET owner_id = $1", world.guest)
    assert await socket.closed() == 4003
