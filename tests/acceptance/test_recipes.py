"""docs/recipes.md: the programs of the page, with a real server."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from rowcast import connect
from tests.acceptance.test_resume import leave
from tests.clients import Message, Socket
from tests.commands import ROOT, environment, free_port
from tests.platform import Platform
from tests.serving import SECRET, RunningServer, World, token
from tests.unit.test_readme import code_blocks
from tests.waiting import LIMIT, eventually

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


def block(language: str, word: str) -> str:
    """The one piece of code of the page with that word in it."""
    (found,) = [one for one in code_blocks(PAGE, language) if word in one]
    return found


def shown(messages: list[Message]) -> list[Any]:
    """What the code of the page shows after each of these messages."""
    return printed(block("js", "drafts") + SHOW, messages)


def printed(code: str, messages: list[Message]) -> list[Any]:
    """What a program prints of these messages, as JSON, a line each."""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code, "--", json.dumps(messages)],
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
    """Run the service of the page, with ids as asyncpg returns them."""
    names: dict[str, Any] = {}
    exec(block("python", "answer_piece"), names)
    ids = [UUID(one) for one in (world.bot, world.session, world.guest, message_id)]
    await names["answer"](platform.connection, *ids, pieces)


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


@pytest.mark.gen_test
async def test_an_answer_that_never_begins(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """No message without a text is stored; a piece without a text begins nothing."""

    async def pieces() -> AsyncIterator[str]:
        yield ""
        raise ConnectionError("the model is gone")

    there = await server.chat(world.bot, world.guest)
    with pytest.raises(ConnectionError):
        await ask(platform, world, str(uuid4()), pieces())
    await platform.message(world.session, world.bot, world.owner, "after it")
    await there.next("chat_message")
    assert [one["data"]["content"] for one in of_the_answer(there)] == ["after it"]


@pytest.mark.gen_test
async def test_an_account_that_types_for_the_assistant(
    server: RunningServer, platform: Platform, world: World
) -> None:
    """Others see it begin with the question and end with the answer."""
    names: dict[str, Any] = {}
    exec(block("python", "keep_typing"), names)
    account = await platform.user("assistant")
    await platform.permit(world.bot, account)
    there, answered = await server.chat(world.bot, world.guest), asyncio.Event()

    async def answer(_question: dict[str, Any]) -> None:
        await there.next("typing_indicator")
        answered.set()

    url = f"http://{server.base}"
    async with connect(url, token=token(account), bot_id=world.bot) as chat:
        serving = asyncio.create_task(names["serve"](chat, answer))
        await eventually(lambda: chat.state == "open")
        await platform.message(world.session, world.bot, world.guest, "a question")
        await asyncio.wait_for(answered.wait(), LIMIT)
        await there.next("typing_indicator", 2)
        serving.cancel()
        await asyncio.wait([serving])
    said = [one["data"] for one in there.of_type("typing_indicator")]
    assert [(one["username"], one["is_typing"]) for one in said[:2]] == [
        ("assistant", True),
        ("assistant", False),
    ]


@pytest.mark.skipif(not shutil.which("node"), reason="node is not there")
@pytest.mark.gen_test
async def test_typing_as_an_event(server: RunningServer, platform: Platform, world: World) -> None:
    """It ends with the answer, and what comes late shows nothing."""
    there = await server.chat(world.bot, world.guest)
    statement = of_the_demo(block("sql", "assistant_typing"), world)
    await platform.execute(statement.replace("8 seconds", "1 hour"))
    await platform.message(world.session, world.bot, world.owner, "an answer", "assistant")
    await platform.execute(statement.replace("8 seconds", "-1 seconds"))
    await there.next("assistant_typing", 2)
    show = """
    for (const message of JSON.parse(process.argv[1]))
      takeTyping(message, (isTyping) => console.log(JSON.stringify(isTyping)));
    clearTimeout(timer);
    """
    messages = there.of_type("assistant_typing", "chat_message")
    assert printed(block("js", "takeTyping") + show, messages) == [True, False, False]


def of_the_demo(sql: str, world: World) -> str:
    """A statement of the page, about the bot and the guest of this test."""
    for number, ours in (("b1", world.bot), ("a2", world.guest)):
        sql = sql.replace(f"00000000-0000-4000-8000-0000000000{number}", ours)
    return sql


@pytest.mark.gen_test
async def test_unread_messages(
    server: RunningServer, platform: Platform, world: World, database: str
) -> None:
    """What was counted and what is told make the whole, for everybody but the author."""
    await platform.execute(block("sql", "CREATE TRIGGER tell_unread"))
    count, read = block("sql", "AS counts"), block("sql", "DELETE FROM unread")
    bell = await server.notifications(world.guest)
    own = await server.notifications(world.owner)
    for text in ("one", "two"):
        await platform.message(world.session, world.bot, world.owner, text)
    row = await platform.connection.fetchrow(count, world.guest)
    assert row is not None
    assert json.loads(row["counts"]) == {world.bot: 2}
    await platform.message(world.session, world.bot, world.guest, "their own")
    await platform.message(world.session, world.bot, world.owner, "an answer", "assistant")
    await bell.next("unread", 3)
    loaded = await server.notifications(world.guest, cursor=row["cursor"])
    assert (await loaded.next("unread"))["data"] == {"bot_id": world.bot, "more": 1}
    await own.next("unread", 2)
    async with platform.connection.transaction():
        await platform.message(world.session, world.bot, world.owner, "committed after the reading")
        reading = await Platform.connect(database)
        try:
            await reading.execute(read, world.guest, world.bot)
        finally:
            await reading.connection.close(timeout=LIMIT)
    await platform.execute(block("sql", "'read'"), world.guest, world.bot)
    assert (await bell.next("read"))["data"] == {"bot_id": world.bot}
    assert [one["data"]["more"] for one in bell.of_type("unread")] == [1, 1, 1, 1]
    assert [one["data"]["more"] for one in own.of_type("unread")] == [1, 1]
    row = await platform.connection.fetchrow(count, world.guest)
    assert row is not None
    assert json.loads(row["counts"]) == {world.bot: 1}
    await platform.execute(read, world.guest, world.bot)
    row = await platform.connection.fetchrow(count, world.guest)
    assert row is not None
    assert row["counts"] is None


@pytest.mark.gen_test
async def test_who_is_there_in_sql(
    server: RunningServer, platform: Platform, world: World, database: str
) -> None:
    """A role with these rights may ask, and sees each person once."""
    for _ in range(2):
        await server.chat(world.bot, world.guest)
    await server.chat(world.bot, world.owner)
    grants, question = block("sql", "TO my_service"), block("sql", "AS people")
    await platform.execute("CREATE ROLE my_service LOGIN")
    try:
        await platform.execute(grants)
        service = await Platform.connect(re.sub(r"//[^@/]*@", "//my_service@", database))
        try:

            async def counted() -> bool:
                rows = await service.connection.fetch(question)
                return [tuple(row) for row in rows] == [(UUID(world.bot), 2)]

            await eventually(counted)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute("SELECT FROM relay.events")
        finally:
            await service.connection.close(timeout=LIMIT)
    finally:
        await platform.execute("DROP OWNED BY my_service; DROP ROLE my_service")


@pytest.mark.parametrize("size", [1, 400_000])
@pytest.mark.gen_test
async def test_what_a_user_wrote_is_erased(
    server: RunningServer, platform: Platform, world: World, size: int
) -> None:
    """Nobody who returns is sent it or misses more, wherever their cursor stands."""
    secret = "secret " * size
    others = [await server.chat(world.bot, world.owner) for _ in range(3)]
    there, before, behind = others
    bell = await server.notifications(world.owner)
    cursors = [await leave(before)]
    session = await platform.session(world.bot, world.owner)
    told = await platform.message(session, world.bot, world.guest, secret)
    await platform.execute(
        "UPDATE messages SET content = $2 WHERE id = $1", told, secret + "edited"
    )
    await platform.message(session, world.bot, world.guest, secret, "assistant")
    await platform.execute(
        "SELECT relay.notify_user($1, 'note', '{\"text\": \"secret\"}')", world.guest
    )
    await behind.next("chat_message", 2)
    cursors.append(await leave(behind))  # it names a row that is erased
    await platform.message(world.session, world.bot, world.owner, "of somebody else")
    await platform.execute("DELETE FROM users WHERE id = $1", world.guest)
    await platform.execute(of_the_demo(block("sql", '"type":"erased"'), world))
    left = "SELECT count(*) FROM relay.events WHERE payload LIKE '%secret%'"
    assert await platform.connection.fetchval(left) == 0
    # Two with each cursor: they share what is read. (Of edit and deletion only the newest is sent.)
    for cursor, erased in zip(cursors, (2, 0), strict=True):
        for back in [await server.chat(world.bot, world.owner, cursor=cursor) for _ in range(2)]:
            assert (await back.established())["data"]["recovered"] is True
            await back.next("chat_message")
            assert not [one for one in back.texts if "secret" in str(one)]
            assert len(back.of_type("erased")) == erased
            assert [one["data"]["content"] for one in back.of_type("chat_message")] == [
                "of somebody else"
            ]
            others.append(back)
    await platform.message(world.session, world.bot, world.owner, "live")
    for socket in (there, *others[3:]):
        await eventually(lambda socket=socket: "live" in str(socket.texts[-1]))
    assert not [one for one in (there, bell, *others[3:]) if one.of_type("resync")]


@pytest.mark.gen_test
async def test_load_on_a_deployment(
    server: RunningServer, platform: Platform, world: World, tmp_path: Path
) -> None:
    """All sockets are let in and sent what is written; the program ends with the bot."""
    bot = re.findall(r"^BOT = \"(.*)\"$", PAGE, re.MULTILINE)[0]
    await platform.execute(
        "INSERT INTO bots (id, name, owner_id) VALUES ($1, 'Load', $2)", bot, world.owner
    )
    await platform.execute(block("sql", "'load-'"))
    ids = await platform.connection.fetch("SELECT id FROM users WHERE username LIKE 'load-%'")
    program = tmp_path / "load.py"
    program.write_text(block("python", "BOT = "))
    users = "\n".join(str(row["id"]) for row in ids)
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, program, f"http://{server.base}", "30"),
        env=environment(JWT_SECRET=SECRET, PYTHONPATH=str(ROOT / "clients" / "python" / "src")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    ended = asyncio.create_task(running.communicate(users.encode()))
    # Who is let in after the message is not sent it.
    await eventually(lambda: sum(one.is_joined for one in server.server.hub.subscribers) == 30)
    session = await platform.session(bot, world.owner)
    await platform.message(session, bot, world.owner)
    await platform.execute("DELETE FROM bots WHERE id = $1", bot)
    output, _ = await asyncio.wait_for(ended, LIMIT)
    count = ast.literal_eval(output.decode().splitlines()[-1])
    assert (count["connection_established"], count["chat_message"]) == (30, 30)


def test_a_server_for_tests_of_an_application(database: str) -> None:
    """The lines of the page start one that answers, and the last one ends it."""
    lines = f"set -e\n{block('sh', 'api/ready')}\nkill $server\nwait $server"
    done = subprocess.run(
        ["bash", "-c", lines],
        cwd=ROOT,
        env=environment(DATABASE_URL=database, JWT_SECRET=SECRET, PORT=str(free_port())),
        capture_output=True,
        text=True,
        timeout=4 * LIMIT,
        check=False,
    )
    assert (done.returncode, "ready" in done.stdout) == (0, True), done.stderr
