"""Tests of `realtime.relay.presence`: by example here, everything at once in the model."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.relay.presence import (
    RECHECK_SECONDS,
    RECOVERY_SECONDS,
    Listing,
    Person,
    Presence,
    PresenceDiff,
)
from tests.unit.relay_fakes import ADA, BOT, GRACE, OTHER_BOT, access_change

GRACE_SECONDS = 5.0
NOBODY: dict[str, Person] = {}


def people(*user_ids: str, since: float = 0.0) -> dict[str, Person]:
    return {user_id: Person(user_id, f"{user_id}'s name", since) for user_id in user_ids}


class ClockedPresence:
    """One bot that is asked about, and a clock."""

    def __init__(self, **limits: Any) -> None:
        self.now = 100.0
        self.presence = Presence(lambda: self.now, grace=GRACE_SECONDS, **limits)
        self.presence.open(BOT)

    def read(self, *elsewhere: str) -> None:
        self.presence.read(self.now, {BOT: people(*elsewhere)})

    def update(self, *here: str, asked: str = "") -> tuple[list[str], list[str]]:
        """Who joined and who left."""
        change = self.presence.update(BOT, people(*here), {asked} - {""})
        assert change is not None
        assert bool(change) == bool(change.joined or change.left)
        joined, left = ([one.user_id for one in these] for these in (change.joined, change.left))
        return joined, left

    def shown(self) -> list[str]:
        return [one.user_id for one in self.presence.shown(BOT).people]


def test_nothing_is_known_before_the_first_reading() -> None:
    """Who is here is not everybody."""
    clocked = ClockedPresence()
    assert clocked.presence.update(BOT, people(ADA), set()) is None
    clocked.read(GRACE)
    assert clocked.update(ADA) == ([ADA, GRACE], [])


def test_a_user_is_one_wherever_their_sockets_are() -> None:
    """Here or elsewhere or both, since the oldest of them; and moving about changes nothing."""
    clocked = ClockedPresence()
    clocked.presence.read(clocked.now, {BOT: people(ADA, GRACE, since=5.0)})
    clocked.presence.update(BOT, people(ADA, since=3.0) | people(GRACE, since=7.0), set())
    assert [one.since for one in clocked.presence.shown(BOT).people] == [3.0, 5.0]
    assert clocked.update(ADA) == ([], [])
    clocked.read()
    assert clocked.update(ADA, GRACE) == ([], [])


def test_somebody_leaves_after_the_grace_and_by_a_reading() -> None:
    """Time alone takes nobody away; who is back within the grace was never gone."""
    clocked = ClockedPresence()
    clocked.read(ADA, GRACE)
    clocked.update()
    clocked.read(GRACE)
    assert clocked.update() == ([], [])
    clocked.now += GRACE_SECONDS - 1
    clocked.read(ADA)
    assert clocked.update() == ([], [])
    clocked.now += GRACE_SECONDS - 1
    clocked.read(ADA)
    assert clocked.update() == ([], []), "each time counts from its own beginning"
    clocked.now += 1
    assert clocked.update() == ([], [])
    clocked.read(ADA)
    assert clocked.update() == ([], [GRACE])
    clocked.read()
    assert clocked.update() == ([], []), "the first time is forgotten"
    assert clocked.shown() == [ADA]


def test_after_an_outage_nobody_leaves_for_a_while() -> None:
    """The others write down anew who is there; who is not by then has left."""
    clocked = ClockedPresence()
    clocked.read(ADA, GRACE)
    clocked.update()
    clocked.presence.lost()
    for seconds in (1, RECOVERY_SECONDS - 2):
        clocked.now += seconds
        clocked.read()
        assert clocked.update() == ([], [])
    clocked.read(GRACE)
    clocked.now += GRACE_SECONDS + 1
    clocked.read(GRACE)
    assert clocked.update() == ([], [ADA])


@pytest.mark.parametrize("topic", [BOT, None])
@pytest.mark.parametrize("user_id", [ADA, None])
def test_who_is_cut_off_leaves_at_once(topic: str | None, user_id: str | None) -> None:
    """Though others' rows still have them; but not who is let in here again."""
    clocked = ClockedPresence()
    clocked.read(ADA)
    clocked.update()
    clocked.presence.access_changed(access_change(1, 10, topic, user_id))
    assert clocked.update() == ([], [ADA])
    clocked.now += RECHECK_SECONDS / 2
    clocked.read(ADA)
    assert clocked.update() == ([], [])
    assert clocked.presence.listing(BOT, people(ADA), clocked.now, NOBODY) == Listing([], False)
    assert clocked.update(ADA) == ([ADA], [])
    clocked.now += RECHECK_SECONDS
    clocked.read(ADA)
    assert clocked.update() == ([], []), "another socket elsewhere"


def test_an_access_change_is_about_nobody_else() -> None:
    """Neither about other users nor about other bots."""
    clocked = ClockedPresence()
    clocked.read(ADA, GRACE)
    clocked.update()
    clocked.presence.access_changed(access_change(1, 10, OTHER_BOT, ADA))
    clocked.presence.access_changed(access_change(2, 11, BOT, "somebody"))
    clocked.read()
    assert clocked.update() == ([], [])


