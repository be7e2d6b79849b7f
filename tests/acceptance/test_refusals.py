"""Clients that come back for ever after a refusal cost the database nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

import pytest

from realtime.postgres.access import Access
from realtime.relay.admission import Admission, AdmissionRequest
from realtime.relay.errors import Refused
from tests.platform import Platform
from tests.serving import RunningServer, World
from tests.waiting import eventually


@pytest.mark.gen_test
async def test_repeated_refusals_are_answered_without_a_query(
    server: RunningServer, platform: Platform, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the grants have been heard that making the users was."""
    strangers = [await platform.user() for _ in range(20)]
    asked: list[AdmissionRequest] = []
    authorize = Access.authorize

    async def counting(
        self: Access, questions: Sequence[AdmissionRequest]
    ) -> list[Admission | Refused]:
        asked.extend(questions)
        return await authorize(self, questions)

    monkeypatch.setattr(Access, "authorize", counting)

    async def is_for_free() -> bool:
        asked.clear()
        refused = await asyncio.gather(
            *(server.open(f"/api/ws/chat/{world.bot}", user) for user in strangers)
        )
        for socket in refused:
            assert await socket.closed() == 4003
        return not asked

    await eventually(is_for_free)
    assert await is_for_free()


@pytest.mark.gen_test
async def test_a_grant_lets_in_at_once_who_was_refused_before(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """A permission, a user made active again, a bot that did not exist yet."""
    stranger = await platform.user("sam")
    path = f"/api/ws/chat/{world.bot}"
    for _ in range(3):
        assert await (await server.open(path, stranger)).closed() == 4003
        await platform.permit(world.bot, stranger)
        allowed = await server.chat(world.bot, stranger)
        await platform.execute("UPDATE users SET is_active = false WHERE id = $1", stranger)
        assert await allowed.closed() == 4001
        assert await (await server.open(path, stranger)).closed() == 4001
        await platform.execute("UPDATE users SET is_active = true WHERE id = $1", stranger)
        await (await server.open(path, stranger)).established()
        await platform.revoke(world.bot, stranger)
    bot = "00000000-0000-4000-8000-0000000000ff"
    assert await (await server.open(f"/api/ws/chat/{bot}", world.owner)).closed() == 4003
    await platform.execute(
        "INSERT INTO bots (id, name, owner_id) VALUES ($1, 'New', $2)", bot, world.owner
    )
    await (await server.open(f"/api/ws/chat/{bot}", world.owner)).established()


@pytest.mark.gen_test
async def test_a_grant_counts_though_this_process_has_not_heard_of_it(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Its way to the log is stuck; a refusal from before the grant is not repeated meanwhile."""
    stranger = await platform.user("sam")
    path = f"/api/ws/chat/{world.bot}"
    assert await (await server.open(path, stranger)).closed() == 4003
    listening = await platform.connection.fetchval("SELECT backend FROM relay.nodes")
    os.kill(listening, signal.SIGSTOP)
    try:
        await platform.permit(world.bot, stranger)
        await (await server.open(path, stranger)).established()
    finally:
        os.kill(listening, signal.SIGCONT)
