"""Who and what there is in a run: users, bots, permissions, and who has which clients.

Also the record of who lost access when, which `access` keeps and `verdict` reads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.platform import Platform

BOTS = 4
VIEWERS = 8
BOTS_OF_A_VIEWER = 2


class Seat(NamedTuple):
    """A place where a client may be: a user on a bot's chat, or (bot None) on notifications."""

    user: str
    bot: str | None

    @property
    def topic(self) -> str:
        return f"bot:{self.bot}" if self.bot else f"user:{self.user}"

    @property
    def path(self) -> str:
        return f"/api/ws/chat/{self.bot}" if self.bot else "/api/ws/notifications"


class Bot(NamedTuple):
    id: str
    owner: str
    session: str

    @property
    def topic(self) -> str:
        return f"bot:{self.id}"


@dataclass
class Absence:
    """A time without access: from the transaction that took it to the one that gave it back."""

    lost: str
    gained: str | None = None


@dataclass
class Population:
    """The platform under test."""

    bots: list[Bot] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    viewers: list[str] = field(default_factory=list)
    seats: list[Seat] = field(default_factory=list)
    absences: defaultdict[Seat, list[Absence]] = field(default_factory=lambda: defaultdict(list))
    shaken: defaultdict[Seat, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Transactions after which somebody who kept access had to be asked about again."""
    busy: set[str] = field(default_factory=set)
    """Users whose access is being changed at the moment."""
    changes: Counter[str] = field(default_factory=Counter)
    """How often each user's access began to be changed."""

    def seats_of(self, user: str) -> list[Seat]:
        return [seat for seat in self.seats if seat.user == user]

    def is_away(self, seat: Seat) -> bool:
        """Whether the user has no access there now."""
        return bool(self.absences[seat]) and self.absences[seat][-1].gained is None


async def make_population(platform: Platform) -> Population:
    """Write the rows: each bot has an owner, each viewer watches two bots, all are notified."""
    population = Population()
    for number in range(BOTS):
        owner = await platform.user(f"owner-{number}")
        bot = await platform.bot(owner, f"bot-{number}")
        population.bots.append(Bot(bot, owner, await platform.session(bot, owner)))
        population.users.append(owner)
        population.seats += [Seat(owner, bot), Seat(owner, None)]
    for number in range(VIEWERS):
        viewer = await platform.user(f"viewer-{number}")
        population.users.append(viewer)
        population.viewers.append(viewer)
        population.seats.append(Seat(viewer, None))
        for step in range(BOTS_OF_A_VIEWER):
            bot = population.bots[(number + step) % BOTS].id
            await platform.permit(bot, viewer)
            population.seats.append(Seat(viewer, bot))
    return population
