"""Owners who stand in both places: in bots.owner_id, and in a row of permissions."""

from __future__ import annotations

import pytest

from tests.integration.sql_log import Entry, Log, bot_topic, permission_entries
from tests.platform import Platform
from tests.serving import World

SYNC = """
CREATE FUNCTION follow_the_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM permissions WHERE bot_id = OLD.id AND user_id = OLD.owner_id;
    INSERT INTO permissions (bot_id, user_id, role) VALUES (NEW.id, NEW.owner_id, 'owner');
    RETURN NULL;
END $$;
CREATE TRIGGER follow AFTER UPDATE OF owner_id ON bots
    FOR EACH ROW EXECUTE FUNCTION follow_the_owner()
"""
BOT = "UPDATE bots SET owner_id = (SELECT id FROM users WHERE username = 'hedi')"
DELETE = "DELETE FROM permissions WHERE role = 'owner'"
INSERT = """INSERT INTO permissions (bot_id, user_id, role)
    SELECT b.id, u.id, 'owner' FROM bots AS b, users AS u WHERE u.username = 'hedi'"""
TURN = """UPDATE permissions SET user_id = (SELECT id FROM users WHERE username = 'hedi')
    WHERE role = 'owner'"""
DELETE_OLD = """DELETE FROM permissions AS p USING users AS u
    WHERE p.role = 'owner' AND u.id = p.user_id AND u.username <> 'hedi'"""


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "statements",
    [
        pytest.param([BOT, DELETE, INSERT], id="the bot first"),
        pytest.param([DELETE, INSERT, BOT], id="the rows first"),
        pytest.param([INSERT, BOT, DELETE_OLD], id="the bot between"),
        pytest.param([BOT, TURN], id="the row turned, after the bot"),
        pytest.param([TURN, BOT], id="the row turned, before the bot"),
        pytest.param([f"WITH b AS ({BOT}) {TURN}"], id="in one statement"),
        pytest.param([f"WITH p AS ({TURN}) {BOT}"], id="in one statement, the other way round"),
        pytest.param(
            [f"WITH b AS ({BOT}), d AS ({DELETE}) {INSERT}"], id="in one statement, a new row"
        ),
        pytest.param([f"{BOT}; {DELETE}; {INSERT}"], id="in one message"),
        pytest.param([f"{DELETE}; {INSERT}; {BOT}"], id="in one message, the rows first"),
        pytest.param([f"{INSERT}; {BOT}; {DELETE_OLD}"], id="in one message, the bot between"),
        pytest.param([f"{BOT}; {INSERT}; {DELETE_OLD}"], id="in one message, the heir's row first"),
        pytest.param([f"{INSERT}; {DELETE_OLD}; {BOT}"], id="in one message, the bot last"),
        pytest.param([f"{BOT}; {TURN}"], id="in one message, the row turned after the bot"),
        pytest.param([f"{TURN}; {BOT}"], id="in one message, the row turned before the bot"),
        pytest.param([SYNC, BOT], id="by a trigger of the platform"),
    ],
)
async def test_a_transfer_is_one_revoke_and_one_grant(
    platform: Platform, world: World, statements: list[str]
) -> None:
    """In whichever order both places are written, in one transaction."""
    await platform.permit(world.bot, world.owner, "owner")
    heir = await platform.user("hedi")
    log = await Log.since_now(platform)
    async with platform.connection.transaction():
        for statement in statements:
            await platform.execute(statement)
    entries = await log.entries()
    told = [
        (entry.message["data"]["target_user_id"], entry.message["data"]["action"], entry.user_id)
        for entry in entries
        if entry.type == "permission_change" and entry.message
    ]
    assert sorted(told) == sorted([(world.owner, "revoked", None), (heir, "granted", heir)])
    assert [entry.topic for entry in entries if entry.type == "notification"] == [
        f"user:{user}" for user, _, _ in told
    ]
    assert [entry.user_id for entry in entries if entry.type == "eject"] == [world.owner]


@pytest.mark.gen_test
async def test_an_owner_in_both_places_loses_one_of_them(platform: Platform, world: World) -> None:
    """Nothing is told, for they may what they might. But they are asked again.

    Another transaction may take the other place at the same time, and see this one as it was.
    """
    await platform.permit(world.bot, world.owner, "owner")
    log = await Log.since_now(platform)
    await platform.execute(DELETE)
    assert (
        await log.only()
        == permission_entries(
            world.bot, world.owner, "revoked", "recheck", role="owner", granted_by=None
        )[-1]
    )
    await platform.permit(world.bot, world.owner, "owner")
    # Named, since they may have lost what they are the owner by when this commits.
    assert await log.only() == Entry(f"bot:{world.bot}", "grant", None, world.owner)
    await platform.execute("UPDATE permissions SET role = 'admin' WHERE role = 'owner'")
    assert await log.entries() == []


