"""What the model of the doorbell is made of: writers, relays and what of Postgres is between them.

Moved by `doorbell_model`; each relay remembers what its `Pace` does, and asks a real one. Only the
order of transaction ids matters, so each state numbers them from 1 on; and it holds nothing that
nobody will look at any more. So states are few, though histories are endless.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from realtime.relay.cursor import Snapshot
from realtime.relay.pace import Pace, PaceLimits, PaceState, Step

Script = tuple[str, ...]
MakePace = Callable[[Callable[[], float], PaceLimits], Pace]
SILENCE: Script = ("lock", "mark awake", "look", "silence", "commit", "silenced")
RING_ON: Script = ("lock", "mark asleep", "ring", "commit", "take fence", "fenced")
AWAKE, ASLEEP, EXPIRED = "awake", "asleep", "expired"
"""What others make of a row of `relay.nodes`. None at all is as good as one that says awake, and so
is one that says so and expires."""
NOT_YET, SILENT, RINGS = -1, 0, 1
SOON_QUIET = PaceLimits(quiet_reads=1)
"""One empty read says as much as eight, to a model without clocks."""


@dataclass(frozen=True)
class Rules:
    """Who takes part, and what is broken on purpose."""

    relays: int = 1
    writers: int = 2
    pace: MakePace = Pace
    limits: PaceLimits = SOON_QUIET
    silence: Script = SILENCE
    ring_on: Script = RING_ON
    looks_before_writing: bool = False
    reads_xmax_for_xmin: bool = False
    forgets_rings_before_waiting: bool = False
    bell_is_a_row: bool = False
    """Then writers at REPEATABLE READ find what it was when they began. A sequence is the same to
    all, so that they need no states of their own."""
    repeatable_read: bool = True
    begins_asleep: bool = False
    may_crash: bool = True
    is_safe: bool = False
    """Sleeping relays read and check the bell now and then."""
    may_pause: bool = False
    """One relay at a time may be paused in its sleep for so long that its row expires."""
    backends_linger: bool = False
    """Postgres may finish, whenever it likes, what a connection that was lost had asked for."""
    is_quiet: bool = False
    """Writers may have said that they do not ring."""


class Mood(NamedTuple):
    """What a `Pace` remembers."""

    state: str = PaceState.ASLEEP.value
    fence: int = 0
    empty_reads: int = 0


class Backend(NamedTuple):
    """A connection's side of Postgres."""

    todo: Script = ()
    xid: int = 0
    mark: int = NOT_YET
    """What its transaction says of the relay: 1 awake, 0 asleep."""
    bell: int = NOT_YET
    """What it says of the bell, where that is a row."""
    all_awake: bool = False
    has_lock: bool = False


class Relay(NamedTuple):
    """One process."""

    backend: Backend = Backend()
    mood: Mood = Mood()
    row: str = AWAKE
    unread: int = 0
    """Transactions committed and not read; at most as many as make it busy."""
    is_rung: bool = False
    fence: int = 0
    lingering: Backend = Backend()
    is_excused: bool = False
    """Its row expired or its old connection lingers, and it has not mended that yet."""

    @property
    def is_up(self) -> bool:
        return bool(self.backend.todo)

    @property
    def sleeps(self) -> bool:
        at_rest = self.backend.todo[:1] == ("wait",) and not self.is_rung
        return at_rest and self.mood.state == PaceState.ASLEEP.value


class Writer(NamedTuple):
    """One transaction after another."""

    xid: int = 0
    found: int = NOT_YET
    """How it found the bell; one ring is enough."""
    snapshot: int = NOT_YET
    """How the bell's row was when it began, at REPEATABLE READ."""