def test_who_is_in_doubt_has_no_grace() -> None:
    """They stay while they are asked about, here or elsewhere, and are gone when they are."""
    clocked = ClockedPresence()
    clocked.read(ADA)
    clocked.update(GRACE)
    clocked.presence.access_changed(access_change(1, 10, BOT, None, is_recheck=True))
    assert clocked.update(asked=GRACE) == ([], [])
    clocked.read()
    assert clocked.update(asked=GRACE) == ([], [ADA])
    assert clocked.update() == ([], [GRACE])


@pytest.mark.parametrize("is_recheck", [False, True])
def test_a_change_is_over_for_who_was_let_in_after_it(is_recheck: bool) -> None:
    """They have the grace of everybody: a reload is no news."""
    clocked = ClockedPresence()
    clocked.read()
    clocked.update(ADA)
    clocked.presence.access_changed(access_change(1, 10, is_recheck=is_recheck))
    clocked.now += 1
    assert clocked.update(ADA) == ([], []), "back before anybody looked"
    clocked.read()
    assert clocked.update() == ([], []), "a reload"
    clocked.now += 1
    assert clocked.update(ADA) == ([], [])
    clocked.read()
    assert clocked.update() == ([], [])
    clocked.presence.access_changed(access_change(2, 11))
    assert clocked.update() == ([], [ADA]), "another change"


def test_who_was_cut_off_and_came_back_may_reload_on_another_process() -> None:
    """Its row is not believed yet: it shows nobody, and takes nobody away."""
    clocked = ClockedPresence()
    clocked.read(ADA)
    clocked.update()
    clocked.presence.access_changed(access_change(1, 10))
    assert clocked.update() == ([], [ADA])
    clocked.now += 1
    clocked.read(ADA)
    assert clocked.update() == ([], [])
    assert clocked.update(ADA) == ([ADA], [])
    clocked.now += GRACE_SECONDS
    clocked.read(ADA)
    assert clocked.update() == ([], []), "the row of a dead process, or a new one"
    clocked.now += GRACE_SECONDS
    clocked.read()
    assert clocked.update() == ([], []), "it is missing since now"
    clocked.now += GRACE_SECONDS
    clocked.read()
    assert clocked.update() == ([], [ADA])


def test_who_is_asked_about_does_not_come() -> None:
    """Until the answer."""
    clocked = ClockedPresence()
    clocked.read()
    assert clocked.update(asked=ADA) == ([], [])
    assert clocked.update(ADA) == ([ADA], [])


def test_a_doubt_ends() -> None:
    """After it, a reload is a reload again; a cut before it counts as long as it would have."""
    clocked = ClockedPresence()
    clocked.read(ADA)
    clocked.update()
    clocked.presence.access_changed(access_change(1, 10))
    clocked.presence.access_changed(access_change(2, 11, is_recheck=True))
    assert clocked.update() == ([], [ADA])
    clocked.now += RECHECK_SECONDS
    clocked.read(ADA)
    assert clocked.update() == ([ADA], [])
    clocked.read()
    assert clocked.update() == ([], [])


def test_access_changes_are_forgotten() -> None:
    """By time, and by number."""
    clocked = ClockedPresence(max_access_changes=2)
    noted = clocked.presence._changes._noted
    for number in range(3):
        clocked.presence.access_changed(access_change(number, 10, user_id=str(number)))
    assert list(noted) == [("1", BOT), ("2", BOT)]
    clocked.now += RECHECK_SECONDS
    clocked.presence.access_changed(access_change(9, 10))
    assert list(noted) == [(ADA, BOT)]


def test_only_so_many_are_shown() -> None:
    """Those who are there the longest; when one leaves, the next is shown."""
    clocked = ClockedPresence(max_people=2)
    crowd = {str(number): Person(str(number), "x", float(-number)) for number in range(4)}
    listing = clocked.presence.listing(BOT, crowd, clocked.now, NOBODY)
    assert listing == Listing([crowd["3"], crowd["2"]], True)
    assert listing.told()["truncated"] is True
    clocked.presence.read(clocked.now, {BOT: crowd})
    change = clocked.presence.update(BOT, NOBODY, set())
    assert change == PresenceDiff([crowd["3"], crowd["2"]], [], True)
    assert change.told()["truncated"] is True
    assert clocked.presence.shown(BOT) == listing
    clocked.presence.access_changed(access_change(1, 10, BOT, "3"))
    assert clocked.presence.update(BOT, NOBODY, set()) == PresenceDiff(
        [crowd["1"]], [crowd["3"]], True
    )


def test_told_in_the_words_of_the_protocol() -> None:
    """Times included."""
    (ada,) = people(ADA).values()
    told = {"user_id": ADA, "username": "ada's name", "since": "1970-01-01T00:00:00.000000Z"}
    assert Listing([ada], False).told() == {"users": [told]}
    assert PresenceDiff([ada], [], False).told() == {"joined": [told], "left": []}


def test_what_nobody_asks_about_is_forgotten() -> None:
    """A reading that was under way then finds nobody to be for."""
    clocked = ClockedPresence()
    clocked.presence.close(BOT)
    clocked.read(ADA)
    clocked.presence.open(BOT)
    assert clocked.presence.update(BOT, NOBODY, set()) is None
