"""The simulation without a database: what is planned, who takes part, how progress is told."""

from __future__ import annotations

import asyncio
import io
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from uuid import UUID

import click
import pytest

from realtime.dev import database as dev_database
from realtime.simulate import cast, corpus
from realtime.simulate.acts import WORDS, Act
from realtime.simulate.cast import Cast
from realtime.simulate.plan import GROWTHS_PER_CHANGE, timeline
from realtime.simulate.player import Player
from realtime.simulate.progress import CLEAR_LINE, Progress, Screen
from tests.unit.test_main import call

GUEST_AT = (UUID(int=1), UUID(int=2))
MANY = 20_000
Timed = list[tuple[float, Act]]


def make_cast(*, bots: int = 4, people: int = 8, is_guest: bool = True) -> Cast:
    guest_at = GUEST_AT if is_guest else None
    return cast.build(corpus.read(), bots=bots, people=people, guest_at=guest_at)


def plan(seed: int, count: int = MANY, *, rate: float = 5, actors: Cast | None = None) -> Timed:
    chance = random.Random(seed)

    def new_id() -> UUID:
        return UUID(int=chance.getrandbits(128), version=4)

    begun = timeline(chance, actors or make_cast(), rate=rate, new_id=new_id)
    return list(islice(begun, count))


def test_the_same_seed_makes_the_same_plan() -> None:
    """Statement by statement, second by second; another seed makes another."""
    assert plan(1) == plan(1)
    assert plan(1, 100) != plan(2, 100)


def test_it_begins_at_once_and_goes_on_in_order() -> None:
    """A question comes first of all, and no statement is due before the one ahead of it."""
    planned = plan(3)
    assert (planned[0][0], planned[0][1].kind) == (0, "messages")
    times = [at for at, _act in planned]
    assert times == sorted(times)


@pytest.mark.parametrize("rate", [1, 5, 50])
def test_the_rate_is_what_was_asked_for(rate: float) -> None:
    """In the long run, the words of answers not counted."""
    planned = plan(4, 3 * MANY, rate=rate)
    changes = sum(act.kind != WORDS for _at, act in planned)
    assert changes / planned[-1][0] == pytest.approx(rate, rel=0.15)


@pytest.mark.parametrize("rate", [1, 5, 10])
def test_answers_grow_as_often_as_the_first_line_says(rate: float) -> None:
    """Else somebody who counts rows finds many times what they were told."""
    kinds = Counter(act.kind for _at, act in plan(4, 3 * MANY, rate=rate))
    growths = kinds[WORDS] / (kinds.total() - kinds[WORDS])
    assert 0.7 * GROWTHS_PER_CHANGE < growths <= GROWTHS_PER_CHANGE


def test_it_is_well_mixed() -> None:
    """Each kind has its share, and every bot is spoken with."""
    planned = plan(5)
    kinds = Counter(act.kind for _at, act in planned)
    changes = kinds.total() - kinds[WORDS]
    assert len(kinds) == 12
    assert all(number >= changes / 100 for number in kinds.values())
    assert kinds["messages"] + kinds["answers"] + kinds["finished"] > changes / 3
    sessions = {act.arguments[1] for _at, act in planned if act.kind == "messages"}
    assert sessions == {one for stage in make_cast().stages for one in stage.sessions}


def test_an_answer_grows_by_words_to_its_end() -> None:
    """Each update carries all of it so far, twenty to sixty of them a second; then it is done."""
    planned = plan(6, 3000)
    answer = next(act.arguments[0] for _at, act in planned if act.kind == WORDS)
    states = [(at, act) for at, act in planned if act.arguments[:1] == (answer,)]
    grown = [(at, str(act.arguments[1])) for at, act in states if act.kind == WORDS]
    assert all(later.startswith(text) for (_, text), (_, later) in pairwise(grown))
    pauses = [later - at for (at, _), (later, _) in pairwise(grown)]
    assert all(1 / 61 < pause < 1 / 19 for pause in pauses)
    done = next(act for _at, act in states if act.kind == "finished")
    assert done.arguments[1] in [said for topic in corpus.read().topics for _, said in topic.talk]
    assert '"tokens"' in str(done.arguments[2])


def test_few_answers_grow_at_once() -> None:
    """However high the rate: those beyond come whole."""
    planned = plan(7, rate=500)
    last_second = [act for at, act in planned if at > planned[-1][0] - 1 and act.kind == WORDS]
    assert len({act.arguments[0] for act in last_second}) <= 30


def test_nobody_writes_whose_access_was_taken() -> None:
    """Nor whose account is switched off; and a bot always has somebody who can write."""
    actors = make_cast()
    allowed = {stage.bot: {*stage.members} for stage in actors.stages}
    away: set[object] = set()
    for _at, act in plan(8, actors=actors):
        if act.kind == "permissions" and "INSERT" in act.sql:
            allowed.setdefault(act.arguments[0], set()).add(act.arguments[1])  # type: ignore[arg-type]
        elif act.kind == "permissions" and "DELETE" in act.sql:
            allowed[act.arguments[0]].discard(act.arguments[1])  # type: ignore[index,arg-type]
        elif act.kind == "users":
            (away.discard if act.arguments[1] else away.add)(act.arguments[0])
        elif act.kind == "messages" and "?" in str(act.arguments[5]):
            bot, _session, _message, user, *_rest = act.arguments
            assert user in allowed[bot]  # type: ignore[index]
            assert user not in away


def test_rows_of_others_are_not_named() -> None:
    """Of the bot in which they are guests nothing is changed, and its people lose nothing."""
    people = set(make_cast().people)
    for _at, act in plan(9):
        if act.kind in ("permissions", "users"):
            assert people & set(act.arguments)
        if act.kind == "bots":
            assert GUEST_AT[0] not in act.arguments


