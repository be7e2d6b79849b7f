"""The charts, as SVG written by hand: readable on a light page and on a dark one."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from tests.benchmarks.goals import OURS
from tests.benchmarks.results import Measured, Results

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .quiet { fill: #57606a }
  .axis { stroke: #d0d7de }
  .bar, .dot1 { fill: #8c959f } .ours, .dot0 { fill: #0969da } .dot2 { fill: #1a7f37 }
  .worst { opacity: 0.45 }
  .line { fill: none; stroke-width: 2.5 }
  .line0 { stroke: #0969da } .line1 { stroke: #8c959f } .line2 { stroke: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #9198a1 } .axis { stroke: #3d444d }
    .bar, .dot1 { fill: #6e7681 } .ours, .dot0 { fill: #4493f8 } .dot2 { fill: #3fb950 }
    .line0 { stroke: #4493f8 } .line1 { stroke: #6e7681 } .line2 { stroke: #3fb950 }
  }
"""
WIDTH = 720
LABELS = 210
BAR = 26
CLIENTS = (1, 8, 32, 64)
SERIES = ("realtime", "notify", "none")
PLOT_HEIGHT = 260


def write_charts(directory: Path, results: Results) -> list[Path]:
    """Write the charts for which there are results."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for scenario, (name, draw) in CHARTS.items():
        if scenario in results:
            written.append(directory / name)
            written[-1].write_text(draw(results[scenario]), encoding="utf-8")
    return written


def deliveries_chart(measured: Measured) -> str:
    """A bar for everybody: deliveries a second in the wide burst."""
    values = {who: measured.median(who, "deliveries_per_s") or 0.0 for who in measured.rounds}
    most = max(values.values(), default=0.0) or 1.0
    parts = [_text(0, 18, "Deliveries per second", "title"), _text(0, 38, measured.load, "quiet")]
    ranked = sorted(values.items(), key=lambda item: -item[1])
    for row, (who, value) in enumerate(ranked):
        top = 58 + row * (BAR + 10)
        width = max(2.0, (WIDTH - LABELS - 90) * value / most)
        kind = "ours" if who == OURS else "bar"
        parts.append(_text(LABELS - 10, top + 18, measured.labels[who], anchor="end"))
        size = f'width="{width:.1f}" height="{BAR}" rx="3"'
        parts.append(f'<rect class="{kind}" x="{LABELS}" y="{top}" {size}/>')
        parts.append(_text(LABELS + width + 8, top + 18, f"{value:,.0f}"))
    return _svg(58 + len(ranked) * (BAR + 10), parts, "Deliveries per second, by server")


def delays_chart(measured: Measured) -> str:
    """Two bars for everybody: how long the typical and the slowest deliveries took."""
    delays = {
        who: [measured.median(who, figure) or 0.0 for figure in ("p50_ms", "p99_ms")]
        for who in measured.rounds
    }
    most = max((max(both) for both in delays.values()), default=0.0) or 1.0
    parts = [
        _text(0, 18, "From INSERT to client: half of the deliveries, and 99 of 100", "title"),
        _text(0, 38, measured.load, "quiet"),
    ]
    for row, (who, both) in enumerate(sorted(delays.items(), key=lambda item: item[1])):
        top = 58 + row * (BAR + 14)
        kind = "ours" if who == OURS else "bar"
        parts.append(_text(LABELS - 10, top + 18, measured.labels[who], anchor="end"))
        for place, value in enumerate(both):
            y = top + place * BAR / 2
            width = max(2.0, (WIDTH - LABELS - 90) * value / most)
            fade = " worst" if place else ""
            size = f'width="{width:.1f}" height="{BAR / 2 - 1:.1f}" rx="2"'
            parts.append(f'<rect class="{kind}{fade}" x="{LABELS}" y="{y:.1f}" {size}/>')
            parts.append(_text(LABELS + width + 8, y + 11, f"{value:,.1f} ms"))
    title = "Milliseconds from INSERT to client, by server"
    return _svg(58 + len(delays) * (BAR + 14), parts, title)


def commits_chart(measured: Measured) -> str:
    """A line for each kind of trigger: commits a second against the number of writers."""
    lines = [
        [measured.median(who, f"fk_{clients}") or 0.0 for clients in CLIENTS] for who in SERIES
    ]
    most = max((value for line in lines for value in line), default=0.0) or 1.0
    parts = [
        _text(0, 18, "Commits per second, by concurrent writers", "title"),
        _text(0, 38, "INSERT into messages, the reference tables with foreign keys", "quiet"),
    ]
    bottom = 60 + PLOT_HEIGHT
    step = (WIDTH - LABELS - 70) / (len(CLIENTS) - 1)
    parts.append(f'<path class="axis" d="M50 {bottom}H{WIDTH - LABELS}"/>')
    for place, clients in enumerate(CLIENTS):
        parts.append(_text(60 + place * step, bottom + 20, str(clients), "quiet", "middle"))
    ends = _spread([bottom - PLOT_HEIGHT * line[-1] / most for line in lines])
    for number, (who, line) in enumerate(zip(SERIES, lines, strict=True)):
        points = [
            (60 + place * step, bottom - PLOT_HEIGHT * value / most)
            for place, value in enumerate(line)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line line{number}" points="{path}"/>')
        parts += [
            f'<circle class="dot{number}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points
        ]
        label = f"{measured.labels[who]}: {line[-1]:,.0f}"
        parts.append(_text(WIDTH - LABELS + 5, ends[number] + 4, label))
    return _svg(bottom + 30, parts, "Commits per second, by number of writers")


CHARTS: dict[str, tuple[str, Callable[[Measured], str]]] = {
    "quiet": ("quiet.svg", delays_chart),
    "many": ("many.svg", delays_chart),
    "wide": ("deliveries.svg", deliveries_chart),
    "writers": ("commits.svg", commits_chart),
}
"""By scenario: a file, and what draws it."""


def _spread(heights: list[float]) -> list[float]:
    """Places for labels near these heights that do not overlap."""
    placed: dict[int, float] = {}
    lowest = float("-inf")
    for number in sorted(range(len(heights)), key=lambda index: heights[index]):
        placed[number] = lowest = max(heights[number], lowest + 18)
    return [placed[number] for number in range(len(heights))]


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(words.replace('`', ''))}</text>"
    )


def _svg(height: float, parts: list[str], title: str) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}"'
        f' role="img" aria-label="{escape(title)}">\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )
