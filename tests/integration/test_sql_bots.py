"""Rows of bots: bot_update, a new owner's revoke and grant, and the end of a bot."""

from __future__ import annotations

import pytest

from tests.integration.sql_log import (
    Entry,
    Log,
    act_as,
    bot_topic,
    bot_update,
    permission_entries,
    user_topic,
)
from tests.platform import Platform
from tests.serving import World


def update_entry(bot_id: str, updated_by: str | None, **details: object) -> Entry:
    message = bot_update(bot_id, "config", updated_by, **details)
    return Entry(bot_topic(bot_id), "bot_update", message)


@pytest.mark.gen_test
async def test_an_update_sends_the_changed_columns(platform: Platform, world: World) -> None:
    """With their new values, null included; updated_by and updated_at are not among them."""
    await platform.execute("UPDATE bots SET description = 'old'")
    log = await Log.since_now(platform)
    await platform.execute(
        """UPDATE bots SET name = 'Eve', description = NULL, config = '{"model": {"t": 0.5}}',
        updated_by = $1, updated_at = now()""",
        world.guest,
    )
    assert await log.only() == update_entry(
        world.bot, world.guest, name="Eve", description=None, config={"model": {"t": 0.5}}
    )


@pytest.mark.gen_test
async def test_the_actor_updates_where_the_row_does_not_say(
    platform: Platform, world: World
) -> None:
    """Without updated_by it is the actor."""
    await act_as(platform, world.guest)
    log = await Log.since_now(platform)
    await platform.execute("UPDATE bots SET name = 'Eve'")
    assert await log.only() == update_entry(world.bot, world.guest, name="Eve")


@pytest.mark.gen_test
async def test_who_and_when_alone_send_nothing(platform: Platform, world: World) -> None:
    """Nor do the same values again."""
    log = await Log.since_now(platform)
    await platform.execute(
        "UPDATE bots SET updated_by = $1, updated_at = now(), name = name, config = config",
        world.owner,
    )
    assert await log.entries() == []


@pytest.mark.gen_test
async def test_a_domain_over_a_domain_is_told_as_what_it_is_made_of(
    platform: Platform, world: World
) -> None:
    """A time ends in Z, and an infinite one is null."""
    await platform.execute(
        "CREATE DOMAIN moment AS timestamptz; CREATE DOMAIN day_off AS moment;"
        "CREATE DOMAIN far_off AS day_off;"
        "ALTER TABLE bots ADD archived_at far_off, ADD back_at day_off, ADD gone_at moment"
    )
    log = await Log.since_now(platform)
    await platform.execute(
        "UPDATE bots SET archived_at = '2023-01-01 00:00:00Z', back_at = 'infinity',"
        " gone_at = '2023-01-02 00:00:00Z'"
    )
    assert await log.only() == update_entry(
        world.bot,
        None,
        archived_at="2023-01-01T00:00:00.000000Z",
        back_at=None,
        gone_at="2023-01-02T00:00:00.000000Z",
    )


@pytest.mark.gen_test
async def test_a_column_that_the_platform_added_is_sent_too(
    platform: Platform, world: World
) -> None:
    """Also in a session that has used the trigger before; times are UTC whatever the session's."""
    await platform.execute("UPDATE bots SET name = 'Eve'")
    await platform.execute(
        "ALTER TABLE bots ADD COLUMN archived_at timestamptz, ADD COLUMN note text,"
        " DROP COLUMN description"
    )
    await platform.execute("SET TimeZone = 'Asia/Kathmandu'")
    log = await Log.since_now(platform)
    await platform.execute(
        "UPDATE bots SET archived_at = '2023-01-01 00:00:00Z', note = '2023-01-01T00:00:00+00:00'"
    )
    assert await log.only() == update_entry(
        world.bot,
        None,
        archived_at="2023-01-01T00:00:00.000000Z",
        note="2023-01-01T00:00:00+00:00",
    )


@pytest.mark.gen_test
async def test_a_new_owner_is_a_revoke_and_a_grant(platform: Platform, world: World) -> None:
    """Beside the bot_update; the old owner, who has nothing left, is ejected."""
    user = await platform.user()
    await act_as(platform, world.owner)
    log = await Log.since_now(platform)
    await platform.execute("UPDATE bots SET owner_id = $1", user)
    by = world.owner
    assert await log.entries() == [
        update_entry(world.bot, by, owner_id=user),
        *permission_entries(
            world.bot, world.owner, "revoked", "eject", role="owner", granted_by=by
        ),
        *permission_entries(world.bot, user, "granted", role="owner", granted_by=by),
    ]


