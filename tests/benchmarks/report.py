"""The tables, in Markdown: for the terminal, and for docs/performance.md between its markers."""

from __future__ import annotations

from tests.benchmarks.figures import COLUMNS, FIGURES
from tests.benchmarks.goals import OURS, Judged, judge
from tests.benchmarks.results import Measured, Results
from tests.benchmarks.scenarios import SCENARIOS

BEGIN = "<!-- written by bin/bench --write-docs: begin -->"
END = "<!-- written by bin/bench --write-docs: end -->"


def summary(results: Results) -> str:
    """The goals, each with what was found."""
    rows = [
        [
            SCENARIOS[line.scenario].title,
            line.figure,
            line.must,
            line.aim,
            line.found,
            _verdict(line),
        ]
        for line in judge(results)
    ]
    return _table(["scenario", "figure", "must be", "aim", "found", "result"], rows)


def _verdict(line: Judged) -> str:
    if line.is_met is None:
        return "no goal"
    if not line.is_met:
        return "**missed**"
    return "met, aim too" if line.aim and line.is_reached else "met"


def section(name: str, measured: Measured) -> str:
    """One scenario: its load, and a row for everybody."""
    columns = [
        figure
        for figure in COLUMNS[name]
        if any(measured.median(who, figure) is not None for who in measured.rounds)
    ]
    headings = ["", *(FIGURES[figure].heading for figure in columns)]
    rows = [[measured.labels[who], *_cells(measured, who, columns)] for who in measured.rounds]
    rounds = max(map(len, measured.rounds.values()), default=0)
    words = f"medians of {rounds} rounds" if rounds > 1 else "one round"
    parts = [f"### {SCENARIOS[name].title}", f"{measured.load}; {words}.", _table(headings, rows)]
    parts += [
        f"Not measured: {measured.labels[who]}: {why}." for who, why in measured.skipped.items()
    ]
    if incomplete := _incomplete(measured):
        parts.append(incomplete)
    return "\n\n".join(parts)


def _cells(measured: Measured, who: str, columns: list[str]) -> list[str]:
    """A contender's medians, each with its ratio to ours."""
    cells = []
    for name in columns:
        value, ours = measured.median(who, name), measured.median(OURS, name)
        if value is None:
            cells.append("")
            continue
        cell = FIGURES[name].show(value)
        if FIGURES[name].better and who != OURS and ours:
            cell += f" ({_times(value / ours)})"
        cells.append(cell)
    return cells


def _times(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"


def _incomplete(measured: Measured) -> str:
    """A note on who did not deliver everything, which no median would show."""
    notes = []
    for who, rounds in measured.rounds.items():
        missing = max((figures.get("missing", 0) for figures in rounds), default=0)
        if missing > 0:
            notes.append(f"{measured.labels[who]} {missing:,.0f}")
    found = "; ".join(notes)
    return f"Deliveries still missing when the measurement was ended: {found}." if notes else ""


def document_part(results: Results) -> str:
    """Everything of docs/performance.md that comes from a run."""
    first = next(iter(results.values()))
    machine = "\n".join(f"- {key}: {value}" for key, value in first.machine.items())
    runs = sorted({(each.when, each.command) for each in results.values()})
    commands = "\n".join(f"- `{command}`, {when}" for when, command in runs)
    sections = "\n\n".join(section(name, results[name]) for name in SCENARIOS if name in results)
    return "\n\n".join(
        (
            "## Goals",
            summary(results),
            "## Machine and command",
            machine,
            commands,
            "## Figures",
            "In brackets: the ratio to this server's figure in the same run.",
            sections,
        )
    )


def with_part(document: str, part: str) -> str:
    """The document with its generated part replaced.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("docs/performance.md has lost its markers")
    return f"{before}{begin}\n\n{part}\n\n{end}{after}"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns are aligned in a terminal, too."""
    lines = [headings, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(headings))]
    shown = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    rule = "| " + " | ".join("-" * max(3, width) for width in widths) + " |"
    return "\n".join([shown[0], rule, *shown[1:]])
