"""Everything at once: writers, a relay that lags, sockets that come and go, held to the rules.

Writers commit transactions in any order, with events, grants, revokes and rechecks. A real `Reader`
reads them with any delay, in pages, through broken reads; a real `RecheckBatcher` asks and answers
with any delay; sockets subscribe, ask, go live, stop reading, leave and come back with cursors
whenever they like, also during the pauses of a fan-out. `Watched` holds each message that a socket
is sent against what was committed when (hub_model), and `HubMachine` says what may happen.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from realtime.relay import closing
from realtime.relay.cursor import Cursor
from realtime.relay.events import Event
from realtime.relay.large_read import LargeLimits
from realtime.relay.owed import Owed
from realtime.relay.position import Position
from realtime.relay.protocol import stamp
from realtime.relay.recheck import RecheckBatcher
from realtime.relay.resume import (
    GapReason,
    ResumeRequest,
    Unrecoverable,
    read_cursor,
)
from realtime.relay.subscriber import State
from realtime.relay.turns import PORTION_SECONDS
from tests.unit.hub_model import ModelLog, SlowAccess, Watched, WatchedHub
from tests.unit.relay_fakes import (
    ADA,
    BOT,
    GRACE,
    NOWHERE,
    OTHER_BOT,
    SIGNER,
    frame,
    make_relay,
    missed_events,
    raise_it,
)

USERS = st.sampled_from([ADA, GRACE])
TOPICS = st.sampled_from([BOT, BOT, OTHER_BOT])
DEEDS = st.tuples(
    st.sampled_from(
        ["say"] * 6 + ["grant"] * 2 + ["recheck", "recheck all", "remap", "revoke", "drop"]
    ),
    USERS,
    TOPICS,
)
SMALL = st.integers(0, 7)


class HubMachine(RuleBasedStateMachine):
    """What may happen, in any order."""

    @initialize(
        page_rows=st.integers(1, 4),
        live_bytes=st.sampled_from([10**6, 10**6, 0]),
        large=st.builds(LargeLimits, st.integers(0, 2), st.integers(1, 2), st.integers(1, 2)),
    )
    def begin(self, page_rows: int, live_bytes: int, large: LargeLimits) -> None:
        self.now = 0.0
        self.loop = asyncio.new_event_loop()
        self.log = ModelLog()
        self.log.page_rows = page_rows
        self.log.meanwhile = lambda: self.interlude()
        self.sockets: list[Watched] = []
        self.opened = 0
        self.left: list[tuple[Watched, str]] = []
        """Sockets that left, and the newest cursor that they had."""
        self.interlude: Callable[[], object] = lambda: None
        self.access = SlowAccess(self.log)
        rechecks = RecheckBatcher(self.access, raise_it)
        self.hub = WatchedHub(
            self.access,
            position=NOWHERE,
            frame=frame,
            pause=self.pause,
            ask_again=rechecks.ask,
            monotonic=lambda: self.now,
            fan_out_slice=1,
            access_change_slice=1,
            live_bytes=live_bytes,
        )
        self.relay = make_relay(self.hub, self.log.place(), large=large)
        self.asking = self.loop.create_task(rechecks.run(self.hub, lambda: None))
        for user, knows in ((ADA, True), (ADA, False), (GRACE, True)):
            self.join(user, BOT, knows)
        # One read ends their `since`, the next delivery puts them into the list of direct sends.
        for _ in range(2):
            self.transaction([("say", ADA, BOT)])
            self.catch_up()

    # Writers.

    @rule(deeds=st.lists(DEEDS, min_size=1, max_size=4))
    def transaction(self, deeds: list[tuple[str, str, str]]) -> None:
        self.write(deeds)
        self.log.commit(max(self.log.running))

    @rule(deeds=st.lists(DEEDS, min_size=1, max_size=3))
    def write(self, deeds: list[tuple[str, str, str]]) -> None:
        xid = self.log.begin()
        for deed in deeds:
            self.log.do(xid, *deed)

    @precondition(lambda self: self.log.running)
    @rule(choice=SMALL, is_committed=st.sampled_from([True, True, False]))
    def end(self, choice: int, is_committed: bool) -> None:
        if self.log.running:
            xid = sorted(self.log.running)[choice % len(self.log.running)]
            (self.log.commit if is_committed else self.log.abort)(xid)

    # Sockets.

    @rule(user=USERS, topic=TOPICS, hold=st.sampled_from([10**6, 60]), knows=st.booleans())
    def subscribe(self, user: str, topic: str, hold: int, knows: bool) -> None:
        self.opened += 1
        self.sockets.append(Watched(self.log, self.opened, user, topic, hold, knows))
        self.hub.subscribe(self.sockets[-1].subscriber)

    @rule(user=USERS, topic=TOPICS, knows=st.booleans())
    def join(self, user: str, topic: str, knows: bool) -> None:
        if not self.log.access[user, topic]:
            self.transaction([("grant", user, topic)])
        self.subscribe(user, topic, 10**6, knows)
        self.ask(-1)
        self.admit(-1)

    @precondition(lambda self: self.left)
    @rule(choice=SMALL)
    def come_back(self, choice: int) -> None:
        if self.left:
            before, cursor = self.left.pop(choice % len(self.left))
            self.subscribe(before.user, before.topic, 10**6, True)
            self.sockets[-1].before = before
            self.sockets[-1].owed_from = read_cursor(cursor, before.topic, SIGNER)

    @precondition(lambda self: self._unasked())
    @rule(choice=SMALL)
    def ask(self, choice: int) -> None:
        waiting = self._unasked()
        if waiting:
            one = waiting[choice % len(waiting)]
            one.answer = (self.log.access[one.user, one.topic], self.log.place())
            one.asked_at = self.log.now

    def _unasked(self) -> list[Watched]:
        return [one for one in self.sockets if one.answer is None]

    def _unadmitted(self) -> list[Watched]:
        return [one for one in self.sockets if one.answer and not one.is_in]

    @precondition(lambda self: self._unadmitted())
    @rule(choice=SMALL)
    def admit(self, choice: int) -> None:
        """The answer arrives, and the socket does as `web.joining` does."""
        waiting = self._unadmitted()
        if not waiting:
            return
        one = waiting[choice % len(waiting)]
        assert one.answer is not None
        is_allowed, place = one.answer
        if not is_allowed or not self._replay(one, place):
            self.hub.dismiss(one.subscriber, *closing.ACCESS_ENDED)
            self.leave(self.sockets.index(one))
        elif one.subscriber.has_overflowed:
            one.subscriber.hold_anew()
            one.answer, one.owed_from = None, place
        else:
            one.is_in = True
            self.hub.go_live(one.subscriber, place)

    def _replay(self, one: Watched, place: Cursor) -> bool:
        """Send what is owed, if that can be said; it must be possible for one that was welcome."""
        events: Sequence[Event] = []
        try:
            if one.owed_from is not None:
                request = ResumeRequest(one.topic, one.user, one.owed_from, place)
                events = missed_events(request, self.log.past(one.topic), 10**6)
        except Unrecoverable:
            if one.is_welcome:
                return False
            one.before = None
        if not one.is_welcome:
            self.hub.identify(one.subscriber, one.user, one.user)
            one.is_welcome = True
            one.base = one.before.base if one.before is not None else one.asked_at
        one.send(one.frame(stamp(event.payload, event.wire_id, None) for event in events))
        one.subscriber.cursor = Position(place, SIGNER)
        return True

    @precondition(lambda self: self.sockets)
    @rule(choice=SMALL)
    def leave(self, choice: int) -> None:
        if self.sockets:
            one = self.sockets.pop(choice % len(self.sockets))
            if one.is_in and one.subscriber.knows_cursors:
                self.left.append((one, self.hub.cursor_of(one.subscriber) or ""))
            self.hub.unsubscribe(one.subscriber)

    @precondition(lambda self: self.sockets)
    @rule(choice=SMALL, room=st.sampled_from([0, 1, 50]))
    def stall(self, choice: int, room: int) -> None:
        """A client does not read; the kernel takes only so much more."""
        if self.sockets:
            self.sockets[choice % len(self.sockets)].room = room

    @precondition(lambda self: self.sockets)
    @rule(choice=SMALL)
    def client_reads(self, choice: int) -> None:
        if self.sockets:
            self.sockets[choice % len(self.sockets)].drain()

    def _behind(self) -> list[Watched]:
        return [one for one in self.sockets if one.behind is not None]

    @precondition(lambda self: self._behind())
    @rule(choice=SMALL, number=st.integers(1, 3))
    def catch_up_alone(self, choice: int, number: int) -> None:
        """One that was too slow takes some of what it is owed, and goes on as `web` does."""
        behind = self._behind()
        if not behind:
            return
        one = behind[choice % len(behind)]
        assert one.behind is not None
        owed, since = one.behind
        if one.subscriber.state is State.STOPPED:
            one.behind = None
        elif keys := owed.first(10**6, number):
            self._send_rows(one, [key.id for key in keys])
            owed.drop(keys[-1])
        elif not one.subscriber.has_overflowed:
            one.behind = None
            self.hub.go_live(one.subscriber, since)
        else:
            self._ask_alone(one, since)

    def _ask_alone(self, one: Watched, since: Cursor) -> None:
        one.subscriber.hold_anew()
        place = self.log.place()
        request = ResumeRequest(one.topic, one.user, since, place)
        try:
            if not self.log.access[one.user, one.topic]:
                raise Unrecoverable(GapReason.ACCESS_CHANGED)
            missed = missed_events(request, self.log.past(one.topic), 10**6)
        except Unrecoverable:
            one.behind = None
            self.hub.dismiss(one.subscriber, *closing.EVENTS_MISSED)
        else:
            self._send_rows(one, [event.id for event in missed])
            one.subscriber.cursor = Position(place, SIGNER)
            one.behind = Owed(), place

    def _send_rows(self, one: Watched, ids: list[int]) -> None:
        rows = {row.id: row for row in self.log.committed if isinstance(row, Event)}
        events = [rows[number] for number in ids]
        one.send(one.frame(stamp(event.payload or "", event.wire_id, None) for event in events))

    # The relay, and the database's answers about those who were cut off.

    @rule(data=st.data(), breaks_after=st.sampled_from([None, None, None, 0, 1, 2, 3]))
    def read(self, data: st.DataObject, breaks_after: int | None) -> None:
        self.interlude = lambda: self._something(data)
        self.log.breaks_after = breaks_after
        self.catch_up()

    @precondition(lambda self: self.relay.is_listing)
    @rule(data=st.data(), breaks_after=st.sampled_from([None, None, None, 0]))
    def list_some(self, data: st.DataObject, breaks_after: int | None) -> None:
        self.interlude = lambda: self._something(data)
        self.log.breaks_after = breaks_after
        self._ask_log(self.relay.list_some)

    def catch_up(self) -> None:
        self._ask_log(self.relay.catch_up)

    def _ask_log(self, ask: Callable[[ModelLog], Coroutine[Any, Any, object]]) -> None:
        try:
            self.loop.run_until_complete(ask(self.log))
        except ConnectionError:
            pass  # to be tried again, by a later read
        finally:
            self.interlude = lambda: None
            self.log.breaks_after = None
            self.spin()

    @precondition(lambda self: self.hub.backlog)
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.0, PORTION_SECONDS]))
    def send_portion(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        self.interlude = lambda: self._something(data)
        self.drain(1)

    def drain(self, portions: int | None = None) -> None:
        """Send portions of what was too much for one answer: so many, or all."""
        while self.hub.backlog and portions != 0:
            if portions is None:
                self.loop.run_until_complete(self.relay.list_some(self.log))
            self.loop.run_until_complete(self.relay.send_portion(self.log))
            portions = None if portions is None else portions - 1
            self.now += PORTION_SECONDS if portions is None else 0.0
        self.interlude = lambda: None
        self.spin()

    async def pause(self) -> None:
        self.interlude()
        self.check_places()
        await asyncio.sleep(0)

    def _something(self, data: st.DataObject) -> None:
        """What happens while a fan-out gives way."""
        choice = data.draw(SMALL)
        acts: list[Callable[[], object]] = [
            lambda: None,
            lambda: self.subscribe(ADA, BOT, 10**6, True),
            lambda: self.ask(choice),
            lambda: self.admit(choice),
            lambda: self.leave(choice),
            lambda: self.come_back(choice),
            lambda: self.stall(choice, 0),
            lambda: self.client_reads(choice),
            lambda: self.catch_up_alone(choice, 1),
            self.access.open_gate,
            lambda: self.transaction([data.draw(DEEDS)]),
            lambda: self.end(choice, True),
        ]
        for act in data.draw(st.lists(st.sampled_from(acts), max_size=3)):
            act()

    @precondition(lambda self: self.access.gates)
    @rule()
    def answer(self) -> None:
        self.spin()
        self.access.open_gate()
        self.spin()

    def spin(self) -> None:
        """Let the tasks go as far as they can."""
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))
        assert not self.asking.done(), self.asking

    # The rules.

    @invariant()
    def check_places(self) -> None:
        for one in self.sockets:
            one.check_direct()
            if one.is_in:
                one.check_place(self.hub.cursor_of(one.subscriber) or "")

    def teardown(self) -> None:
        """Let everything come to an end, and look at what was sent in all."""
        if not hasattr(self, "loop"):
            return
        try:
            self._settle()
            for one in self.sockets:
                if one.closed is None:
                    one.check_complete()
                    place = self.hub.position.text(one.topic)
                    assert self.hub.cursor_of(one.subscriber) == place
                else:
                    assert one.subscriber.state is State.STOPPED
            assert not self.hub._recent & {one.subscriber for one in self.sockets if not one.closed}
            assert not self.hub._returning
        finally:
            self.asking.cancel()
            self.loop.run_until_complete(asyncio.wait([self.asking]))
            self.loop.close()

    def _settle(self) -> None:
        for xid in tuple(self.log.running):
            self.log.abort(xid)
        while waiting := [one for one in self.sockets if not one.is_in]:
            for _ in waiting:
                self.ask(0)
                self.admit(0)
        self.catch_up()
        self.spin()
        while self.access.gates or self.hub._returning or self.hub.backlog or self._behind():
            self.answer()
            self.drain()
            self.catch_up_alone(0, 3)
            self.catch_up()
            self.spin()
        self.catch_up()


HubMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

TestHub: Any = HubMachine.TestCase
