"""Rows of users, and TRUNCATE: who has to leave, and who is asked again."""

from __future__ import annotations

import pytest

from tests.integration.sql_log import Entry, Log
from tests.platform import Platform
from tests.serving import World


@pytest.mark.gen_test
async def test_a_deactivated_user_is_ejected_everywhere(platform: Platform, world: World) -> None:
    """Once; made active again, they are named in a grant."""
    log = await Log.since_now(platform)
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.guest)
    assert await log.only() == Entry(None, "eject", None, world.guest, 4001)
    await platform.execute("UPDATE users SET is_active = false WHERE id = $1", world.guest)
    await platform.execute("UPDATE users SET email = 'gus@example.org'")
    assert await log.entries() == []
    await platform.execute("UPDATE users SET is_active = true")
    assert await log.only() == Entry(None, "grant", None, world.guest)


@pytest.mark.gen_test
async def test_a_new_user_or_name_is_a_grant(platform: Platform, world: World) -> None:
    """A token may have named them before there was anybody of that name.

    Only who gained access is named: a rename of somebody else must not count as that.
    """
    log = await Log.since_now(platform)
    user = await platform.user()
    assert await log.only() == Entry(None, "grant", None, user)
    await platform.execute("UPDATE users SET username = 'ursula' WHERE id = $1", user)
    assert await log.only() == Entry(None, "grant", None)
    await platform.execute("UPDATE users SET id = gen_random_uuid() WHERE id = $1", user)
    renamed = await platform.connection.fetchval(
        "SELECT id::text FROM users WHERE username = 'ursula'"
    )
    assert await log.entries() == [
        Entry(None, "eject", None, user, 4001),
        Entry(None, "grant", None, renamed),
    ]
    await platform.execute("INSERT INTO users (username) VALUES ('a'), ('b')")
    assert len({entry.user_id for entry in await log.entries()} - {None}) == 2
    assert world.bot


@pytest.mark.gen_test
async def test_a_deleted_user_is_ejected_everywhere(platform: Platform, world: World) -> None:
    """As one who was deactivated."""
    user = await platform.user()
    log = await Log.since_now(platform)
    await platform.execute("DELETE FROM users WHERE id = $1", user)
    assert await log.only() == Entry(None, "eject", None, user, 4001)
    assert world.bot


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("tables", "codes"),
    [
        ("permissions", [4003]),
        ("bots CASCADE", [4003, 4003]),
        ("users CASCADE", [4001, 4003, 4003]),
        ("messages, documents", []),
    ],
)
async def test_a_truncate_asks_everyone_again(
    platform: Platform, world: World, tables: str, codes: list[int]
) -> None:
    """Once for each truncated table that decides about access; others send nothing."""
    await platform.message(world.session, world.bot, world.guest)
    log = await Log.since_now(platform)
    await platform.execute(f"TRUNCATE {tables}")
    expected = [Entry(None, "recheck", None, None, code) for code in codes]
    assert sorted(await log.entries(), key=lambda entry: entry.code or 0) == expected


@pytest.mark.gen_test
async def test_who_is_not_active_may_watch_no_bot(platform: Platform, world: World) -> None:
    """Sockets that are asked about again are asked by the user's id, not by a token's subject."""
    allowed = "SELECT count(*) FROM relay.authorize($1, $2)"
    for user in (world.owner, world.guest):
        assert await platform.connection.fetchval(allowed, user, world.bot) == 1
    await platform.execute("UPDATE users SET is_active = false")
    for user in (world.owner, world.guest):
        assert await platform.connection.fetchval(allowed, user, world.bot) == 0
