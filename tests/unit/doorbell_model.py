"""A model of the doorbell in steps as small as matter, explored to its last state.

Anybody may stop between any two steps for as long as it likes.

- A writer gets its transaction id with its first write, which is into the log, looks at the bell
  (again, if it writes again), and commits or not. What it wrote shows at its commit; a ring is
  heard then, by who listens. Then it begins anew.
- A relay does what the real `Pace` says, statement by statement. The bell is set at once and for
  all, whatever becomes of the transaction; a row of `relay.nodes` shows at commit.
- A snapshot's xmax is one past the highest *completed* transaction; who runs above is not in it.
- A read finds all that was committed and not read: that cursors achieve this is shown elsewhere.
- A relay may lose its connection at any step, by a crash or otherwise, and listens anew.

What no one can tell apart is one step or one state: the lock is taken together with what follows,
`silenced` and `fenced` forget what was before, a pause is a read that comes late, and a ring is
noted only by who waits, for all others read before they do. A wait may end without a ring.
"""

from __future__ import annotations

from collections.abc import Iterator

from realtime.relay.pace import Action, PaceState, Step
from tests.unit.doorbell_state import (
    ASLEEP,
    AWAKE,
    EXPIRED,
    NOT_YET,
    RINGS,
    SILENT,
    Backend,
    Mood,
    Relay,
    Rules,
    Script,
    State,
    Writer,
    after_fence,
    after_read,
    after_silence,
    remember,
)

Moves = Iterator[tuple[str, State]]
_LOCAL = ("silenced", "fenced")
"""Nobody else notices these, so they are part of the step before."""


def _script(rules: Rules, step: Step) -> Script:
    """As `Relay.run` does what it is told."""
    scripts = {
        Action.WAIT: ("forget", "wait") if rules.forgets_rings_before_waiting else ("wait",),
        Action.PAUSE: (),
        Action.SILENCE: rules.silence,
        Action.RING: rules.ring_on,
        Action.CHECK: ("check",),
    }
    return (*scripts[step.action], "read")


# Writers.


def writer_moves(rules: Rules, state: State, number: int) -> Moves:
    """What a writer may do next."""
    writer = state.writers[number]
    begins = not writer.xid and writer.found == NOT_YET
    if begins and rules.bell_is_a_row and rules.repeatable_read and writer.snapshot == NOT_YET:
        taken = writer._replace(snapshot=SILENT if state.is_silent else RINGS)
        yield "begins at repeatable read", state.with_writer(number, taken)
    if not writer.xid and (writer.found != NOT_YET or not rules.looks_before_writing):
        yield "writes", state.with_writer(number, writer._replace(xid=state.next_xid))
    if begins if rules.looks_before_writing else writer.xid:
        found = max(writer.found, _look_at_bell(rules, state, writer))
        if found != writer.found:
            said = "a silent bell" if found == SILENT else "that it has to ring"
            yield f"finds {said}", state.with_writer(number, writer._replace(found=found))
    if writer.xid:
        ended = state.over(writer.xid).with_writer(number, Writer())
        yield "rolls back", ended
        if writer.found != NOT_YET:
            told = tuple(_hear(rules, relay, writer.found == RINGS) for relay in state.relays)
            yield "commits", ended._replace(relays=told)


def _look_at_bell(rules: Rules, state: State, writer: Writer) -> int:
    if rules.is_quiet:
        return SILENT
    if writer.snapshot != NOT_YET:
        return writer.snapshot
    return SILENT if state.is_silent else RINGS


def _hear(rules: Rules, relay: Relay, rings: bool) -> Relay:
    unread = min(relay.unread + 1, rules.limits.busy_transactions)
    hears = rings and relay.backend.todo[:1] == ("wait",)
    excused = relay.is_excused or rules.is_quiet
    return relay._replace(unread=unread, is_rung=relay.is_rung or hears, is_excused=excused)


# Relays.


def relay_moves(rules: Rules, state: State, number: int) -> Moves:
    """What a relay, or a backend that works for it, does next by itself."""
    relay = state.relays[number]
    if relay.lingering.todo:
        for said, now, backend in _statement(rules, state, number, relay.lingering):
            done = now.relays[number]
            kept = backend if backend.todo else Backend()
            yield f"lost backend: {said}", now.with_relay(number, done._replace(lingering=kept))
    if not relay.is_up:
        begun = _script(rules, remember(rules.pace, rules.limits, Mood()).begin())
        yield "listens", state.with_relay(number, relay._replace(backend=Backend(begun)))
        return
    match relay.backend.todo[0]:
        case "wait":
            yield _wait(state, number)
        case "forget":
            left = Backend(relay.backend.todo[1:])
            yield "forgets", state.with_relay(number, relay._replace(backend=left))
        case "read":
            yield from _read(rules, state, number)
        case "check":
            yield from _check(rules, state, number)
        case _:
            for said, now, backend in _statement(rules, state, number, relay.backend):
                done = now.relays[number]._replace(backend=backend)
                yield said, now.with_relay(number, _tell_pace(rules, done))


def _wait(state: State, number: int) -> tuple[str, State]:
    """Rung, or for too long, or because somebody rang for something else."""
    relay = state.relays[number]
    woken = relay._replace(backend=Backend(relay.backend.todo[1:]), is_rung=False)
    why = "because it is rung" if relay.is_rung else "by itself"
    return f"wakes {why}", state.with_relay(number, woken)


