"""docs/recipes.md: the programs of the page, with a real server."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.test_resume import leave
from tests.clients import Message, Socket
from tests.platform import Platform
from tests.serving import RunningServer, World
from tests.unit.test_readme import code_blocks
from tests.waiting import LIMIT

PAGE = Path(__file__).parents[2].joinpath("docs", "recipes.md").read_text("utf-8")
PIECES = ["The answer", " is", " forty-two."]
# What the page shows of the answer after each message.
SHOW = """
for (const message of JSON.parse(process.argv[1])) {
  take(message);
  const [draft] = drafts.values();
  console.log(JSON.stringify(draft ? draft.text ?? '…' : message.data.content ?? 'nothing'));
}
"""


def shown(messages: list[Message]) -> list[Any]:
    """What the code of the page shows after each of these messages."""
    (code,) = [one for one in code_blocks(PAGE, "js") if "drafts" in one]
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code + SHOW, "--", json.dumps(messages)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def ask(
    platform: Platform, world: World, message_id: str, pieces: AsyncIterator[str]
) -> None:
    """Run the service of the page."""
    names: dict[str, Any] = {}
    exec(code_blocks(PAGE, "python")[0], names)
    await names["answer"](
        platform.connection, world.bot, world.session, world.guest, message_id, pieces
    )


def of_the_answer(socket: Socket) -> list[Message]:
    return socket.of_type("answer_piece", "chat_message")


@pytest.mark.skipif(not shutil.which("node"), reason="node is not there")
@pytest.mark.gen_test
async def test_an_answer_piece_by_piece(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """It grows for who is there or was away; who comes in the middle sees it at the end."""
    message_id, go_on = str(uuid4()), asyncio.Event()

    async def pieces() -> AsyncIterator[str]:
        for piece in PIECES:
            yield piece
            await go_on.wait()

    there, away = [await server.chat(world.bot, world.guest) for _ in range(2)]
    answering = asyncio.create_task(ask(platform, world, message_id, pieces()))
    for socket in (there, away):
        await socket.next("answer_piece")
    cursor = await leave(away)
    late = await server.chat(world.bot, world.guest)
    go_on.set()
    await answering
    back = await server.chat(world.bot, world.guest, cursor=cursor)
    for socket in (there, late, back):
        await socket.next("chat_message")
    whole = "The answer is forty-two."
    growing = ["The answer", "The answer is", whole, whole]
    assert shown(of_the_answer(there)) == growing
    assert shown(of_the_answer(away) + of_the_answer(back)) == growing
    assert shown(of_the_answer(late)) == ["…", "…", whole]


@pytest.mark.skipif(not shutil.which("node"), reason="node is not there")
@pytest.mark.gen_test
async def test_an_answer_that_fails_half_way(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """What there is of it is stored, so nobody waits for the rest."""

    async def pieces() -> AsyncIterator[str]:
        yield PIECES[0]
        raise ConnectionError("the model is gone")

    there = await server.chat(world.bot, world.guest)
    with pytest.raises(ConnectionError):
        await ask(platform, world, str(uuid4()), pieces())
    await there.next("chat_message")
    assert shown(of_the_answer(there)) == [PIECES[0], PIECES[0]]