@pytest.mark.parametrize("seed", [3, 5])
def test_of_few_people_one_can_always_write(seed: int) -> None:
    """An owner who is back stays a member while all other members are away."""
    actors = make_cast(bots=1, people=3, is_guest=False)
    assert len(plan(seed, MANY, actors=actors)) == MANY


@pytest.mark.parametrize(("bots", "people"), [(1, 3), (2, 4), (30, 300)])
def test_any_number_of_bots_and_people(bots: int, people: int) -> None:
    """All usernames differ; with three people nobody is left to be let in, and all goes on."""
    actors = make_cast(bots=bots, people=people, is_guest=False)
    assert len(set(actors.people.values())) == people
    assert len(actors.stages) == bots
    assert len(plan(10, 5000, actors=actors)) == 5000


def test_ids_are_recognised() -> None:
    """Every id of the cast lies in its range, whatever the numbers."""
    actors = make_cast(bots=100, people=1000, is_guest=False)
    first, last = cast.every("a")
    assert all(first <= one <= last for one in actors.people)
    first, last = cast.every("b")
    assert all(first <= stage.bot <= last for stage in actors.stages)
    assert first <= cast.TRIAL_BOT <= last


# Progress.


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def counted(clock: Clock) -> Progress:
    progress = Progress(clock)
    for kind in ["messages"] * 3 + ["answers"] * 2 + [WORDS] * 40:
        progress.add(Act(kind, ""))
    clock.now += 2
    return progress


def test_the_line_tells_the_rate_and_the_totals() -> None:
    """The words of answers by themselves, for there are many of them."""
    assert counted(Clock()).line() == "00:02   2.5 changes/s   20 words/s  3 messages, 2 answers"


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """What is long past does not count."""
    clock = Clock()
    progress = counted(clock)
    progress.rates()
    for _ in range(40):
        clock.now += 0.25
        progress.rates()
    assert progress.rates() == (0, 0)
    progress.add(Act("documents", ""))
    assert progress.rates()[0] == pytest.approx(1 / 5, rel=0.1)


def test_the_summary_tells_how_it_went() -> None:
    """And how long the database was away, if it was."""
    progress = counted(Clock())
    assert progress.summary().splitlines() == [
        "5 changes in 2 s (2.5/s), and 40 updates that made answers grow",
        "  3 messages, 2 answers",
    ]
    progress.outages, progress.seconds_away = 1, 1.23
    assert progress.summary().endswith("the database was away once, 1.2 s in all")
    progress.outages = 2
    assert "away 2 times" in progress.summary()


def test_what_is_too_slow_for_the_rate_is_told() -> None:
    """While it runs, and at the end: a load test that is behind is none of that rate."""
    progress = counted(Clock())
    progress.seconds_behind = 3.21
    assert "  3 s behind the asked rate  3 messages" in progress.line()
    assert "3.2 s behind the asked rate" in progress.summary()


def played(database: Callable[[Clock], Iterator[Exception | None]]) -> Progress:
    """How it went, with three statements that are due at once and what became of each try."""
    clock = Clock()
    progress = Progress(clock)
    player = Player("", make_cast(), progress, [].append, clock)
    tries = database(clock)

    async def execute(_act: Act) -> None:
        if error := next(tries):
            raise error

    player._execute = execute  # type: ignore[method-assign]
    asyncio.run(player.play([(0.0, Act("messages", ""))] * 3, asyncio.Event()))
    return progress


def test_statements_that_take_too_long_are_behind_the_rate() -> None:
    """By as much as the next one is late."""

    def is_slow(clock: Clock) -> Iterator[None]:
        while True:
            clock.now += 5
            yield None

    assert played(is_slow).seconds_behind == 10


def test_an_outage_is_not_behind_the_rate() -> None:
    """It is told by itself, with the time that the first try took."""

    def is_away(clock: Clock) -> Iterator[Exception | None]:
        clock.now += 60
        yield ConnectionRefusedError()
        while True:
            yield None

    progress = played(is_away)
    assert (progress.seconds_away, progress.seconds_behind) == (60, 0)


def test_a_terminal_has_one_line_that_changes() -> None:
    """It makes way for what is said, and at the end."""
    terminal = Terminal()
    screen = Screen(counted(Clock()), terminal, is_quiet=False)
    screen.show()
    screen.say("away")
    screen.show()
    screen.end()
    shown, said, again, end = terminal.getvalue().split(CLEAR_LINE)[1:]
    assert shown == again
    assert "\n" not in shown
    assert (click.unstyle(said), end) == ("• away\n", "")


def test_a_pipe_gets_lines() -> None:
    """Nothing that moves a cursor; and in quiet, only what is said."""
    pipe = io.StringIO()
    screen = Screen(counted(Clock()), pipe, is_quiet=False)
    screen.show()
    screen.end()
    assert pipe.getvalue().startswith("00:02")
    assert pipe.getvalue().count("\n") == 1
    assert "\x1b" not in pipe.getvalue()


def test_without_a_database_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the other commands; no key is needed. Nor has bin/dev made a database."""
    monkeypatch.setattr(dev_database, "DATA", tmp_path)
    result = call("simulate")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: DATABASE_URL is not set")
    result = call("simulate", DATABASE_URL="postgresql://x:sesame@localhost:1/none")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "error: the database cannot be reached: nothing listens on port 1 of localhost; "
    )
    assert "sesame" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "wrong", [["--rate", "0"], ["--bots", "0"], ["--people", "2"], ["--seconds", "-1"]]
)
def test_numbers_that_make_no_sense_are_refused(wrong: list[str]) -> None:
    """With the usage, as any command does."""
    assert call("simulate", *wrong).exit_code == 2
