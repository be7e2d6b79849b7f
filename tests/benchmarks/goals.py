"""The goals, and whether a run met them. All are ratios within one run, but for idle memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.results import Measured, Results

OURS: Final = "realtime"


@dataclass(frozen=True)
class Judged:
    """One line of the summary.

    Attributes:
        is_met: None: the goal is only that it is said.
    """

    scenario: str
    goal: str
    found: str
    is_met: bool | None


def judge(results: Results) -> list[Judged]:
    """Every goal that these results say something about."""
    judges: dict[str, Callable[[Measured], list[Judged]]] = {
        "quiet": _quiet,
        "burst": lambda measured: _burst("burst", measured, 4, 10),
        "wide": lambda measured: _burst("wide", measured, 10, 5),
        "steady": _steady,
        "many": _many,
        "writers": _writers,
        "idle": _idle,
        "connect": _connect,
        "return": _return,
        "storm": _storm,
        "soak": _soak,
    }
    lines = []
    for name, measured in results.items():
        if OURS in measured.rounds:
            lines += judges[name](measured)
        else:
            why = measured.skipped.get(OURS, "left out")
            lines.append(Judged(name, "", f"this server was not measured: {why}", False))
    return lines


def _value(measured: Measured, contender: str, figure: str) -> float:
    return measured.median(contender, figure) or 0.0


def _ratio(measured: Measured, figure: str, other: str) -> float:
    """Ours by theirs."""
    theirs = _value(measured, other, figure)
    return _value(measured, OURS, figure) / theirs if theirs else 0.0


def _quiet(measured: Measured) -> list[Judged]:
    best = measured.best_peer("p50_ms", highest=False)
    if best is None:
        return []
    p50, p99 = (_ratio(measured, figure, best) for figure in ("p50_ms", "p99_ms"))
    name = measured.labels[best]
    return [
        Judged("quiet", "p50 at most 1.10 × the best peer's", f"{p50:.2f} × {name}'s", p50 <= 1.1),
        Judged("quiet", "p99 under that peer's", f"{p99:.2f} ×", p99 < 1),
    ]


def _burst(scenario: str, measured: Measured, times: float, delay: float) -> list[Judged]:
    best = measured.best_peer("deliveries_per_s", highest=True)
    if best is None:
        return []
    rate, p99 = (_ratio(measured, figure, best) for figure in ("deliveries_per_s", "p99_ms"))
    name = measured.labels[best]
    # All was there as soon as it was written: no relay could have been faster.
    bound = _value(measured, OURS, "seconds") <= 1.1 * _value(measured, OURS, "written_seconds")
    words = ", bound by the writers" if bound else ""
    return [
        Judged(
            scenario,
            f"{times:g} × the best peer's deliveries/s",
            f"{rate:.1f} × {name}'s{words}",
            rate >= times,
        ),
        Judged(
            scenario,
            f"p99 at most 1/{delay:g} of that peer's",
            f"1/{1 / p99:.1f}" if p99 else "none",
            p99 <= 1 / delay,
        ),
    ]


def _steady(measured: Measured) -> list[Judged]:
    lines = []
    if best := measured.best_peer("cpu_us", highest=False):
        ratio = _ratio(measured, "cpu_us", best)
        found = f"{ratio:.2f} × {measured.labels[best]}'s"
        lines.append(Judged("steady", "CPU per delivery under the best peer's", found, ratio < 1))
    ratio = _ratio(measured, "cpu_us", "bare")
    goal = "at most 1.5 × a bare `send` loop's"
    return [*lines, Judged("steady", goal, f"{ratio:.2f} ×", 0 < ratio <= 1.5)]


def _many(measured: Measured) -> list[Judged]:
    lines = []
    for figure, words in (("p99_ms", "p99"), ("cpu_us", "CPU")):
        best = measured.best_peer(figure, highest=False)
        if best is not None:
            ratio = _ratio(measured, figure, best)
            found = f"{ratio:.2f} × {measured.labels[best]}'s"
            lines.append(Judged("many", f"{words} under every peer's", found, ratio < 1))
    return lines


def _writers(measured: Measured) -> list[Judged]:
    at_32, at_1 = (_ratio(measured, f"fk_{clients}", "none") for clients in (32, 1))
    notify = _ratio(measured, "fk_32", "notify")
    return [
        Judged("writers", "32 clients: 65 % of no trigger", f"{at_32:.0%}", at_32 >= 0.65),
        Judged("writers", "32 clients: 2 × the NOTIFY trigger", f"{notify:.1f} ×", notify >= 2),
        Judged("writers", "1 client: 80 % of no trigger", f"{at_1:.0%}", at_1 >= 0.8),
    ]


def _idle(measured: Measured) -> list[Judged]:
    size = _value(measured, OURS, "kb_per_connection")
    return [Judged("idle", "8.5 kB per connection or less", f"{size:.1f} kB", size <= 8.5)]


def _connect(measured: Measured) -> list[Judged]:
    lines = []
    for peer, least in (("tornado", 1.0), ("websockets", 0.7)):
        if peer in measured.rounds:
            ratio = _ratio(measured, "handshakes_per_s", peer)
            goal = f"{least:g} × the handshakes/s of {measured.labels[peer]}, which checks nothing"
            lines.append(Judged("connect", goal, f"{ratio:.2f} ×", ratio >= least))
    return lines


def _return(measured: Measured) -> list[Judged]:
    best = measured.best_peer("return_seconds", highest=False)
    found = f"{_value(measured, OURS, 'return_seconds'):.1f} s"
    if best is not None:
        ratio = _ratio(measured, "return_seconds", best)
        found += f", {ratio:.2f} × {measured.labels[best]}'s"
    return [Judged("return", "said", found, None)]


def _storm(measured: Measured) -> list[Judged]:
    found = (
        f"{_value(measured, OURS, 'storm_seconds'):.1f} s,"
        f" {_value(measured, OURS, 'log_queries'):,.0f} reads of the past"
    )
    goal = "said; log queries do not grow with sockets × events"
    lines = [Judged("storm", goal, found, None)]
    if "bare" in measured.rounds:
        ratio = _ratio(measured, "storm_seconds", "bare")
        goal = "at most twice as long as a bare sender of as many bytes"
        lines.append(Judged("storm", goal, f"{ratio:.1f} ×", ratio <= 2))
    return lines


def _soak(measured: Measured) -> list[Judged]:
    growth = {
        figure: _value(measured, OURS, f"last_{figure}")
        / max(0.001, _value(measured, OURS, f"first_{figure}"))
        for figure in ("log_mb", "memory_mb", "p99_ms")
    }
    found = ", ".join(
        f"{words} {growth[figure]:.2f} ×"
        for figure, words in (("log_mb", "log"), ("memory_mb", "memory"), ("p99_ms", "p99"))
    )
    is_flat = growth["log_mb"] <= 1.2 and growth["memory_mb"] <= 1.1 and growth["p99_ms"] <= 1.5
    return [Judged("soak", "flat: the end against the beginning", found, is_flat)]
