"""Rows of permissions: permission_change, notifications and ejections."""

from __future__ import annotations

import pytest

from tests.integration.sql_log import (
    Entry,
    Log,
    act_as,
    bot_topic,
    permission_entries,
    user_topic,
)
from tests.platform import Platform
from tests.serving import World


@pytest.mark.gen_test
async def test_a_grant_reaches_the_bot_and_the_user(platform: Platform, world: World) -> None:
    """Both messages carry the role and who granted it."""
    user = await platform.user()
    log = await Log.since_now(platform)
    await platform.execute(
        "INSERT INTO permissions (bot_id, user_id, role, granted_by) VALUES ($1, $2, $3, $4)",
        world.bot,
        user,
        "editor",
        world.owner,
    )
    assert await log.entries() == permission_entries(
        world.bot, user, "granted", role="editor", granted_by=world.owner
    )


@pytest.mark.gen_test
async def test_the_actor_grants_where_the_row_does_not_say(
    platform: Platform, world: World
) -> None:
    """Without granted_by it is the actor; without either it is null."""
    first, second = await platform.user(), await platform.user()
    log = await Log.since_now(platform)
    await platform.permit(world.bot, first)
    await act_as(platform, world.owner.upper())
    await platform.permit(world.bot, second)
    assert await log.entries() == [
        *permission_entries(world.bot, first, "granted", role="viewer", granted_by=None),
        *permission_entries(world.bot, second, "granted", role="viewer", granted_by=world.owner),
    ]


@pytest.mark.gen_test
async def test_a_changed_role_names_the_old_one(platform: Platform, world: World) -> None:
    """Nobody is ejected: access remains."""
    log = await Log.since_now(platform)
    await platform.execute("UPDATE permissions SET role = 'admin', granted_by = $1", world.owner)
    assert await log.entries() == permission_entries(
        world.bot, world.guest, "updated", role="admin", granted_by=world.owner, old_role="viewer"
    )


@pytest.mark.gen_test
async def test_a_revoke_also_ejects_with_the_same_message(platform: Platform, world: World) -> None:
    """The final message is the event, letter for letter: the socket is stopped before the event."""
    await act_as(platform, world.owner)
    log, again = await Log.since_now(platform), await Log.since_now(platform)
    await platform.revoke(world.bot, world.guest)
    texts = await log.texts()
    assert texts[0] == texts[2]
    assert await again.entries() == permission_entries(
        world.bot, world.guest, "revoked", "eject", role="viewer", granted_by=world.owner
    )


@pytest.mark.gen_test
async def test_the_owner_who_loses_a_permission_row_is_only_asked_again(
    platform: Platform, world: World
) -> None:
    """They keep access as the owner, as far as the trigger can see, so nobody is told anything."""
    log = await Log.since_now(platform)
    await platform.permit(world.bot, world.owner, "admin")
    assert await log.only() == Entry(bot_topic(world.bot), "grant", None, world.owner)
    await platform.revoke(world.bot, world.owner)
    assert (
        await log.only()
        == permission_entries(
            world.bot, world.owner, "revoked", "recheck", role="admin", granted_by=None
        )[-1]
    )


@pytest.mark.gen_test
async def test_a_permission_turned_to_another_user_is_a_revoke_and_a_grant(
    platform: Platform, world: World
) -> None:
    """So is one turned to another bot; who loses access is ejected."""
    user = await platform.user()
    other = await platform.bot(world.owner)
    log = await Log.since_now(platform)
    await platform.execute("UPDATE permissions SET user_id = $1", user)
    revoked = permission_entries(
        world.bot, world.guest, "revoked", "eject", role="viewer", granted_by=None
    )
    granted = permission_entries(world.bot, user, "granted", role="viewer", granted_by=None)
    assert await log.entries() in ([*revoked, *granted], [*granted, *revoked])
    await platform.execute("UPDATE permissions SET bot_id = $1, role = 'editor'", other)
    assert {(entry.topic, entry.type) for entry in await log.entries()} == {
        (bot_topic(world.bot), "permission_change"),
        (bot_topic(world.bot), "eject"),
        (bot_topic(other), "permission_change"),
        (user_topic(user), "notification"),
    }


@pytest.mark.gen_test
async def test_an_update_that_changes_no_role_sends_nothing(
    platform: Platform, world: World
) -> None:
    """Who granted it and when, and the row's own id, are no change of access."""
    log = await Log.since_now(platform)
    await platform.execute(
        "UPDATE permissions SET role = role, granted_by = $1, granted_at = now(),"
        " id = gen_random_uuid()",
        world.owner,
    )
    assert await log.entries() == []


@pytest.mark.gen_test
async def test_two_rows_that_swap_their_users_are_two_changed_roles(
    platform: Platform, world: World
) -> None:
    """Rows are matched by whom they are about, so nobody is ejected."""
    user = await platform.user()
    await platform.permit(world.bot, user, "editor")
    await platform.execute("ALTER TABLE permissions DROP CONSTRAINT permissions_bot_id_user_id_key")
    log = await Log.since_now(platform)
    await platform.execute(
        "UPDATE permissions SET user_id = CASE user_id WHEN $1 THEN $2 ELSE $1 END::uuid",
        user,
        world.guest,
    )
    assert sorted(await log.actions()) == [
        *[("notification", "updated")] * 2,
        *[("permission_change", "updated")] * 2,
    ]


@pytest.mark.gen_test
async def test_a_deleted_user_is_ejected_once_with_the_code_of_a_deleted_user(
    platform: Platform, world: World
) -> None:
    """The cascade tells the others, and has the one who is gone asked again, who is not there."""
    log = await Log.since_now(platform)
    await platform.execute("DELETE FROM users WHERE id = $1", world.guest)
    entries = await log.entries()
    assert [(entry.type, entry.topic, entry.code) for entry in entries if entry.code] == [
        ("eject", None, 4001),
        ("recheck", bot_topic(world.bot), 4003),
    ]
    assert entries[1:-1] == permission_entries(
        world.bot, world.guest, "revoked", role="viewer", granted_by=None
    )


@pytest.mark.gen_test
async def test_no_setting_of_a_writer_lets_a_revoked_owner_stay(
    platform: Platform, world: World
) -> None:
    """What was told last is a setting. Whatever that says, who lost the role is asked again."""
    user = await platform.user()
    await platform.permit(world.bot, user, "owner")
    log = await Log.since_now(platform)
    async with platform.connection.transaction():
        told = f"{world.bot}/{user}=revoked:;"
        await platform.connection.execute("SELECT set_config('relay.told', $1, true)", told)
        await platform.revoke(world.bot, user)
    entry = await log.only()
    assert (entry.type, entry.topic, entry.user_id) == ("recheck", bot_topic(world.bot), user)
