"""`bin/simulate`: plays the plan until it is told to stop, and says how it went."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

from realtime.simulate import cast, corpus
from realtime.simulate.acts import Act
from realtime.simulate.plan import GROWTHS_PER_CHANGE, timeline
from realtime.simulate.player import Player
from realtime.simulate.progress import Progress, Screen

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    rate: float
    """Changes a second, the words of growing answers not counted."""
    seconds: float | None
    """How long to simulate. None means until a signal stops it."""
    bots: int
    people: int
    seed: int | None
    keep: bool
    """Leave the rows at the end."""
    beside: tuple[UUID, UUID] | None = None
    """A bot and a session of bin/dev's, where the people talk as well. It ends with our standard
    input; its progress is nobody's business, and its rows stay."""


def run(dsn: str, options: Options) -> None:
    """Simulate until a signal comes, or the time is over.

    Raises:
        SimulateError: the database cannot be reached at the start, or refuses.
    """
    asyncio.run(_run(dsn, options))


async def _run(dsn: str, options: Options) -> None:
    seed = random.randrange(2**32) if options.seed is None else options.seed
    actors = cast.build(
        corpus.read(), bots=options.bots, people=options.people, guest_at=options.beside
    )
    progress = Progress(time.monotonic)
    screen = Screen(progress, is_quiet=options.beside is not None)
    player = Player(dsn, actors, progress, screen.say, time.monotonic)
    stop = asyncio.Event()
    _stop_when_told(stop, options)
    try:
        await player.open()
        screen.say(_first_line(options, seed))
        if options.beside is None:
            screen.say(_how_to_watch(actors))
        plan = timeline(random.Random(seed), actors, rate=options.rate, new_id=uuid4)
        await _play(player, plan, stop, screen)
        if options.beside is None:
            screen.say(progress.summary())
            screen.say(await _end(player, keep=options.keep))
    finally:
        player.close()


async def _play(
    player: Player, plan: Iterator[tuple[float, Act]], stop: asyncio.Event, screen: Screen
) -> None:
    """With progress on the screen for as long."""
    tasks = [
        asyncio.create_task(player.play(plan, stop)),
        asyncio.create_task(screen.keep_showing()),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        screen.end()
    for task in done:
        task.result()


async def _end(player: Player, *, keep: bool) -> str:
    """Delete the rows or leave them, and say which."""
    if keep:
        return "The rows stay; a run without --keep deletes them at its end"
    if await player.clear_away():
        return "All rows that it made are deleted again"
    return "The database is away, so the rows are still there: the next run deletes them at its end"


def _first_line(options: Options, seed: int) -> str:
    what = (
        f"Simulating {options.bots} bots and {options.people} people,"
        f" about {options.rate:g} changes a second,"
        f" and up to {options.rate * GROWTHS_PER_CHANGE:g} updates that make answers grow"
    )
    if options.beside:
        return f"{what}, in the demo bot, too"
    return f"{what} (--seed {seed}); Ctrl-C ends it"


def _how_to_watch(actors: cast.Cast) -> str:
    """Which bots there are, and somebody who may watch the first of them."""
    first, last = actors.stages[0], actors.stages[-1]
    assert first.owner is not None
    bots = f"The bot is {first.bot}"
    if last is not first:
        bots = f"The bots are {first.bot} to …{str(last.bot)[-12:]}"
    return (
        f"{bots}; {actors.people[first.owner]} ({first.owner}) owns the first:"
        f" bin/tail {first.bot} --user {first.owner}"
    )


def _stop_when_told(stop: asyncio.Event, options: Options) -> None:
    """By a signal (a second one ends at once), by the time, by whom it runs beside."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        stop.set()

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 64):
            loop.remove_reader(sys.stdin)
            stop.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal)
    if options.beside:
        loop.add_reader(sys.stdin, on_input)
    if options.seconds is not None:
        loop.call_later(options.seconds, stop.set)
