"""What is attacked: one relay process, its database, and whom it lets in."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from realtime.auth.tokens import mint_token
from tests.commands import SECRET
from tests.platform import Platform

GUESTS = 24
"""Users that attack. There are more of them than attackers, and each may have a few sockets."""


@dataclass(frozen=True, slots=True)
class World:
    """The rows: one bot for those who behave, and one for everybody else."""

    good_user: str
    good_bot: str
    good_session: str
    bot: str
    guests: tuple[str, ...]


@dataclass(slots=True)
class Target:
    """One server, and the ways to it."""

    port: int
    pool: asyncpg.Pool[asyncpg.Record]
    world: World
    cursors: dict[str, str] = field(default_factory=dict)
    """Genuine ones by the topic that they are for; the newest."""

    def guest(self, chance: random.Random) -> str:
        return chance.choice(self.world.guests)

    def chat(self) -> str:
        return f"/api/ws/chat/{self.world.bot}"


def token(user: str, **more: Any) -> str:
    return mint_token(SECRET, user, ttl=3600, now=time.time(), **more)


async def make_world(dsn: str) -> World:
    """Write the rows that a run needs."""
    platform = await Platform.connect(dsn)
    try:
        owner = await platform.user("witness")
        good_bot = await platform.bot(owner, "good")
        session = await platform.session(good_bot, owner)
        bot = await platform.bot(owner, "attacked")
        guests = [await platform.user(f"guest-{number}") for number in range(GUESTS)]
        for guest in guests:
            await platform.permit(bot, guest)
            await platform.permit(good_bot, guest)
    finally:
        await platform.connection.close()
    return World(owner, good_bot, session, bot, tuple(guests))
