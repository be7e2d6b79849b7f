"""Presence against a model: processes, tabs, reloads, deaths, outages and revokes in any order.

What the users really have is simple: sockets. What each process shows may lag behind it, but never
says that somebody left who was not gone for the grace time (or told to go), never that somebody
came who has no socket, and is the truth once nothing happens any more. Other processes hear of a
return by the row that is written with the next step: until then they count the absence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from hypothesis import example, given, settings
from hypothesis import strategies as st

from realtime.relay.presence import (
    RECHECK_SECONDS,
    RECOVERY_SECONDS,
    Person,
    Presence,
)
from tests.unit.relay_fakes import BOT, access_change

NODES = range(3)
USERS = ("ada", "grace", "joan")
GRACE_SECONDS = 5.0
STEP = 0.5
"""How often each process writes, reads and looks."""
ALIVE = 10.0
"""How long a dead process's rows are believed."""
REFILL = 4.0
"""How long after an outage until the last process has written its sockets down again."""


@dataclass
class Node:
    presence: Presence
    sockets: dict[int, str] = field(default_factory=dict)
    """Users by socket."""
    died_at: float | None = None
    writes_from: float = 0.0
    told: set[str] = field(default_factory=set)
    """What a client makes out of the changes."""
    let_in_at: dict[str, float] = field(default_factory=dict)
    """When it last saw that a user is let in: on a socket of its own, or because they came."""


class Cluster:
    def __init__(self) -> None:
        self.now = 1000.0
        self.numbers = count()
        self.nodes = [Node(Presence(lambda: self.now, grace=GRACE_SECONDS)) for _ in NODES]
        self.rows: dict[int, dict[str, Person]] = {number: {} for number in NODES}
        self.is_away = False
        self.gone_since: dict[str, float] = {}
        self.back_at: dict[str, float] = {}
        """Who is back, or was for a moment, and when; forgotten once their row can be read."""
        self.changed_at: dict[str, float] = {}
        self.rechecked_at: dict[str, float] = {}
        """Ejected, or asked about again while they were not there: they get no grace."""
        for node in self.nodes:
            node.presence.open(BOT)

    @property
    def alive(self) -> list[tuple[int, Node]]:
        return [(number, one) for number, one in enumerate(self.nodes) if one.died_at is None]

    def there(self) -> set[str]:
        """Who really has a socket."""
        return {user for _, node in self.alive for user in node.sockets.values()}

    # What happens.

    def open(self, number: int, user: str) -> None:
        node = self.nodes[number]
        if node.died_at is None and not self.is_away:  # nobody is let in without the database
            if user not in self.there():
                self.back_at[user] = self.now
            node.sockets[next(self.numbers)] = user

    def close(self, number: int, user: str) -> None:
        node = self.nodes[number]
        for socket, whose in list(node.sockets.items()):
            if whose == user:
                del node.sockets[socket]
                break
        self._note_gone(user)

    def _note_gone(self, *users: str) -> None:
        for user in set(users) - self.there():
            self.gone_since.setdefault(user, self.now)
            self.back_at.pop(user, None)  # for a moment only, which nobody could read

    def kill(self, number: int) -> None:
        if len(self.alive) > 1 and self.nodes[number].died_at is None:
            self.nodes[number].died_at = self.now
            self._note_gone(*USERS)

    def crash(self) -> None:
        """The database is gone, with what is unlogged in it; whoever listens to it notices."""
        self.is_away = True
        for _, node in self.alive:
            node.presence.lost()
        self.rows = {number: {} for number in NODES}

    def back(self, delays: list[float]) -> None:
        if self.is_away:
            self.is_away = False
            for (_, node), delay in zip(self.alive, delays, strict=False):
                node.writes_from = self.now + delay

    def change_access(self, user: str, is_recheck: bool) -> None:
        """A revoke; where access remains (`is_recheck`) the sockets go on."""
        if self.is_away:
            return
        for _, node in self.alive:
            node.presence.access_changed(access_change(1, 10, BOT, user, is_recheck=is_recheck))
            if not is_recheck:
                node.sockets = {
                    socket: whose for socket, whose in node.sockets.items() if whose != user
                }
        if not is_recheck:
            self.changed_at[user] = self.now
        self.rechecked_at[user] = self.now
        self._note_gone(user)

    def step(self, number_of_steps: int = 1) -> None:
        for _ in range(number_of_steps):
            before = self.there()
            self.now += STEP
            for number, node in self.alive:
                self._look(number, node, before)
            for number, node in self.alive:
                if not self.is_away and self.now >= node.writes_from:
                    self.rows[number] = people(node)
                    self._note_read(*self.rows[number])

    def _note_read(self, *users: str) -> None:
        for user in users:
            if self.back_at.pop(user, None) is not None:
                self.gone_since.pop(user, None)

    # What each process makes of it.

    def _look(self, number: int, node: Node, before: set[str]) -> None:
        if self.is_away:
            node.presence.lost()
        else:
            node.presence.read(self.now, {BOT: self._elsewhere(number)})
        change = node.presence.update(BOT, people(node), set())
        if change is None:
            return
        joined, left = ({one.user_id for one in these} for these in (change.joined, change.left))
        assert left <= node.told
        assert not joined & node.told
        node.told = node.told - left | joined
        assert node.told == {one.user_id for one in node.presence.shown(BOT).people}
        for user in left:
            self._check_left(user, node)
        for user in joined | set(node.sockets.values()):
            node.let_in_at[user] = self.now
        for user in joined - before:
            assert self.gone_since.get(user, self.now) > self.changed_at.get(user, 0.0)

    def _check_left(self, user: str, node: Node) -> None:
        back_at = self.back_at.get(user, self.now)
        absent_for = back_at - self.gone_since.get(user, back_at)
        # It shows with the next look, or with the first that can be had; and for a while what
        # other processes say of them is not believed. But a change that this process has seen them
        # outlive excuses nothing.
        rechecked_at = self.rechecked_at.get(user, -1e9)
        is_rechecked = self.now - rechecked_at <= RECHECK_SECONDS + STEP
        was_rechecked = is_rechecked or rechecked_at >= self.gone_since.get(user, self.now)
        was_rechecked = was_rechecked and rechecked_at >= node.let_in_at[user]
        assert was_rechecked or absent_for >= GRACE_SECONDS, f"{user} was gone for {absent_for} s"

    def _elsewhere(self, number: int) -> dict[str, Person]:
        found: dict[str, Person] = {}
        for other, node in enumerate(self.nodes):
            if other != number and (node.died_at is None or self.now - node.died_at < ALIVE):
                found |= self.rows[other]
        return found


