"""Clients of every kind that are cut off at any moment and return with any cursor they ever had.

`multiplex_model` is the world. Each seed is a scenario: random acts of writers, readers, the
database and the clients, in an order that no test would think of. Then everything comes to an end,
and every client must have what it is owed. Then all are cut off, return with what they knew at some
moment, and must have it again. The rules are those of docs/guarantees.md.

A failure names its seed and the steps before it. Only the order of two topics that one read found
is not the seed's: it follows PYTHONHASHSEED. To run one seed, or many:

    python -m tests.unit.test_multiplex_model 17
    python -m tests.unit.test_multiplex_model 0 5000
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest import mock

import pytest

from realtime.relay.cursor import Cursor
from realtime.relay.events import Event
from realtime.relay.resume import GapReason
from realtime.web import conversation, multiplex, replay
from tests.unit.hub_model import Numbered
from tests.unit.multiplex_model import (
    PAGE_BYTES,
    SEND_BUFFER_BYTES,
    TOPICS,
    USERS,
    Client,
    Memory,
    Stay,
    World,
)

SEEDS, AT_ONCE = 200, 50
STEPS_SHOWN = 60
SECONDS = 60.0
"""How long a scenario may take on a busy machine; it takes hundredths of a second."""
SLOTS = (("multi", USERS[0]), ("multi", USERS[1]), ("chat", USERS[0]), ("events", USERS[1]))
"""Of each there is one client at a time."""


class Invariants:
    """What holds whenever a client reads something."""

    def on_welcome(self, stay: Stay, told: Mapping[str, Any]) -> None:
        self.no_gap_is_silent_or_without_a_cause(stay, told)

    def on_event(self, stay: Stay, event: Event) -> None:
        self.after_the_welcome_and_before_the_end(stay)
        self.once_on_one_connection(stay, event)
        self.nothing_from_before(stay, event)
        self.not_ones_own(stay, event)
        self.only_with_access(stay, event)

    def on_cursor(self, stay: Stay, cursor: Cursor, *, is_between: bool) -> None:
        if not is_between and not stay.is_over:
            self.no_cursor_goes_back(stay, cursor)
        self.no_cursor_claims_what_was_not_sent(stay, cursor)

    def on_end(self, stay: Stay) -> None:
        self.after_the_welcome_and_before_the_end(stay)

    def no_gap_is_silent_or_without_a_cause(self, stay: Stay, told: Mapping[str, Any]) -> None:
        """Who comes with a cursor is told whether all that was missed follows. It does, unless
        something has happened to their access since: the log forgets nothing here."""
        before = stay.came_with
        if before is None:
            assert "recovered" not in told, "told of a gap without a cursor"
        elif not told["recovered"]:
            changes = stay.world.database.changes_of(stay.user, stay.topic)
            has_cause = any(not before.covers(change.xid) for change in changes)
            assert told["reason"] == GapReason.ACCESS_CHANGED, f"told {told['reason']}"
            assert has_cause, "told of a change of access that was none"

    def after_the_welcome_and_before_the_end(self, stay: Stay) -> None:
        """Nothing comes before the client is let in, or after it is told that access has ended."""
        assert stay.is_welcome, "sent before the welcome"
        assert not stay.is_over, "sent after the end"

    def once_on_one_connection(self, stay: Stay, event: Event) -> None:
        """An event may come again on another connection, but not on this one."""
        assert event.id not in stay.sent, f"{event.id} is sent twice"

    def nothing_from_before(self, stay: Stay, event: Event) -> None:
        """Who comes with a cursor is sent nothing that it covers. Who comes without one is sent
        nothing from before they were let in: it may not have been for them."""
        assert stay.since is not None
        assert not stay.since.covers(event.xid), f"{event.id} is from before"

    def not_ones_own(self, stay: Stay, event: Event) -> None:
        """With ECHO_TO_AUTHOR off, on whatever way it comes: live, held, missed or in parts."""
        assert stay.is_for(event), f"{event.id} is their own"

    def only_with_access(self, stay: Stay, event: Event) -> None:
        """Nothing that was committed while the user had no access reaches them, also later."""
        allowed = stay.world.database.access_at[event.xid]
        assert (stay.user, stay.topic) in allowed, f"{event.id} is not for them"

    def no_cursor_goes_back(self, stay: Stay, cursor: Cursor) -> None:
        """A client keeps the cursor that it was told last, so that is the one that claims the most.

        But between two sockets that are served a pong has the cursor from before the delivery,
        also for who has been sent it already. Who is cut off then is sent it once more. And who was
        told that access has ended is told with a pong how far they were when they were let in.
        """
        assert stay.cursor is None or cursor.includes(stay.cursor), "a cursor goes back"

    def no_cursor_claims_what_was_not_sent(self, stay: Stay, cursor: Cursor) -> None:
        """What a cursor claims never comes again: if it was not sent until then, it is lost.

        The client has it from this connection or an earlier one, or will have a later state.
        """
        lacks = [event.id for event in stay.lacks(cursor)]
        assert not lacks, f"a cursor claims {lacks}, which were not sent"


class AtAnyTime:
    """What holds between any two steps."""

    def __init__(self, world: World) -> None:
        self._world = world

    def check(self) -> None:
        self.who_left_is_kept_nowhere()
        self._world.check_tasks()

    def who_left_is_kept_nowhere(self) -> None:
        """Neither as one whose access was asked about, nor as one who came lately."""
        here = set(self._world.hub.subscribers)
        assert here.issuperset(self._world.hub._returning), "who left is to be let back"
        assert here.issuperset(self._world.hub._recent), "who left is kept as one who came lately"


class InTheEnd:
    """What holds when nothing is on its way any more."""

    def __init__(self, world: World) -> None:
        self._world = world

    def everybody_has_everything(self) -> None:
        """Who is still on a topic was sent all that they are owed, and is known to have access."""
        for client in self._world.clients:
            if client.line.closed is None:
                for stay in client.stays:
                    self._has_everything(client, stay)

    def _has_everything(self, client: Client, stay: Stay) -> None:
        who = f"{client.kind} of {stay.user} on {stay.topic[-2:]}"
        assert stay.is_welcome, f"{who} was never answered"
        assert (stay.user, stay.topic) in self._world.database.access, f"{who} is still there"
        lacks = [event.id for event in stay.lacks()]
        assert not lacks, f"{who} never gets {lacks}"

    def nothing_is_left_of_who_left(self) -> None:
        """Whatever they were doing: nobody would give it back for them."""
        world = self._world
        assert not world.clients
        assert (len(world.hub.subscribers), len(world.services.room.subscribing)) == (0, 0)
        assert (world.hub._recent, world.hub._returning) == (set(), {})
        assert (world.hub.subscribers._topics, world.hub.subscribers._users) == ({}, {})
        budget = world.budget
        assert not budget._held, "bytes are reserved"
        assert not budget._waiting, "somebody waits for bytes"
        assert (world.presence._watchers, world.presence._told) == ({}, set())
        assert world.services.pings.added == set()

    def nothing_is_held_for(self, client: Client) -> None:
        """All its subscriptions have given back what they held."""
        subscriber = client.conversation._subscriber
        if subscriber is not None:
            assert subscriber._hold_limit._free == SEND_BUFFER_BYTES


Acts = Mapping[str, float]
"""How often each thing is done, in proportion."""
CALM: Acts = {
    **{"write": 5, "commit": 6, "read": 6, "open_gate": 7, "client_reads": 6, "spin": 4},
    **{"subscribe": 3, "ping": 2, "carry": 2, "come": 2, "cut": 1, "pass_time": 2},
}
"""Much is written, and the clients do what they can."""
GROWING: Acts = {
    **{"update": 8, "write": 4, "commit": 4, "read": 9, "open_gate": 5, "client_reads": 5},
    **{"subscribe": 3, "ping": 2, "come": 1, "write_much": 3, "pass_time": 1, "spin": 2},
}
"""Messages grow, while others are written that have to wait."""
ASKING: Acts = {
    **{"update": 5, "read": 9, "open_gate": 4, "client_reads": 7, "spin": 3, "unsubscribe": 2},
    **{"subscribe": 6, "ping": 6, "write": 1, "commit": 1, "come": 1, "recheck": 6, "carry": 1},
}
"""Rights are looked at again and again."""
BUSY: Acts = {
    **{"write": 4, "commit": 4, "read": 5, "open_gate": 6, "client_reads": 4, "spin": 3},
    **{"subscribe": 4, "unsubscribe": 1, "ping": 3, "type": 1, "carry": 1, "come": 3, "cut": 2},
    **{"change_access": 2, "recheck": 2, "pass_time": 2, "close": 0.3, "lose_track": 0.1},
}
"""Everything happens."""


class Scenario:
    """One seed: what is done is chosen by it, and by nothing else."""

    def __init__(self, seed: int, steps: list[str]) -> None:
        self.random = Random(seed)
        self.world = World(self.random, Invariants(), steps)
        self.writing: list[int] = []
        """The transactions that are open."""
        self.favourite = self.random.choice(TOPICS)
        """Of which the most is said."""

    async def run(self) -> None:
        others = asyncio.all_tasks()
        try:
            await self._act()
            for is_last in (False, True):
                await self._finish()
                await self._cut_off_all()
                if not is_last:
                    self._return_all()
            await self._return_to_what_is_there()
        finally:
            await self.world.stop()
        left = asyncio.all_tasks() - others
        assert not left, left

    async def _act(self) -> None:
        acts = self.random.choice([CALM, GROWING, ASKING, BUSY])
        names, weights = list(acts), list(acts.values())
        for slot in range(len(SLOTS)):
            self._come(slot)
        for _ in range(self.random.choice([40, 120, 250])):
            [name] = self.random.choices(names, weights)
            act: Callable[[], object] = getattr(self, name)
            self.world.note(name, act() or "")
            await self.world.spin(self.random.randrange(3))
            AtAnyTime(self.world).check()

    async def _finish(self) -> None:
        self.world.note("everything comes to an end")
        for xid in self.writing:
            self.world.commit(xid)
        self.writing.clear()
        await self.world.settle()
        InTheEnd(self.world).everybody_has_everything()

    async def _cut_off_all(self) -> None:
        self.world.note("all are cut off")
        clients = tuple(self.world.clients)
        for client in clients:
            self._cut(client)
        self.world.gates.open_all()
        await self.world.settle()
        for client in clients:
            InTheEnd(self.world).nothing_is_held_for(client)
        InTheEnd(self.world).nothing_is_left_of_who_left()

    def _return_all(self) -> None:
        """Each client comes back, and more is written before it is let in."""
        for slot in range(len(SLOTS)):
            self.world.note("return", self._come(slot))
        for _ in range(self.random.randrange(12)):
            self.world.note("write", self.write())

    async def _return_to_what_is_there(self) -> None:
        """With any cursor that anybody ever had."""
        for (user, topic), memories in self.world.memories.items():
            for memory in self.random.sample(memories, min(3, len(memories))):
                kind = self.random.choice(["chat", "events"])
                self.world.note("return", kind, user, topic[-2:], memory)
                self.world.clients.append(Client(self.world, kind, user, topic, memory))
        await self._finish()
        await self._cut_off_all()

    # What the clients do.

    def _topic(self) -> str:
        return self.random.choice([self.favourite, self.favourite, *TOPICS])

    def _client(self) -> Client | None:
        return self.random.choice(self.world.clients) if self.world.clients else None

    def _memory(self, user: str, topic: str) -> Memory | None:
        memories = self.world.memories[user, topic]
        if not memories or self.random.random() < 0.2:
            return None
        newest = self.random.random() < 0.5
        return memories[-1] if newest else self.random.choice(memories)

    def come(self) -> str:
        return self._come(self.random.randrange(len(SLOTS)))

    def _come(self, slot: int) -> str:
        """A client comes, for the first time or again, in place of the one before."""
        kind, user = SLOTS[slot]
        for client in tuple(self.world.clients):
            if (client.kind, client.user) == (kind, user):
                self._cut(client)
        topic = None if kind == "multi" else self._topic()
        memory = self._memory(user, topic) if topic else None
        knows = memory is not None or self.random.random() < 0.5
        self.world.clients.append(
            Client(self.world, kind, user, topic, memory, knows_cursors=knows)
        )
        return f"{kind} {user} {(topic or '')[-2:]} {memory}"

    def subscribe(self) -> str:
        client, topic = self._client(), self._topic()
        if client is None:
            return "nobody"
        memory = self._memory(client.user, topic)
        knows = self.random.random() < 0.5
        if not client.subscribe(topic, memory, knows_cursors=knows):
            return "not now"
        return f"{client.kind} {client.user} {topic[-2:]} {memory}"

    def unsubscribe(self) -> str:
        return self._say(Client.unsubscribe)

    def ping(self) -> None:
        """All ask how far they are, wherever they are."""
        for client in self.world.clients:
            for stay in client.stays:
                client.ping(stay.topic)

    def type(self) -> str:
        return self._say(Client.type)

    def _say(self, what: Callable[[Client, str], None]) -> str:
        client, topic = self._client(), self._topic()
        if client is None:
            return "nobody"
        what(client, topic)
        return f"{client.kind} {client.user} {topic[-2:]}"

    def client_reads(self) -> str:
        client = self._client()
        size = self.random.choice([10, 500, 5000, 100_000])
        return "nobody" if client is None else f"{client.kind} {client.user} {client.read(size)}"

    def cut(self) -> str:
        client = self._client()
        return "nobody" if client is None else self._cut(client)

    def _cut(self, client: Client) -> str:
        client.cut()
        self.world.clients.remove(client)
        return f"{client.kind} {client.user}"

    def close(self) -> str:
        client = self._client()
        if client is None:
            return "nobody"
        client.close()
        return f"{client.kind} {client.user}"

    # What the database and the relay do.

    def write(self) -> str:
        random, database = self.random, self.world.database
        is_more = self.writing and random.random() < 0.3
        xid = random.choice(self.writing) if is_more else database.begin()
        if xid not in self.writing:
            self.writing.append(xid)
        size = random.choice([20, 20, 200, 1500, 5000, 9000])
        author = random.choice([None, None, *USERS])
        grows = random.random() < 0.4
        event = database.say(xid, self._topic(), size, author, grows=grows)
        return f"{event._replace(payload=None)}"

    def update(self) -> str:
        """The growing message of a topic grows."""
        xid = self.world.database.begin()
        event = self.world.database.say(xid, self._topic(), 20, None, grows=True)
        self.world.commit(xid)
        return f"{event.id} in {xid} of {event.topic[-2:]}"

    def write_much(self) -> str:
        """After a while, a message that is too large to be read with others."""
        self.world.now += self.random.choice([0.0, 0.3])
        xid = self.world.database.begin()
        event = self.world.database.say(xid, self._topic(), 2 * PAGE_BYTES, None, grows=False)
        self.world.commit(xid)
        return f"{event.id} in {xid} of {event.topic[-2:]} at {self.world.now:.2f}"

    def commit(self) -> str:
        if not self.writing:
            return "nothing"
        xid = self.writing.pop(self.random.randrange(len(self.writing)))
        if self.random.random() < 0.05:
            self.world.database.abort(xid)
            return f"not {xid}"
        self.world.commit(xid)
        return str(xid)

    def change_access(self) -> str:
        user, topic = self.random.choice(USERS), self._topic()
        is_recheck = self.random.random() < 0.4
        xid = self.world.database.change(user, topic, is_recheck=is_recheck)
        if xid is None:
            return "not now"
        if self.random.random() < 0.6:
            self.world.commit(xid)
        else:
            self.writing.append(xid)
        return f"{user} {topic[-2:]} in {xid}, recheck: {is_recheck}"

    def recheck(self) -> str:
        """Somebody's rights are looked at again, and stay as they are."""
        user, topic = self.random.choice([None, *USERS]), self.random.choice([None, self._topic()])
        xid = self.world.database.begin()
        self.world.database.change_access(xid, topic, user, is_recheck=True)
        self.world.commit(xid)
        return f"{user} {topic} in {xid}"

    def open_gate(self) -> str:
        return self.world.gates.open_one()

    def read(self) -> str:
        breaks_after = 0 if self.random.random() < 0.03 else None
        return f"begun: {self.world.read(breaks_after=breaks_after)}"

    def carry(self) -> str:
        return f"begun: {self.world.read(ahead=True)}"

    def lose_track(self) -> str:
        return f"done: {self.world.lose_track()}"

    def pass_time(self) -> str:
        self.world.now += self.random.choice([0.05, 0.3, 2.5])
        return f"{self.world.now:.2f}"

    def spin(self) -> None:
        """Nothing else happens for a while."""