@pytest.mark.gen_test
@pytest.mark.parametrize("change", [DELETE, "UPDATE permissions SET role = 'admin'", "INSERT"])
async def test_what_else_a_message_writes_makes_no_news(
    platform: Platform, world: World, change: str
) -> None:
    """An owner in both places loses or gets one of them, and something else of the bot changes."""
    await platform.revoke(world.bot, world.guest)
    if change == "INSERT":
        change = f"""INSERT INTO permissions (bot_id, user_id, role)
            VALUES ('{world.bot}', '{world.owner}', 'owner')"""
    else:
        await platform.permit(world.bot, world.owner, "owner")
    log = await Log.since_now(platform)
    await platform.execute(f"UPDATE bots SET name = 'Bea'; {change}")
    assert {entry.type for entry in await log.entries()} <= {"bot_update", "recheck", "grant"}


@pytest.mark.gen_test
async def test_an_owner_who_becomes_an_editor_has_another_role(
    platform: Platform, world: World
) -> None:
    """In either order of the two tables; that is no revoke, for they may stay."""
    heir = await platform.user("hedi")
    demote = "UPDATE permissions SET role = 'editor' WHERE role = 'owner'"
    for statements in ([BOT, demote], [demote, BOT]):
        await platform.execute("UPDATE bots SET owner_id = $1", world.owner)
        await platform.execute("DELETE FROM permissions WHERE user_id = $1", world.owner)
        await platform.permit(world.bot, world.owner, "owner")
        log = await Log.since_now(platform)
        async with platform.connection.transaction():
            for statement in statements:
                await platform.execute(statement)
        updated, *_ = permission_entries(
            world.bot, world.owner, "updated", role="editor", granted_by=None, old_role="owner"
        )
        granted, *_ = permission_entries(world.bot, heir, "granted", role="owner", granted_by=None)
        entries = [entry for entry in await log.entries() if entry.type == "permission_change"]
        assert sorted(entries, key=str) == sorted([updated, granted], key=str)


@pytest.mark.gen_test
async def test_a_transfer_there_and_back_is_told_each_time(
    platform: Platform, world: World
) -> None:
    """What was told of somebody last counts, and not what was told first."""
    heir = await platform.user("hedi")
    log = await Log.since_now(platform)
    async with platform.connection.transaction():
        for owner in (heir, world.owner, heir, world.owner):
            await platform.execute("UPDATE bots SET owner_id = $1", owner)
    told = [
        (entry.message["data"]["target_user_id"], entry.message["data"]["action"])
        for entry in await log.entries()
        if entry.type == "permission_change" and entry.message
    ]
    there = [(world.owner, "revoked"), (heir, "granted")]
    back = [(heir, "revoked"), (world.owner, "granted")]
    assert told == 2 * (there + back)


@pytest.mark.gen_test
@pytest.mark.parametrize("came_back", ["inserted", "with another id"])
async def test_a_bot_that_comes_back_names_all_who_may_watch_it(
    platform: Platform, world: World, came_back: str
) -> None:
    """Also those whose permissions never went: what was written in between is not for them."""
    await platform.execute("ALTER TABLE permissions DROP CONSTRAINT permissions_bot_id_fkey")
    bot = "b0000000-0000-4000-8000-00000000000b"
    await platform.execute("UPDATE permissions SET bot_id = $1", bot)
    log = await Log.since_now(platform)
    if came_back == "inserted":
        await platform.execute(
            "INSERT INTO bots (id, name, owner_id) VALUES ($1, 'back', $2)", bot, world.owner
        )
    else:
        await platform.execute("DELETE FROM sessions")
        await platform.execute("UPDATE bots SET id = $1", bot)
    grants = [entry for entry in await log.entries() if entry.type == "grant"]
    assert {(entry.topic, entry.user_id) for entry in grants} == {
        (bot_topic(bot), world.owner),
        (bot_topic(bot), world.guest),
    }


@pytest.mark.gen_test
async def test_everything_truncated_and_put_back_names_who_is_back(
    platform: Platform, world: World
) -> None:
    """What was written in between is not for them, so they count as granted anew."""
    log = await Log.since_now(platform)
    async with platform.connection.transaction():
        await platform.execute("CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM users")
        await platform.execute("CREATE TEMP TABLE kept_bots ON COMMIT DROP AS SELECT * FROM bots")
        await platform.execute("TRUNCATE users CASCADE")
        await platform.execute("INSERT INTO users SELECT * FROM kept")
        await platform.execute("INSERT INTO bots SELECT * FROM kept_bots")
    entries = await log.entries()
    assert {entry.code for entry in entries if entry.type == "recheck"} == {4001, 4003}
    grants = [entry for entry in entries if entry.type == "grant"]
    assert sorted(grants, key=str) == sorted(
        [
            Entry(None, "grant", None, world.owner),
            Entry(None, "grant", None, world.guest),
            Entry(bot_topic(world.bot), "grant", None, world.owner),
        ],
        key=str,
    )
