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
# With these, rings may carry events. Where none does, nobody looks at the epoch.
SILENCE_AND_SAY: Script = ("lock", "mark awake", "look", "advance", *SILENCE[3:])
RING_ON_AND_CARRY: Script = (*RING_ON[:3], "read epoch", *RING_ON[3:])
FENCE: Script = ("lock", "ring", "read epoch", "commit", "take fence", "fenced")
PLAIN, ACCESS, QUIET = 0, 1, 2
"""What a transaction writes: an event, a change of access, or an event with `relay.quiet`."""
OTHERS: Script = ("lock", "suppose", "advance", "silence", "commit")
OTHERS_RING: Script = ("lock", "ring", "commit")
NO_RELAYS, NO_WRITERS = -1, -2
"""An epoch of a writer that no relay has, and the other way round."""
NOTHING, EVENTS, LEAKS = 0, 1, 2
"""What a relay has heard and may deliver ahead of a read; `LEAKS`: it must not."""
AWAKE, ASLEEP, EXPIRED = "awake", "asleep", "expired"
"""What others make of a row of `relay.nodes`. None at all is as good as one that says awake, and so
is one that says so and expires."""
NOT_YET, SILENT, RINGS = -1, 0, 1
NEVER_BUSY = PaceLimits(quiet_reads=1, busy_transactions=9)
MAX_UNREAD = 2
"""More are as many."""
SOON_QUIET = PaceLimits(quiet_reads=1, busy_transactions=2)
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
    carries: bool = False
    """Rings carry their event."""
    kinds: tuple[int, ...] = ()
    """What each writer writes; nothing said: all write events."""
    carriers: int = 9
    """So many relays, the first ones, deliver what they hear."""
    rolls_back: bool = True
    others: Script = ()
    """How another process silences the bell, that counts this one as dead. It also switches it on.
    It takes the place of a backend that goes on."""
    others_die: bool = False
    fence: Script = FENCE
    access_rings_in_silence: bool = True
    quiet_advances: bool = True
    quiet_advances_first: bool = False
    heeds_epoch: bool = True
    heeds_bare: bool = True
    heeds_fence: bool = True
    forgets_bare_late: bool = False
    """When the answer comes, and not when the read is sent."""


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
    epoch: int = 0
    """As it was before the fence; 0: it has not been read on this connection."""
    heard: int = NOTHING
    is_bare: bool = False
    """Since the last read was sent, something was heard that is left to the next one."""
    is_stale: bool = False
    """A ring had another epoch."""
    is_behind: bool = False
    """A change of access was committed and not read."""
    found: int = 0
    xmin: int = 0
    """What a read found that was sent, and not yet answered."""

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
    kind: int = PLAIN
    epoch: int = 0
    """What its ring carries; 0: no ring carries anything."""
    has_hidden: bool = False
    """It wrote something that did not ring."""
    saw: tuple[bool, ...] = ()
    """What it has seen committed, when it rang, some relays have not read."""


class State(NamedTuple):
    """All there is."""

    is_silent: bool
    completed: int
    """The highest transaction id that is over."""
    relays: tuple[Relay, ...]
    writers: tuple[Writer, ...]
    epoch: int = 1
    has_leaked: bool = False
    """An event was delivered before something that it must come after."""

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
        return self._replace(relays=relays)

    def with_writer(self, number: int, writer: Writer) -> State:
        writers = (*self.writers[:number], writer, *self.writers[number + 1 :])
        return self._replace(writers=writers)

    def over(self, xid: int) -> State:
        if xid <= self.completed:
            return self
        return self._replace(completed=xid)


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
        ids |= {relay.backend.xid, relay.lingering.xid, relay.fence, relay.mood.fence, relay.xmin}
    for writer in state.writers:
        ids.add(writer.xid)
    if max(ids) == len(ids) - 1:
        return state
    new = {xid: number for number, xid in enumerate(sorted(ids))}
    relays = tuple(_renumber_relay(relay, new) for relay in state.relays)
    writers = tuple(
        writer._replace(xid=new[writer.xid]) if writer.xid else writer for writer in state.writers
    )
    return state._replace(completed=new[state.completed], relays=relays, writers=writers)