@contextmanager
def small_first_portions() -> Iterator[None]:
    """So that what waits for a slow client counts as much, with messages that are quick to make."""
    with (
        mock.patch.object(replay, "FIRST_BYTES", 1024),
        mock.patch.object(conversation, "Subscriber", Numbered),
        mock.patch.object(multiplex, "Subscriber", Numbered),
    ):
        yield


def failure(seed: int, shown: int = STEPS_SHOWN) -> str | None:
    """Run one seed; None: all is well."""
    steps: list[str] = []
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # of each socket that is closed, hundreds of times
    try:
        with small_first_portions():
            asyncio.run(asyncio.wait_for(_scenario(seed, steps), SECONDS))
    except Exception as error:  # noqa: BLE001 - whatever it is, the steps are wanted
        told = "\n".join(steps[-shown:])
        where = traceback.format_tb(error.__traceback__)[-1].strip()
        what = f"{type(error).__name__}: {error}"
        return f"{what}\n{where}\nseed {seed}, the last of {len(steps)} steps:\n{told}"
    finally:
        logging.disable(before)
    return None


async def _scenario(seed: int, steps: list[str]) -> None:
    await Scenario(seed, steps).run()


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_who_is_cut_off_at_any_moment_and_returns_misses_nothing(first: int) -> None:
    """Whatever cursor they return with, whatever their client is, and nothing is left of them."""
    for seed in range(first, first + AT_ONCE):
        failed = failure(seed)
        if failed:
            pytest.fail(failed, pytrace=False)


def main(first: int, last: int | None = None) -> None:
    """Run seeds, and say which ones fail of what."""
    if last is None:
        print(failure(first, 10_000) or "all is well")
        return
    failed: Counter[str] = Counter()
    for seed in range(first, last):
        if found := failure(seed):
            name = found.split("\n")[0]
            failed[name[:50]] += 1
            print(seed, name, flush=True)
    print(f"{failed.total()} of {last - first} seeds fail:", *failed.most_common(), sep="\n  ")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
