"""Rows of documents: document_update."""

from __future__ import annotations

import pytest

from tests.integration.sql_log import Entry, Log, Message, act_as, bot_topic
from tests.platform import Platform
from tests.serving import World


async def upload(platform: Platform, world: World, status: str = "uploaded") -> str:
    return str(
        await platform.connection.fetchval(
            """INSERT INTO documents (bot_id, uploaded_by, filename, status, error)
            VALUES ($1, $2, 'a "b".pdf', $3, 'no text') RETURNING id""",
            world.bot,
            world.guest,
            status,
        )
    )


def document_update(
    bot_id: str, action: str, document_id: str, user_id: str | None, **more: str | None
) -> Message:
    document = {"id": document_id, "filename": 'a "b".pdf', "status": action} | more
    return {
        "type": "document_update",
        "bot_id": bot_id,
        "data": {"action": action, "document": document, "user_id": user_id},
    }


@pytest.mark.gen_test
async def test_an_inserted_document_was_uploaded(platform: Platform, world: World) -> None:
    """By its uploader; a status other than uploaded shows in the document only."""
    log = await Log.since_now(platform)
    first = await upload(platform, world)
    message = document_update(world.bot, "uploaded", first, world.guest)
    assert await log.only() == Entry(bot_topic(world.bot), "document_update", message)
    second = await upload(platform, world, status="processed")
    assert await log.messages() == [
        document_update(world.bot, "uploaded", second, world.guest, status="processed")
    ]


@pytest.mark.gen_test
async def test_a_new_status_is_the_action(platform: Platform, world: World) -> None:
    """The error stands in it only when processing failed."""
    document = await upload(platform, world)
    log = await Log.since_now(platform)
    statuses = ("processing", "failed", "uploaded", "processed")
    for status in statuses:
        await platform.execute("UPDATE documents SET status = $1", status)
    expected = [
        document_update(world.bot, status, document, world.guest)
        if status != "failed"
        else document_update(world.bot, "failed", document, world.guest, error="no text")
        for status in statuses
    ]
    assert await log.messages() == expected


@pytest.mark.gen_test
async def test_a_failure_without_an_error_says_null(platform: Platform, world: World) -> None:
    """Clients find the field there whenever the status is failed."""
    document = await upload(platform, world)
    log = await Log.since_now(platform)
    await platform.execute("UPDATE documents SET status = 'failed', error = NULL")
    assert await log.messages() == [
        document_update(world.bot, "failed", document, world.guest, error=None)
    ]


@pytest.mark.gen_test
async def test_the_actor_comes_before_the_uploader(platform: Platform, world: World) -> None:
    """Whoever deletes a document is not who uploaded it; without either there is null."""
    first = await upload(platform, world)
    second = await upload(platform, world)
    await platform.execute("UPDATE documents SET uploaded_by = NULL WHERE id = $1", second)
    log = await Log.since_now(platform)
    await platform.execute("DELETE FROM documents WHERE id = $1", second)
    await act_as(platform, world.owner)
    await platform.execute("DELETE FROM documents WHERE id = $1", first)
    assert await log.messages() == [
        document_update(world.bot, "deleted", second, None, status="uploaded"),
        document_update(world.bot, "deleted", first, world.owner, status="uploaded"),
    ]


@pytest.mark.gen_test
async def test_other_columns_send_nothing(platform: Platform, world: World) -> None:
    """Only the status counts as news."""
    await upload(platform, world)
    log = await Log.since_now(platform)
    await platform.execute(
        "UPDATE documents SET filename = 'c', error = 'e', size_bytes = 1, status = status"
    )
    assert await log.entries() == []


@pytest.mark.gen_test
async def test_a_document_moved_to_another_bot_leaves_the_one_and_enters_the_other(
    platform: Platform, world: World
) -> None:
    """Those who watch the old bot see it deleted, those who watch the new one see it uploaded."""
    document = await upload(platform, world)
    other = await platform.bot(world.owner)
    log = await Log.since_now(platform)
    await platform.execute("UPDATE documents SET bot_id = $1, status = 'processed'", other)
    sent = await log.messages()
    assert sorted(sent, key=lambda message: str(message["data"]["action"])) == [
        document_update(world.bot, "deleted", document, world.guest, status="uploaded"),
        document_update(other, "uploaded", document, world.guest, status="processed"),
    ]


@pytest.mark.gen_test
async def test_a_document_moved_in_the_statement_that_wrote_it_leaves_the_one_bot(
    platform: Platform, world: World
) -> None:
    """As a function of the platform does, so that its triggers read the table."""
    other = await platform.bot(world.owner)
    log = await Log.since_now(platform)
    await platform.execute(
        f"""DO $$ BEGIN
            INSERT INTO documents (bot_id, filename) VALUES ('{world.bot}', 'moved');
            UPDATE documents SET bot_id = '{other}' WHERE filename = 'moved';
        END $$"""
    )
    told = [(entry.topic, (entry.message or {})["data"]["action"]) for entry in await log.entries()]
    assert told[0] == (bot_topic(world.bot), "uploaded")
    assert sorted(told[1:]) == sorted(
        [(bot_topic(world.bot), "deleted"), (bot_topic(other), "uploaded")]
    )