@pytest.mark.gen_test
async def test_an_old_owner_with_a_permission_row_has_another_role(
    platform: Platform, world: World
) -> None:
    """They keep access through the row, as far as the trigger can see, and are asked again."""
    await platform.permit(world.bot, world.owner, "viewer")
    log = await Log.since_now(platform)
    await platform.execute("UPDATE bots SET owner_id = $1, updated_by = $1", world.guest)
    assert await log.entries() == [
        update_entry(world.bot, world.guest, owner_id=world.guest),
        *permission_entries(
            world.bot,
            world.owner,
            "updated",
            "recheck",
            role="viewer",
            granted_by=None,
            old_role="owner",
        ),
        # Named, although the guest has a row: it may be gone when this commits.
        *permission_entries(
            world.bot, world.guest, "granted", role="owner", granted_by=world.guest
        ),
    ]


@pytest.mark.gen_test
async def test_a_deleted_bot_ejects_everyone_and_tells_users_who_had_a_permission(
    platform: Platform, world: World
) -> None:
    """What went with it (messages, documents, permissions) sends nothing more to its topic."""
    await platform.message(world.session, world.bot, world.guest)
    await platform.execute("INSERT INTO documents (bot_id, filename) VALUES ($1, 'a')", world.bot)
    await platform.execute("UPDATE bots SET updated_by = $1", world.owner)
    await act_as(platform, world.guest)
    log = await Log.since_now(platform)
    await platform.execute("DELETE FROM bots WHERE id = $1", world.bot)
    deleted = bot_update(world.bot, "deleted", world.guest)
    change, notification = permission_entries(
        world.bot, world.guest, "revoked", role="viewer", granted_by=world.guest
    )
    assert await log.entries() == [
        Entry(bot_topic(world.bot), "eject", deleted, None, 4003),
        notification,
        # Nobody is there by then; see test_attach_derived for who may be.
        Entry(bot_topic(world.bot), "recheck", change.message, world.guest, 4003),
    ]


@pytest.mark.gen_test
async def test_a_deleted_owner_takes_the_bots_along(platform: Platform, world: World) -> None:
    """Two cascades deep: the user is ejected, each bot is ended once, the guest is told."""
    others = [await platform.bot(world.owner) for _ in range(3)]
    log = await Log.since_now(platform)
    await platform.execute("DELETE FROM users WHERE id = $1", world.owner)
    entries = await log.entries()
    assert sorted((entry.type, entry.topic or "", entry.code or 0) for entry in entries) == sorted(
        [
            ("eject", "", 4001),
            *[("eject", bot_topic(bot), 4003) for bot in (world.bot, *others)],
            ("notification", user_topic(world.guest), 0),
            ("recheck", bot_topic(world.bot), 4003),
        ]
    )


@pytest.mark.gen_test
async def test_a_bot_with_another_id_is_another_bot(platform: Platform, world: World) -> None:
    """Who watched the old one is ejected, and who may watch the new one is named."""
    bot, renamed = await platform.bot(world.owner), "b0000000-0000-4000-8000-00000000000b"
    log = await Log.since_now(platform)
    await platform.execute("UPDATE bots SET id = $1 WHERE id = $2", renamed, bot)
    assert sorted(await log.entries(), key=str) == sorted(
        [
            Entry(bot_topic(bot), "eject", bot_update(bot, "deleted", None), None, 4003),
            Entry(bot_topic(renamed), "grant", None, world.owner),
        ],
        key=str,
    )


@pytest.mark.gen_test
async def test_where_a_bot_is_put_back_everyone_is_asked_again(
    platform: Platform, world: World
) -> None:
    """By a trigger of the platform: who may watch it stays, and is told what is different."""
    await platform.execute(
        """CREATE FUNCTION put_back() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            OLD.name := 'back';
            INSERT INTO bots VALUES (OLD.*);
            RETURN NULL;
        END $$;
        CREATE TRIGGER put_back AFTER DELETE ON bots FOR EACH ROW EXECUTE FUNCTION put_back()"""
    )
    bot = await platform.bot(world.owner)
    log = await Log.since_now(platform)
    await platform.execute("DELETE FROM bots WHERE id = $1", bot)
    assert await log.entries() == [
        Entry(bot_topic(bot), "grant", None, world.owner),
        Entry(bot_topic(bot), "recheck", bot_update(bot, "deleted", None), None, 4003),
        update_entry(bot, None, name="back"),
    ]


@pytest.mark.gen_test
async def test_a_new_bot_is_a_grant_to_its_owner(platform: Platform, world: World) -> None:
    """There is nobody yet who could watch it, but the owner may have been refused before."""
    log = await Log.since_now(platform)
    bot = await platform.bot(world.owner)
    assert await log.only() == Entry(bot_topic(bot), "grant", None, world.owner)
