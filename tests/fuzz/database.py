"""Attacks of who can write to the database: NOTIFY payloads, and rows of the log made by hand.

The rows are those that the owner of the schema could write by mistake. They do not end everybody's
access, for that is what such a row is for, and they leave the columns alone that PostgreSQL fills.
"""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from tests.fuzz.mutation import any_json, mutate_text
from tests.fuzz.target import Target, token
from tests.fuzz.wire import Line, refuse_errors

MEGABYTE = 1_000_000
CODES = (
    None,
    None,
    None,
    0,
    -1,
    1,
    999,
    1000,
    1005,
    1006,
    1013,
    1015,
    4001,
    4003,
    4999,
    5000,
    65536,
    2**31 - 1,
)
TYPES = ("eject", "recheck", "grant", "chat_message", "resync", "x", "", "x" * 5000, "\u2028", "é")
TIMES = (
    None,
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
)


async def notifications(target: Target, chance: random.Random) -> None:
    """What somebody who has learned the names may say on the channels on which processes talk."""
    channel = chance.choice(("typing", "typing", "ring"))
    payloads = [_payload(target, chance) for _ in range(chance.choice((1, 1, 50)))]
    async with target.pool.acquire() as connection:
        await connection.executemany(
            "SELECT relay.tell($1, $2)", [(channel, payload) for payload in payloads]
        )


def _payload(target: Target, chance: random.Random) -> str:
    row = [target.world.bot, target.guest(chance), chance.choice(("ada", "x" * 300, "")), True]
    good = json.dumps(["another process", [row] * chance.choice((1, 30))])
    pick = chance.randrange(3)
    made = (good, mutate_text(good, chance), any_json(chance))[pick]
    return _storable(made)[:3500]


async def rows(target: Target, chance: random.Random) -> None:
    """Rows of the log that no trigger would write, with somebody on the bot to whom they go."""
    line = await Line.open(target.port)
    try:
        await _come_back(line, target, chance)
        async with target.pool.acquire() as connection:
            for _ in range(chance.choice((1, 3, 20))):
                await connection.execute(*_row(target, chance))
            if chance.random() < 0.3:
                await _take_access(connection, target, chance)
            await connection.execute("SELECT relay.ring('fuzz')")
        refuse_errors(await line.receive(chance.choice((0.0, 0.2))))
    except ConnectionError:
        pass
    finally:
        await line.hang_up()


def _row(target: Target, chance: random.Random) -> tuple[Any, ...]:
    topic, user = _topic(target, chance), _user(target, chance)
    kind, code = chance.choice(TYPES), chance.choice(CODES)
    if code is not None and topic is None and user is None:
        user = UUID(int=2)  # nobody: else everybody's access would end, or be in doubt
    written = chance.choice(TIMES)
    columns = "topic, type, payload, user_id, code, subject"
    values: list[Any] = [
        topic,
        kind,
        _row_payload(chance),
        user,
        code,
        chance.choice((None, UUID(int=1))),
    ]
    if written is not None:
        columns += ", written_at"
        values.append(written)
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    return f"INSERT INTO relay.events ({columns}) VALUES ({places})", *values


async def _come_back(line: Line, target: Target, chance: random.Random) -> None:
    """Come in where somebody else left off, so that rows are read as missed events, too."""
    bot, user = target.world.bot, target.guest(chance)
    cursor = target.cursors.get(bot, "")
    data = await line.come_in(target.chat(), token=token(user), cursor=cursor)
    if data is not None and isinstance(data.get("cursor"), str) and chance.random() < 0.3:
        target.cursors[bot] = data["cursor"]


async def _take_access(
    connection: PoolConnectionProxy[asyncpg.Record], target: Target, chance: random.Random
) -> None:
    """Take a guest's permission, told by a row with any code; then give it back."""
    world, guest = target.world, target.guest(chance)
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "DELETE FROM permissions WHERE bot_id = $1 AND user_id = $2", world.bot, guest
        )
        await connection.execute(
            "INSERT INTO relay.events (topic, type, user_id, code) VALUES ($1, $2, $3, $4)",
            f"bot:{world.bot}",
            chance.choice(("eject", "recheck")),
            UUID(guest),
            chance.choice(CODES[3:]),
        )
        await connection.execute("SELECT relay.ring('fuzz')")
    await asyncio.sleep(0.05)
    await connection.execute(
        "INSERT INTO permissions (bot_id, user_id, role) VALUES ($1, $2, 'viewer')"
        " ON CONFLICT DO NOTHING",
        world.bot,
        guest,
    )


def _topic(target: Target, chance: random.Random) -> str | None:
    bot, guest = target.world.bot, target.guest(chance)
    good = (f"bot:{bot}", f"bot:{bot}", f"user:{guest}")
    odd = (None, "", "bot:", f"bot:{bot.upper()}", f"bot:{bot} ", "bot:x", "user:é", "x" * 2000)
    return chance.choice((*good, *odd))


def _user(target: Target, chance: random.Random) -> UUID | None:
    return chance.choice((None, UUID(target.guest(chance)), UUID(int=chance.getrandbits(128))))


def _row_payload(chance: random.Random) -> str | None:
    if chance.random() < 0.01:
        return json.dumps({"type": "huge", "data": "x" * chance.randint(MEGABYTE, 3 * MEGABYTE)})
    good = json.dumps({"type": "chat_message", "data": {"content": "x" * chance.randint(0, 9000)}})
    made = chance.choice(
        (None, "", "{", "}", "{}", "null", "[]", good, mutate_text(good, chance), any_json(chance))
    )
    return None if made is None else _storable(made)


async def calls(target: Target, chance: random.Random) -> None:
    """The functions of the SQL contract, with any arguments; what they refuse is well refused."""
    topic, user, text = _topic(target, chance), _user(target, chance), _storable(any_json(chance))
    statement, arguments = chance.choice(
        (
            (
                "SELECT relay.emit($1, $2, $3::text::jsonb)",
                (topic, _storable(chance.choice(TYPES)), text),
            ),
            ("SELECT relay.notify_user($1, $2, $3::text::jsonb)", (user, "quota", text)),
            ("SELECT relay.grant($1, $2)", (user, topic)),
            (
                "SELECT relay.eject($1, $2, $3)",
                (UUID(target.guest(chance)), topic, chance.choice(CODES)),
            ),
            ("SELECT relay.cursor($1)", (topic,)),
        )
    )
    async with target.pool.acquire() as connection:
        await connection.execute(statement, *arguments)
    await asyncio.sleep(0)


def _storable(text: str) -> str:
    """Without what PostgreSQL's text cannot hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
