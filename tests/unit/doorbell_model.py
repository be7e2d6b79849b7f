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

Where rings carry events, a relay that sleeps delivers them when it wakes, without a read. It must
not where something that has to come first was committed and is not read: a change of access that
was committed before the event, whatever its writer had seen when it rang, or what it wrote itself.
A read is two steps, for rings may be heard before its answer is looked at. Only a relay that may go
to sleep before it sends another read keeps what it hears; of what it keeps, only whether it may be
delivered makes a difference.

What no one can tell apart is one step or one state: the lock is taken together with what follows,
`silenced` and `fenced` forget what was before, a pause is a read that comes late, and a ring is
noted only by who waits, for all others read before they do. A wait may end without a ring.
"""

from __future__ import annotations

from collections.abc import Iterator

from realtime.relay.pace import Action, PaceState, Step
from tests.unit.doorbell_state import (
    ACCESS,
    ASLEEP,
    AWAKE,
    EVENTS,
    EXPIRED,
    LEAKS,
    MAX_UNREAD,
    NOT_YET,
    NOTHING,
    OTHERS_RING,
    PLAIN,
    QUIET,
    RINGS,
    SILENT,
    Backend,
    Mood,
    Relay,
    Rules,
    Script,
    State,
    Writer,
    after_carried,
    after_fence,
    after_read,
    after_silence,
    keeps,
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
        Action.FENCE: rules.fence,
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
        kind = rules.kinds[number] if rules.kinds else PLAIN
        if kind == QUIET and rules.quiet_advances_first and writer.kind != kind:
            early = state.with_writer(number, writer._replace(kind=kind))
            yield "will write quietly", early._replace(epoch=state.epoch + 1)
        else:
            wrote = writer._replace(xid=state.next_xid, kind=kind)
            said = ("writes", "writes about access", "writes quietly")[kind]
            yield said, state.with_writer(number, wrote)
    if begins if rules.looks_before_writing else writer.xid:
        looked, epoch = _look_at_bell(rules, state, writer)
        if looked != writer:
            said = "a silent bell" if looked.found == SILENT else "that it has to ring"
            yield f"finds {said}", state._replace(epoch=epoch).with_writer(number, looked)
    if writer.xid:
        ended = state.over(writer.xid).with_writer(number, Writer())
        if rules.rolls_back:
            yield "rolls back", ended
        if writer.found != NOT_YET:
            relays = tuple(
                _hear(rules, relay, writer, other) for other, relay in enumerate(state.relays)
            )
            yield "commits", ended._replace(relays=relays)


def _look_at_bell(rules: Rules, state: State, writer: Writer) -> tuple[Writer, int]:
    """What the writer knows then, and the epoch. It looks again if it writes again."""
    found, epoch = RINGS, state.epoch
    if (
        writer.kind == QUIET
        and writer.found == NOT_YET
        and rules.quiet_advances
        and not rules.quiet_advances_first
    ):
        epoch += 1
    if rules.is_quiet or writer.kind == QUIET:
        found = SILENT
    elif writer.snapshot != NOT_YET:
        found = writer.snapshot
    elif state.is_silent and not (writer.kind == ACCESS and rules.access_rings_in_silence):
        found = SILENT
    if found <= writer.found:
        return writer, state.epoch
    looked = writer._replace(found=found, has_hidden=rules.carries and writer.found == SILENT)
    if rules.carries and writer.kind == PLAIN and found == RINGS:
        saw = tuple(relay.unread > 0 for relay in state.relays)
        looked = looked._replace(epoch=epoch, saw=saw)
    return looked, epoch


def _hear(rules: Rules, relay: Relay, writer: Writer, number: int) -> Relay:
    """What a commit comes to for a relay."""
    rings = writer.found == RINGS
    hears = rings and (relay.backend.todo[:1] == ("wait",) or keeps(rules, relay, number))
    if hears and keeps(rules, relay, number) and writer.epoch and not relay.is_bare:
        if relay.epoch == writer.epoch or not rules.heeds_epoch:
            leaks = relay.is_behind or writer.saw[number] or writer.has_hidden
            return relay._replace(heard=max(relay.heard, LEAKS if leaks else EVENTS), is_rung=True)
        relay = relay._replace(is_stale=True)
    is_quiet = rules.is_quiet or writer.kind == QUIET
    counts = rules.carries and (bool(writer.epoch) or rules.heeds_bare)
    return relay._replace(
        unread=min(relay.unread + 1, MAX_UNREAD),
        is_rung=relay.is_rung or hears,
        is_bare=relay.is_bare or (hears and counts),
        is_behind=relay.is_behind or (rules.carries and writer.kind == ACCESS),
        is_excused=relay.is_excused or is_quiet,
    )


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
            yield _wait(rules, state, number)
        case "forget":
            left = Backend(relay.backend.todo[1:])
            yield "forgets", state.with_relay(number, relay._replace(backend=left))
        case "read" if rules.carries and number < rules.carriers:
            yield _send_read(rules, state, number)
        case "read":
            xmin = state.snapshot.xmax if rules.reads_xmax_for_xmin else state.snapshot.xmin
            sent = relay._replace(unread=0, found=relay.unread, xmin=xmin, is_behind=False)
            yield from _answer(rules, state.with_relay(number, sent), number)
        case "answer":
            yield from _answer(rules, state, number)
        case "check":
            yield from _check(rules, state, number)
        case _:
            for said, now, backend in _statement(rules, state, number, relay.backend):
                done = now.relays[number]._replace(backend=backend)
                yield said, now.with_relay(number, _tell_pace(rules, done))


def _wait(rules: Rules, state: State, number: int) -> tuple[str, State]:
    """Rung, or for too long, or because somebody rang for something else."""
    relay = state.relays[number]
    may_deliver = relay.mood.state == PaceState.ASLEEP.value or not rules.heeds_fence
    woken = relay._replace(backend=Backend(relay.backend.todo[1:]), is_rung=False)
    if relay.heard and may_deliver:
        return _deliver(rules, state, number, woken)
    if relay.heard:
        woken = _let_go(woken)
    why = "because it is rung" if relay.is_rung else "by itself"
    return f"wakes {why}", state.with_relay(number, woken)


def _deliver(rules: Rules, state: State, number: int, woken: Relay) -> tuple[str, State]:
    step = after_carried(rules.pace, rules.limits, woken.mood)
    leaks, woken = woken.heard == LEAKS, woken._replace(heard=NOTHING)
    said = "delivers what it heard"
    if not woken.is_bare and step is not None:
        said += f", will {step.action.value}"
        mood = Mood() if step.action is Action.SILENCE else woken.mood
        woken = woken._replace(backend=Backend(_script(rules, step)), mood=mood)
    state = state.with_relay(number, woken)
    return said, state._replace(has_leaked=state.has_leaked or leaks)


def _let_go(relay: Relay) -> Relay:
    """What was heard and not delivered is left for a read."""
    unread = min(relay.unread + 1, MAX_UNREAD)
    return relay._replace(heard=NOTHING, unread=unread, is_bare=True)


def _send_read(rules: Rules, state: State, number: int) -> tuple[str, State]:
    relay = state.relays[number]
    if relay.heard:
        relay = _let_go(relay)
    sent = relay._replace(
        backend=Backend(("answer",)),
        unread=0,
        found=relay.unread,
        xmin=state.snapshot.xmin,
        is_behind=False,
        is_bare=False,
    )
    state = state.with_relay(number, sent)
    for other, writer in enumerate(state.writers):
        if writer.saw and writer.saw[number]:
            saw = (*writer.saw[:number], False, *writer.saw[number + 1 :])
            state = state.with_writer(other, writer._replace(saw=saw))
    return f"sends a read that finds {relay.unread}", state


def _answer(rules: Rules, state: State, number: int) -> Moves:
    relay = state.relays[number]
    for is_due in (False, True):
        if is_due and not rules.is_safe and relay.mood.state != PaceState.AWAKE.value:
            continue  # it would mend what we look for
        mood, step = after_read(
            rules.pace, rules.limits, relay.mood, relay.found, relay.xmin, is_due, relay.is_stale
        )
        said = f"reads {relay.found}, is {mood.state}, will {step.action.value}"
        if step.action in (Action.SILENCE, Action.RING, Action.FENCE):
            mood = Mood()
        now = relay._replace(backend=Backend(_script(rules, step)), mood=mood, found=0, xmin=0)
        if rules.forgets_bare_late:
            now = now._replace(is_bare=False)
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
        case "advance":
            state = state._replace(epoch=state.epoch + after.all_awake)
        case "read epoch" if backend is relay.backend:
            read = relay._replace(epoch=state.epoch, is_stale=False)
            state = state.with_relay(number, read)
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
    if backend.mark == NOT_YET:  # it said nothing of itself
        row, excused = relay.row, relay.is_excused
    if backend.bell != NOT_YET:
        state = state._replace(is_silent=backend.bell == SILENT)
    now = relay._replace(row=row, is_excused=excused)
    return state.over(backend.xid).with_relay(number, now)


# What befalls relays.


def mishaps(rules: Rules, state: State, number: int) -> Moves:
    """Lost connections (or crashes), rows that expire, and beats that renew them."""
    relay = state.relays[number]
    if relay.is_up and rules.may_crash:
        kept = _let_go(relay) if relay.heard else relay
        down = kept._replace(
            backend=Backend(), mood=Mood(), is_rung=False, fence=0, epoch=0, is_bare=False
        )._replace(is_stale=False, unread=max(kept.unread, kept.found), found=0, xmin=0)
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


def others(rules: Rules, state: State, number: int) -> Moves:
    """What a process does that counts this one as dead, in the place of a lost backend."""
    relay = state.relays[number]
    if relay.lingering.todo:
        if rules.others_die:
            yield "sees it die", state.with_relay(number, relay._replace(lingering=Backend()))
        return
    said, script = ("ring", OTHERS_RING) if state.is_silent else ("silence", rules.others)
    begun = relay._replace(lingering=Backend(script), is_excused=True)
    yield f"is counted as dead by one that will {said}", state.with_relay(number, begun)


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
        for said, after in others(rules, state, number) if rules.others else ():
            yield f"relay {number} {said}", after
