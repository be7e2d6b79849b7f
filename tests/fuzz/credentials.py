"""Attacks of who has a token or a cursor and wants more: changed and made up ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import time
from typing import Any

from tests.commands import SECRET
from tests.fuzz.mutation import any_json, mutate_text
from tests.fuzz.target import Target, token
from tests.fuzz.wire import Forgery, Line, handshake, request

CLAIMS = ("sub", "exp", "nbf", "iat", "aud", "iss", "type", "admin", "jti")


async def cursors(target: Target, chance: random.Random) -> None:
    """A cursor that was changed, or is another topic's, must recover nothing; a genuine one may."""
    user = target.guest(chance)
    bot = chance.choice((target.world.bot, target.world.good_bot))
    genuine = target.cursors.get(bot)
    asked = _changed(genuine, target, bot, chance) if genuine else ""
    if asked.isascii() and asked.isprintable() and chance.random() < 0.5:
        asked = asked.strip(" ")
        data = await _follow(target, bot, user, asked)
    else:
        data = await _come_in(target, f"/api/ws/chat/{bot}", token=token(user), cursor=asked)
    if data is None:
        return
    if data.get("recovered") is True and asked != genuine:
        raise Forgery(f"recovered with the cursor {asked!r}, made of {genuine!r}")
    if isinstance(data.get("cursor"), str):
        target.cursors[bot] = data["cursor"]


def _changed(genuine: str, target: Target, bot: str, chance: random.Random) -> str:
    others = [cursor for topic, cursor in target.cursors.items() if topic != bot]
    pick = chance.randrange(6)
    if pick == 0 and others:
        return others[0]
    if pick == 1:
        return genuine
    if pick == 2:
        return chance.choice(("0", "-1", "x" * 5000, any_json(chance), "\0", "1" * 1000))
    return mutate_text(genuine, chance)


async def tokens(target: Target, chance: random.Random) -> None:
    """A token that was changed must let nobody in; one with odd claims harms nobody."""
    user = target.guest(chance)
    good = token(user)
    if chance.random() < 0.5:
        asked = mutate_text(good, chance)
        if await _come_in(target, target.chat(), token=asked) and asked.strip() != good:
            raise Forgery(f"let in with the token {asked!r}, made of {good!r}")
        return
    await _come_in(target, target.chat(), token=_signed(user, chance))


def _signed(user: str, chance: random.Random) -> str:
    """Any claims under a good signature."""
    claims = {"sub": json.dumps(user), "exp": str(time.time() + 60)}
    for _ in range(chance.randint(1, 3)):
        claims[chance.choice(CLAIMS)] = any_json(chance, 2)
    body = "{" + ",".join(f'"{name}":{value}' for name, value in claims.items()) + "}"
    kid = f',"kid":{any_json(chance, 1)}' if chance.random() < 0.3 else ""
    head = '{"alg":"HS256"' + kid + "}"
    parts = [_encoded(part.encode("utf-8", "replace")) for part in (head, body)]
    signature = hmac.digest(SECRET.encode(), b".".join(parts), hashlib.sha256)
    return b".".join([*parts, _encoded(signature)]).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


async def _come_in(target: Target, path: str, **query: str) -> dict[str, Any] | None:
    """What the server says when it lets us in; None: it does not."""
    return await _ask(target, handshake(path, **query))


async def _follow(target: Target, bot: str, user: str, cursor: str) -> dict[str, Any] | None:
    """The same over HTTP, with the cursor in the header of a browser that comes back."""
    path, came_back = f"/api/sse/chat/{bot}", f"Last-Event-ID: {cursor}"
    return await _ask(target, request(path, came_back, token=token(user)))


async def _ask(target: Target, asked: bytes) -> dict[str, Any] | None:
    line = await Line.open(target.port)
    try:
        return await line.ask(asked)
    finally:
        await line.hang_up()