class State(NamedTuple):
    """All there is."""

    is_silent: bool
    completed: int
    """The highest transaction id that is over."""
    relays: tuple[Relay, ...]
    writers: tuple[Writer, ...]

    @property
    def running(self) -> list[int]:
        ids = [writer.xid for writer in self.writers]
        for relay in self.relays:
            ids += (relay.backend.xid, relay.lingering.xid)
        return [xid for xid in ids if xid]

    @property
    def next_xid(self) -> int:
        return max([self.completed, *self.running]) + 1

    @property
    def snapshot(self) -> Snapshot:
        xmax = self.completed + 1
        return Snapshot(xmax, frozenset(xid for xid in self.running if xid < xmax))

    def with_relay(self, number: int, relay: Relay) -> State:
        relays = (*self.relays[:number], relay, *self.relays[number + 1 :])
        return State(self.is_silent, self.completed, relays, self.writers)

    def with_writer(self, number: int, writer: Writer) -> State:
        writers = (*self.writers[:number], writer, *self.writers[number + 1 :])
        return State(self.is_silent, self.completed, self.relays, writers)

    def over(self, xid: int) -> State:
        if xid <= self.completed:
            return self
        return State(self.is_silent, xid, self.relays, self.writers)


def beginning(rules: Rules) -> State:
    """Nobody is connected yet, and whoever was here before left the bell silent."""
    if rules.begins_asleep:
        asleep = Relay(Backend(("wait", "read")), row=ASLEEP)
        return State(False, 0, (asleep,) * rules.relays, (Writer(),) * rules.writers)
    return State(True, 0, (Relay(),) * rules.relays, (Writer(),) * rules.writers)


def renumbered(state: State) -> State:
    """The same with transaction ids from 1 on, in their order."""
    ids = {0, state.completed}
    for relay in state.relays:
        ids |= {relay.backend.xid, relay.lingering.xid, relay.fence, relay.mood.fence}
    for writer in state.writers:
        ids.add(writer.xid)
    if max(ids) == len(ids) - 1:
        return state
    new = {xid: number for number, xid in enumerate(sorted(ids))}
    relays = tuple(_renumber_relay(relay, new) for relay in state.relays)
    writers = tuple(
        writer._replace(xid=new[writer.xid]) if writer.xid else writer for writer in state.writers
    )
    return State(state.is_silent, new[state.completed], relays, writers)


def _renumber_relay(relay: Relay, new: dict[int, int]) -> Relay:
    if relay.backend.xid:
        relay = relay._replace(backend=relay.backend._replace(xid=new[relay.backend.xid]))
    if relay.lingering.xid:
        relay = relay._replace(lingering=relay.lingering._replace(xid=new[relay.lingering.xid]))
    if relay.mood.fence:
        relay = relay._replace(mood=relay.mood._replace(fence=new[relay.mood.fence]))
    return relay._replace(fence=new[relay.fence]) if relay.fence else relay


# What the real Pace says.


def remember(kind: MakePace, limits: PaceLimits, mood: Mood, is_due: bool = False) -> Pace:
    one = kind(lambda: 0.0, limits)
    known = {"state", "_limits", "_monotonic", "_check_at", "_empty_reads", "_fence", "_pause"}
    assert set(vars(one)) == known, "a mood is not all that a Pace remembers"
    one.state, one._fence, one._empty_reads = PaceState(mood.state), mood.fence, mood.empty_reads
    one._check_at = 0.0 if is_due else 1.0
    return one


def _mood(one: Pace) -> Mood:
    """Without what will not be looked at any more, so that states are fewer."""
    fence = one._fence if one.state is PaceState.FENCED else 0
    return Mood(one.state.value, fence, one._empty_reads if one.state is PaceState.AWAKE else 0)


@cache
def after_read(
    kind: MakePace, limits: PaceLimits, mood: Mood, found: int, xmin: int, is_due: bool
) -> tuple[Mood, Step]:
    """Ask `kind`."""
    one = remember(kind, limits, mood, is_due)
    step = one.after_read(found, xmin)
    return _mood(one), step


@cache
def after_fence(kind: MakePace, limits: PaceLimits, mood: Mood, fence: int) -> Mood:
    one = remember(kind, limits, mood)
    one.fenced(fence)
    return _mood(one)


@cache
def after_silence(kind: MakePace, limits: PaceLimits, mood: Mood) -> Mood:
    one = remember(kind, limits, mood)
    one.silenced()
    return _mood(one)
