"""The goals, and whether a run met them. All are ratios within one run, but for idle memory and
what an event costs a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.results import Measured, Results

OURS: Final = "realtime"


@dataclass(frozen=True)
class Judged:
    """One line of the summary.

    Attributes:
        must: what has to be, in words; empty: it has no goal.
        aim: what is aimed at, if that is more.
        is_met: None: there is nothing that has to be.
        is_reached: whether the aim is.
    """

    scenario: str
    figure: str
    must: str
    aim: str
    found: str
    is_met: bool | None
    is_reached: bool = False


def judge(results: Results) -> list[Judged]:
    """Every goal that these results say something about."""
    judges: dict[str, Callable[[Measured], Iterator[Judged]]] = {
        "quiet": _quiet,
        "many": _many,
        "burst": lambda measured: _burst("burst", measured, 4),
        "wide": lambda measured: _burst("wide", measured, 18, 20),
        "steady": _steady,
        "ways": _ways,
        "writers": _writers,
        "cluster": _cluster,
        "idle": _idle,
        "connect": _connect,
        "return": _return,
        "storm": _storm,
        "soak": _soak,
    }
    lines: list[Judged] = []
    for name, measured in results.items():
        if OURS in measured.rounds:
            lines += judges[name](measured)
        else:
            why = measured.skipped.get(OURS, "left out")
            lines.append(Judged(name, "", "", "", f"this server was not measured: {why}", False))
    return lines


def _value(measured: Measured, contender: str, figure: str) -> float:
    return measured.median(contender, figure) or 0.0


def _ratio(measured: Measured, figure: str, other: str) -> float:
    """Ours by theirs."""
    theirs = _value(measured, other, figure)
    return _value(measured, OURS, figure) / theirs if theirs else 0.0


def _at_most(
    scenario: str, figure: str, unit: str, found: str, value: float, most: float, aim: float
) -> Judged:
    """Less is better: at most so much has to be, at most that is aimed at."""
    return Judged(
        scenario,
        figure,
        f"≤ {most:g}{unit}",
        f"≤ {aim:g}{unit}" if aim < most else "",
        found,
        0 < value <= most,
        0 < value <= aim,
    )


def _at_least(
    scenario: str, figure: str, unit: str, found: str, value: float, least: float, aim: float
) -> Judged:
    return Judged(
        scenario,
        figure,
        f"≥ {least:g}{unit}",
        f"≥ {aim:g}{unit}" if aim > least else "",
        found,
        value >= least,
        value >= aim,
    )


def _low_beside_best(
    scenario: str, measured: Measured, figure: str, words: str, most: float, aim: float
) -> Iterator[Judged]:
    best = measured.best_peer(figure, highest=False)
    if best is not None:
        ratio = _ratio(measured, figure, best)
        found = f"{ratio:.2f} × {measured.labels[best]}'s"
        yield _at_most(scenario, f"{words} ÷ the best peer's", " ×", found, ratio, most, aim)


def _quiet(measured: Measured) -> Iterator[Judged]:
    yield from _low_beside_best("quiet", measured, "p50_ms", "p50", 1.05, 1.0)
    yield from _low_beside_best("quiet", measured, "p99_ms", "p99", 1.1, 1.0)


def _many(measured: Measured) -> Iterator[Judged]:
    yield from _low_beside_best("many", measured, "p50_ms", "p50", 1.15, 1.0)
    yield from _low_beside_best("many", measured, "p99_ms", "p99", 1.15, 1.0)
    yield from _low_beside_best("many", measured, "cpu_us", "CPU per delivery", 1.0, 1.0)


def _burst(
    scenario: str, measured: Measured, times: float, delay: float | None = None
) -> Iterator[Judged]:
    best = measured.best_peer("deliveries_per_s", highest=True)
    if best is None:
        return
    rate = _ratio(measured, "deliveries_per_s", best)
    # All was there as soon as it was written: no relay could have been faster.
    bound = _value(measured, OURS, "seconds") <= 1.1 * _value(measured, OURS, "written_seconds")
    found = f"{rate:.1f} × {measured.labels[best]}'s{', bound by the writers' if bound else ''}"
    words = "deliveries/s ÷ the best peer's"
    yield _at_least(scenario, words, " ×", found, rate, times, times)
    if delay is None:
        yield from _low_beside_best(scenario, measured, "p99_ms", "p99", 1.0, 1.0)
    elif p99 := _ratio(measured, "p99_ms", best):
        words = f"p99 ÷ {measured.labels[best]}'s"
        found = f"1/{1 / p99:.1f}"
        yield Judged(scenario, words, f"≤ 1/{delay:g}", "", found, p99 <= 1 / delay, True)


def _steady(measured: Measured) -> Iterator[Judged]:
    yield from _low_beside_best("steady", measured, "cpu_us", "CPU per delivery", 1.0, 1.0)
    ratio = _ratio(measured, "cpu_us", "bare")
    words = "CPU per delivery ÷ a bare `send` loop's"
    yield _at_most("steady", words, " ×", f"{ratio:.2f} ×", ratio, 1.15, 1.15)


def _ways(measured: Measured) -> Iterator[Judged]:
    for name in ("multi", "sse"):
        if name in measured.rounds:
            ratio = _value(measured, name, "cpu_us") / _value(measured, OURS, "cpu_us")
            words = f"CPU per delivery of {measured.labels[name]} ÷ that of a socket each"
            yield Judged("ways", words, "", "", f"{ratio:.2f} ×", None)


def _writers(measured: Measured) -> Iterator[Judged]:
    """No fewer than with the trigger of 0.1.0: how many that are differs between machines."""
    if not measured.rounds.keys() >= {"former", "none"}:
        return
    for clients, aim in ((32, 0.65), (1, 0.8)):
        figure = f"fk_{clients}"
        former = _value(measured, "former", figure) / _value(measured, "none", figure)
        ratio = _ratio(measured, figure, "none")
        words = f"commits/s of {clients} client{'s' if clients > 1 else ''} ÷ no trigger's"
        found = f"{ratio:.2f} ×, with 0.1.0's trigger {former:.2f} ×"
        yield Judged(
            "writers",
            words,
            "≥ 0.1.0's",
            f"≥ {aim:g} ×",
            found,
            ratio >= former,
            ratio >= aim,
        )


def _cluster(measured: Measured) -> Iterator[Judged]:
    for kind, words, most in (("process", "a process", 120), ("postgres", "PostgreSQL", 60)):
        value = _value(measured, OURS, f"{kind}_20")
        figure = f"CPU of {words} for an event read alone"
        yield _at_most("cluster", figure, " µs", f"{value:.0f} µs", value, most, most)


def _idle(measured: Measured) -> Iterator[Judged]:
    size = _value(measured, OURS, "kb_per_connection")
    yield _at_most("idle", "memory per connection", " kB", f"{size:.1f} kB", size, 8.5, 8.5)


def _connect(measured: Measured) -> Iterator[Judged]:
    for peer, least in (("tornado", 1.0), ("websockets", 0.7)):
        if peer in measured.rounds:
            ratio = _ratio(measured, "handshakes_per_s", peer)
            label = measured.labels[peer]
            words = f"handshakes/s ÷ those of {label}, which checks nothing"
            yield _at_least("connect", words, " ×", f"{ratio:.2f} ×", ratio, least, 1.0)


def _return(measured: Measured) -> Iterator[Judged]:
    best = measured.best_peer("return_seconds", highest=False)
    found = f"{_value(measured, OURS, 'return_seconds'):.1f} s"
    if best is not None:
        ratio = _ratio(measured, "return_seconds", best)
        found += f", {ratio:.2f} × {measured.labels[best]}'s"
    yield Judged("return", "until all are live again", "", "", found, None)


def _storm(measured: Measured) -> Iterator[Judged]:
    found = (
        f"{_value(measured, OURS, 'storm_seconds'):.1f} s,"
        f" {_value(measured, OURS, 'log_queries'):,.0f} reads of the past"
    )
    yield Judged("storm", "until all have everything", "", "", found, None)
    if "bare" in measured.rounds:
        ratio = _ratio(measured, "storm_seconds", "bare")
        words = "that ÷ a bare sender's, of as many bytes"
        yield _at_most("storm", words, " ×", f"{ratio:.1f} ×", ratio, 2, 2)


def _soak(measured: Measured) -> Iterator[Judged]:
    for figure, words, most in (
        ("log_mb", "log", 1.2),
        ("memory_mb", "memory", 1.1),
        ("p99_ms", "p99", 1.5),
    ):
        first = max(0.001, _value(measured, OURS, f"first_{figure}"))
        growth = _value(measured, OURS, f"last_{figure}") / first
        figure_words = f"{words} at the end ÷ that at the beginning"
        yield _at_most("soak", figure_words, " ×", f"{growth:.2f} ×", growth, most, most)