def people(node: Node) -> dict[str, Person]:
    return {user: Person(user, user, 0.0) for user in node.sockets.values()}


nodes, users = st.sampled_from(NODES), st.sampled_from(USERS)
events = st.one_of(
    st.tuples(st.just(Cluster.open), nodes, users),
    st.tuples(st.just(Cluster.close), nodes, users),
    st.tuples(st.just(Cluster.step), st.integers(1, 12)),
    st.tuples(st.just(Cluster.kill), nodes),
    st.tuples(st.just(Cluster.crash)),
    st.tuples(st.just(Cluster.back), st.lists(st.floats(0, REFILL), min_size=3, max_size=3)),
    st.tuples(st.just(Cluster.change_access), users, st.booleans()),
)


@settings(max_examples=400)
@given(st.lists(events, max_size=40))
@example(  # back on another process in the very step in which the grace is over
    [
        (Cluster.open, 0, "joan"),
        (Cluster.step, 1),
        (Cluster.close, 0, "joan"),
        (Cluster.step, 10),
        (Cluster.open, 1, "joan"),
    ]
)
@example(  # back for a moment, of which no row tells
    [
        (Cluster.open, 0, "joan"),
        (Cluster.step, 1),
        (Cluster.close, 0, "joan"),
        (Cluster.step, 6),
        (Cluster.open, 1, "joan"),
        (Cluster.close, 1, "joan"),
        (Cluster.step, 6),
    ]
)
def test_presence_is_never_wrong_for_long(happened: list[tuple]) -> None:  # type: ignore[type-arg]
    """Whatever happens in whatever order."""
    cluster = Cluster()
    cluster.step()
    for act, *arguments in happened:
        act(cluster, *arguments)
    cluster.back([0.0] * 3)
    cluster.step(int((ALIVE + RECOVERY_SECONDS + 2 * GRACE_SECONDS) / STEP) + 4)
    for _, node in cluster.alive:
        assert node.told == cluster.there()