def _read(rules: Rules, state: State, number: int) -> Moves:
    relay, snapshot = state.relays[number], state.snapshot
    xmin = snapshot.xmax if rules.reads_xmax_for_xmin else snapshot.xmin
    for is_due in (False, True):
        if is_due and not rules.is_safe and relay.mood.state != PaceState.AWAKE.value:
            continue  # it would mend what we look for
        mood, step = after_read(rules.pace, rules.limits, relay.mood, relay.unread, xmin, is_due)
        said = f"reads {relay.unread}, is {mood.state}, will {step.action.value}"
        if step.action in (Action.SILENCE, Action.RING):
            mood = Mood()
        now = relay._replace(backend=Backend(_script(rules, step)), mood=mood, unread=0)
        yield said, state.with_relay(number, now)


def _check(rules: Rules, state: State, number: int) -> Moves:
    relay = state.relays[number]
    if state.is_silent or relay.row == AWAKE:
        todo = (*rules.ring_on, "read")
        now = relay._replace(backend=Backend(todo), mood=Mood())
        yield "finds itself unheard", state.with_relay(number, now)
        return
    now = relay._replace(backend=Backend(relay.backend.todo[1:]))
    yield "finds all in order", state.with_relay(number, now)


def _tell_pace(rules: Rules, relay: Relay) -> Relay:
    """Go through what only the relay itself notices."""
    while (todo := relay.backend.todo)[0] in _LOCAL:
        if todo[0] == "fenced":
            mood = after_fence(rules.pace, rules.limits, relay.mood, relay.fence)
        else:
            mood = after_silence(rules.pace, rules.limits, relay.mood)
        relay = relay._replace(mood=mood, fence=0, backend=relay.backend._replace(todo=todo[1:]))
    return relay


def _statement(
    rules: Rules, state: State, number: int, backend: Backend
) -> Iterator[tuple[str, State, Backend]]:
    """One statement of `SILENCE` or `RING_ON`."""
    relay = state.relays[number]
    said, after = backend.todo[0], backend._replace(todo=backend.todo[1:])
    match said:
        case "lock":
            held = (one.backend.has_lock or one.lingering.has_lock for one in state.relays)
            if any(held):
                return
            # At once with the next, for nobody can tell.
            locked = after._replace(has_lock=True)
            for next_one, now, then in _statement(rules, state, number, locked):
                yield f"lock, {next_one}", now, then
            return
        case "mark awake" | "mark asleep":
            after = after._replace(xid=state.next_xid, mark=int(said == "mark awake"))
        case "look":
            others = (*state.relays[:number], *state.relays[number + 1 :])
            all_awake = all(one.row != ASLEEP for one in others)
            after = after._replace(all_awake=all_awake)
        case "suppose":
            after = after._replace(all_awake=True)
        case "ring" | "silence" if rules.bell_is_a_row:
            if said == "ring" or after.all_awake:
                after = after._replace(bell=RINGS if said == "ring" else SILENT)
        case "ring":
            state = state._replace(is_silent=False)
        case "silence":
            state = state._replace(is_silent=state.is_silent or after.all_awake)
            after = after._replace(all_awake=False)
        case "commit":
            state = _commit(state, number, backend)
            after = Backend(after.todo)
        case "take fence":
            fence = state.next_xid
            state = state.over(fence).with_relay(number, relay._replace(fence=fence))
        case "take xmax for a fence":
            state = state.with_relay(number, relay._replace(fence=state.snapshot.xmax))
    yield said, state, after


def _commit(state: State, number: int, backend: Backend) -> State:
    relay = state.relays[number]
    mends = backend.mark == 0 and not relay.lingering.todo
    row, excused = AWAKE if backend.mark else ASLEEP, relay.is_excused and not mends
    if backend.bell != NOT_YET:
        state = state._replace(is_silent=backend.bell == SILENT)
    now = relay._replace(row=row, is_excused=excused)
    return state.over(backend.xid).with_relay(number, now)


# What befalls relays.


def mishaps(rules: Rules, state: State, number: int) -> Moves:
    """Lost connections (or crashes), rows that expire, and beats that renew them."""
    relay = state.relays[number]
    if relay.is_up and rules.may_crash:
        down = relay._replace(backend=Backend(), mood=Mood(), is_rung=False, fence=0)
        yield "loses its connection", state.over(relay.backend.xid).with_relay(number, down)
        if rules.backends_linger and "commit" in relay.backend.todo and not relay.lingering.todo:
            end = relay.backend.todo.index("commit") + 1
            lingering = relay.backend._replace(todo=relay.backend.todo[:end])
            left = down._replace(lingering=lingering, is_excused=True)
            yield "leaves a backend behind", state.with_relay(number, left)
    may_pause = rules.may_pause and not any(one.is_excused for one in state.relays)
    if relay.row == ASLEEP and (not relay.is_up or (may_pause and relay.sleeps)):
        expired = relay._replace(row=EXPIRED, is_excused=relay.is_excused or relay.is_up)
        yield "has its row expire", state.with_relay(number, expired)
    if relay.row == EXPIRED:
        yield "beats", state.with_relay(number, relay._replace(row=ASLEEP))
        yield "has its row removed", state.with_relay(number, relay._replace(row=AWAKE))


def moves(rules: Rules, state: State) -> Moves:
    """All that may happen next, and what is said of it."""
    for number in range(len(state.writers)):
        for said, after in writer_moves(rules, state, number):
            yield f"writer {number} {said}", after
    for number in range(len(state.relays)):
        for said, after in relay_moves(rules, state, number):
            yield f"relay {number}: {said}", after
        for said, after in mishaps(rules, state, number):
            yield f"relay {number} {said}", after