def _with_small_epochs(state: State) -> State:
    """In their order; one that only one side has is as good as any other such."""
    relays, writers = state.relays, state.writers
    common = {relay.epoch for relay in relays} & {writer.epoch for writer in writers}
    common -= {state.epoch, 0, NO_RELAYS, NO_WRITERS}
    new = {epoch: number for number, epoch in enumerate((*sorted(common), state.epoch), 1)}
    new[0] = 0
    return state._replace(
        epoch=new[state.epoch],
        relays=tuple(one._replace(epoch=new.get(one.epoch, NO_WRITERS)) for one in relays),
        writers=tuple(one._replace(epoch=new.get(one.epoch, NO_RELAYS)) for one in writers),
    )


def without_what_is_over(rules: Rules, state: State) -> State:
    """Forget what nobody will look at before it is forgotten anyway, so that states are few."""
    if not rules.carries:
        return state
    keep = tuple(keeps(rules, relay, number) for number, relay in enumerate(state.relays))
    relays = []
    for relay, is_kept in zip(state.relays, keep, strict=True):
        if not is_kept:
            relay = relay._replace(is_bare=False, is_behind=False)
        if not relay.backend.todo or "read epoch" in relay.backend.todo:
            relay = relay._replace(epoch=0, is_stale=False)
        relays.append(relay)
    writers = [
        one._replace(saw=tuple(saw and is_kept for saw, is_kept in zip(one.saw, keep, strict=True)))
        if one.saw
        else one
        for one in state.writers
    ]
    return _with_small_epochs(state._replace(relays=tuple(relays), writers=tuple(writers)))


def keeps(rules: Rules, relay: Relay, number: int) -> bool:
    """Whether it may deliver what it hears now: it does not send a read before it may sleep."""
    if number >= rules.carriers:
        return False
    match relay.backend.todo[:1]:
        case ("wait",):
            return relay.mood.state == PaceState.ASLEEP.value or not rules.heeds_fence
        case ("answer",):
            return relay.mood.state != PaceState.AWAKE.value
    return False


def _renumber_relay(relay: Relay, new: dict[int, int]) -> Relay:
    if relay.backend.xid:
        relay = relay._replace(backend=relay.backend._replace(xid=new[relay.backend.xid]))
    if relay.lingering.xid:
        relay = relay._replace(lingering=relay.lingering._replace(xid=new[relay.lingering.xid]))
    if relay.mood.fence:
        relay = relay._replace(mood=relay.mood._replace(fence=new[relay.mood.fence]))
    if relay.xmin:
        relay = relay._replace(xmin=new[relay.xmin])
    return relay._replace(fence=new[relay.fence]) if relay.fence else relay


# What the real Pace says.


def remember(kind: MakePace, limits: PaceLimits, mood: Mood, is_due: bool = False) -> Pace:
    one = kind(lambda: 0.0, limits)
    known = {"state", "_limits", "_monotonic", "_check_at", "_empty_reads", "_fence", "_pause"}
    known |= {"_rate", "_calm", "_fence_at", "_confirm_at", "_unconfirmed", "_read_at"}
    assert set(vars(one)) == known, "a mood is not all that a Pace remembers"
    one.state, one._fence, one._empty_reads = PaceState(mood.state), mood.fence, mood.empty_reads
    one._check_at = 0.0 if is_due else 3.0
    return one


def _mood(one: Pace) -> Mood:
    """Without what will not be looked at any more, so that states are fewer."""
    fence = one._fence if one.state is PaceState.FENCED else 0
    return Mood(one.state.value, fence, one._empty_reads if one.state is PaceState.AWAKE else 0)


@cache
def after_read(
    kind: MakePace,
    limits: PaceLimits,
    mood: Mood,
    found: int,
    xmin: int,
    is_due: bool,
    is_stale: bool = False,
) -> tuple[Mood, Step]:
    """Ask `kind`."""
    one = remember(kind, limits, mood, is_due)
    step = one.after_read(found, xmin, is_stale)
    return _mood(one), step


@cache
def after_carried(kind: MakePace, limits: PaceLimits, mood: Mood) -> Step | None:
    """Ask `kind`, after one event was delivered ahead of a read."""
    return remember(kind, limits, mood).after_carried(1)


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
