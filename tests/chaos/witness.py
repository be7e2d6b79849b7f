"""Holds side by side what a server sent and what the client handed over, for one client's record.

`watch` is told of every message on the wire, `take` of every event that the application was handed.
An episode's moments are those at which the server spoke; what was *seen* is only what was handed
over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from rowcast import Event
from tests.chaos.loader import Loaded
from tests.chaos.model import Model
from tests.chaos.record import Greeting, Record, Seen, event_id
from tests.chaos.websocket import Dial


class Witness:
    """Writes one client's record.

    Args:
        clock: monotonic seconds, the same as the book's.
    """

    def __init__(self, record: Record, clock: Callable[[], float]) -> None:
        self._record = record
        self._clock = clock
        self._known: set[str] = set()
        self._loaded: str | None = None
        """The cursor of the state that was loaded, until a greeting says whether it is good."""
        self._cursors: deque[tuple[float, str]] = deque(maxlen=200)
        self._given: set[str] = set()
        """The cursors that the client may come back with."""
        self._greeted: dict[str, Dial] = {}
        self._owed: deque[float | None] = deque()
        """Each `resync` that must be handed over: when it came; None: with a greeting."""
        self._was_told = False
        self._connection = 0
        self.probes: dict[str, float] = {}

    def cursors_since(self, moment: float) -> list[str]:
        """Those that the application had since then."""
        return [cursor for at, cursor in self._cursors if at >= moment]

    def dialled(self, dial: Dial) -> None:
        """The client comes back: with a cursor, if it ever had one, and with one of its own.

        That of a greeting which promises a replay is ahead of what was sent, and not to be claimed.
        """
        if dial.claimed is None and self._given:
            self._record.strange.append((dial.began_at, "came back without its cursor"))
        elif dial.claimed is not None and dial.claimed not in self._given:
            self._record.strange.append((dial.began_at, "came back with a cursor not its own"))

    def load(self, cursor: str | None, loaded: Loaded) -> None:
        """The application has loaded the state anew, and connects with its cursor.

        Args:
            cursor: the client's, up to now.
        """
        self._lose(cursor)
        self._record.model = Model(loaded.things, is_whole=True)
        self._loaded = loaded.cursor
        self._given.add(loaded.cursor)

    # What the server sends.

    def watch(self, dial: Dial, message: dict[str, Any]) -> None:
        """It has arrived, on that connection."""
        now, identifier = self._clock(), event_id(message)
        if "cursor" in message:
            self._given.add(message["cursor"])
        if message["type"] == "connection_established":
            if not message["data"].get("recovered"):
                self._given.add(message["data"]["cursor"])
            dial.connection_id = message["data"]["connection_id"]
            dial.greeted_at = now
            self._greeted[dial.connection_id] = dial
            if message["data"].get("recovered") is False:
                self._owed.append(None)
        elif message["type"] == "resync":
            self._owed.append(now)
        elif identifier is not None:
            if identifier in dial.arrived:
                seen = Seen(identifier, now, dial.number)
                self._record.repeated_on_a_connection.append(seen)
            dial.arrived.add(identifier)
            self._record.repeats += identifier in self._known

    # What the client hands over.

    def take(self, event: Event, cursor: str | None) -> None:
        """It was handed over.

        Args:
            cursor: the client's, afterwards.
        """
        now, identifier = self._clock(), event_id(event.raw)
        if event.type == "connection_established":
            self._greet(event.data)
        elif event.type == "resync":
            self._resync(event.data["reason"], cursor, now)
        elif identifier is not None:
            self._take_event(identifier, event, now)
        elif event.type != "going_away":
            self._record.strange.append((now, f"{event.raw}"))
        if event.cursor is not None:
            self._cursors.append((now, event.cursor))

    def _greet(self, data: dict[str, Any]) -> None:
        dial = self._greeted.pop(data["connection_id"])
        at, recovered, reason = dial.greeted_at, data.get("recovered"), data.get("reason")
        self._connection = dial.number
        self._record.greetings.append(
            Greeting(
                dial.number,
                dial.began_at,
                at,
                dial.asked,
                recovered,
                reason,
                is_older=dial.asked != dial.claimed,
            )
        )
        what = f"open on {dial.port}, recovered: {recovered} {reason or ''}"
        self._record.note(self._clock(), f"[{dial.number}] {what}")
        loaded, self._loaded = self._loaded, None
        if recovered:
            if loaded is not None:
                self._record.begin_episode(at, loaded, is_loaded=True)
            if dial.asked != dial.claimed:
                self._record.model = Model()  # its state is as old as the cursor: not this one
            return
        if dial.asked is not None and recovered is None:
            self._record.strange.append((at, "nothing was said of the cursor that was sent"))
        if (recovered is False) is not self._was_told:
            self._record.strange.append((at, f"{what}, resync: {self._was_told}"))
        self._was_told = False
        self._lose(dial.claimed)
        self._record.begin_episode(at, data["cursor"])

    def _resync(self, reason: str, cursor: str | None, now: float) -> None:
        """Of a greeting, which follows, or of the connection as it lives."""
        if not self._owed:
            self._record.strange.append((now, f"resync that nobody sent: {reason}"))
            return
        at = self._owed.popleft()
        if at is None:
            self._was_told = True
            return
        self._record.greetings.append(Greeting(self._connection, at, at, cursor, False, reason))
        self._record.note(now, f"[{self._connection}] resync: {reason}")
        self._lose(cursor)
        self._record.begin_episode(at, None)

    def _lose(self, cursor: str | None) -> None:
        self._record.end_episode(cursor)
        self._cursors.clear()
        self._known.clear()
        self._record.model = Model()

    def _take_event(self, identifier: str, event: Event, now: float) -> None:
        self._known.add(identifier)
        self._record.model.apply(event.raw)
        self._record.seen.append(Seen(identifier, now, self._connection))
        if event.type == "probe" or event.raw.get("notification_type") == "probe":
            self.probes[event.data["probe"]] = now
