"""What one client saw, in order: kept by `clients`, judged by `verdict`. No I/O.

An *episode* is a time over which the client was promised everything: it begins where the server
said that it begins (a first connection, `recovered: false`, `resync`) and goes on through every
reconnect that was `recovered: true`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.chaos.model import Model
from tests.chaos.population import Seat


class Seen(NamedTuple):
    """An event that got past the id check and so to the application."""

    id: str
    at: float
    connection: int


class Greeting(NamedTuple):
    """What the server said of the cursor that was sent, or, by `resync`, of a live socket."""

    connection: int
    opened_at: float
    """When the connection was begun."""
    at: float
    cursor: str | None
    """What the client had seen when it asked."""
    recovered: bool | None
    """None: no cursor was sent."""
    reason: str | None
    is_older: bool = False
    """Whether it asked with an older cursor than its newest, as a page whose state is as old."""

    @property
    def is_of_a_live_socket(self) -> bool:
        return self.opened_at == self.at


class Ending(NamedTuple):
    """A connection that the server closed, or that was lost."""

    connection: int
    opened_at: float
    at: float
    code: int
    reason: str


@dataclass
class Episode:
    """See the module's text. Cursors are texts as the server sent them."""

    began_at: float
    first_cursor: str | None
    last_cursor: str | None = None
    """The newest when the server said that the episode is over; None: it never did."""
    is_over: bool = False
    first_seen: int = 0
    """How many events had been handed over before it."""
    is_loaded: bool = False
    """Whether the state was loaded with the first cursor, so that what that covers was there."""


@dataclass
class Record:
    """One client's history."""

    name: str
    seat: Seat
    seen: list[Seen] = field(default_factory=list)
    greetings: list[Greeting] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    timeline: list[tuple[float, str]] = field(default_factory=list)
    repeats: int = 0
    """Events that the id check dropped."""
    repeated_on_a_connection: list[Seen] = field(default_factory=list)
    strange: list[tuple[float, str]] = field(default_factory=list)
    """Messages that should never come."""
    dropped: Counter[str] = field(default_factory=Counter)
    """How often it left by itself, and how."""
    was_open_at_the_end: bool = False
    only_told: frozenset[str] = frozenset()
    """Of one who came with a cursor not its own: with which reasons it must be turned away."""
    model: Model = field(default_factory=Model)
    """What it has on screen."""

    def note(self, at: float, text: str) -> None:
        self.timeline.append((at, text))

    def begin_episode(self, at: float, cursor: str | None, *, is_loaded: bool = False) -> None:
        episode = Episode(at, cursor, first_seen=len(self.seen), is_loaded=is_loaded)
        self.episodes.append(episode)

    def end_episode(self, cursor: str | None) -> None:
        if self.episodes and not self.episodes[-1].is_over:
            self.episodes[-1].last_cursor = cursor
            self.episodes[-1].is_over = True

    def around(self, at: float, seconds: float = 3.0, most: int = 25) -> list[str]:
        """The timeline near a moment, for evidence."""
        near = [(when, text) for when, text in self.timeline if abs(when - at) <= seconds]
        return [f"{when:9.3f} {text}" for when, text in near[:most]]


def event_id(message: Mapping[str, Any]) -> str | None:
    """The id of an event that came from a row."""
    return message.get("id")
