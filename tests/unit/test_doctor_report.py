"""How findings are told: to people, to programs, to scripts."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from realtime.doctor.report import Line, Report, fine, listed, problem, span, warning
from realtime.doctor.server import judge_version


def report(*findings: Any) -> Report:
    return Report([Line(f"check {n}", one) for n, one in enumerate(findings)], [])


def plain(one: Report) -> list[str]:
    return click.unstyle(one.text()).splitlines()


def test_every_finding_is_a_line_and_its_cure_another() -> None:
    """Aligned, and a summary last."""
    lines = Report(
        [Line("one", fine("good")), Line("another", problem("bad", "mend it"))], ["the rest"]
    )
    assert plain(lines) == [
        "✓ one      good",
        "✗ another  bad",
        "           → mend it",
        "",
        "1 problem, no warnings; not looked at until that is put right: the rest",
    ]


def test_lines_fit_a_terminal() -> None:
    """A text goes on below its beginning, and no word is cut. Elsewhere a finding stays a line."""
    address = "https://example.org/" + "x" * 60
    long = Report([Line("one", problem("word " * 30 + "end", address))], ["a"] * 40)
    lines = click.unstyle(long.text(60)).splitlines()
    assert all(len(line) <= 60 for line in lines if address not in line)
    assert [line[:7] for line in lines[:3]] == ["✗ one  ", " " * 7, " " * 7]
    assert f"       → {address}" in lines
    assert plain(long)[0] == f"✗ one  {'word ' * 30}end"
    assert "       word word word word" in click.unstyle(long.text(5)).splitlines()


def test_a_well_deployment_is_said_to_be() -> None:
    """In the summary."""
    assert plain(report(fine("good")))[-1] == "all is well"


@pytest.mark.parametrize(
    ("findings", "code"),
    [([fine("a")], 0), ([fine("a"), warning("b", "c")], 0), ([problem("b", "c"), fine("a")], 1)],
)
def test_problems_alone_fail_a_script(findings: list[Any], code: int) -> None:
    """Warnings do not."""
    assert report(*findings).exit_code == code


def test_json_says_the_same() -> None:
    """Levels by name, and what to do."""
    document = json.loads(report(warning("odd", "look")).json())
    assert document == {
        "problems": 0,
        "warnings": 1,
        "checks": [{"check": "check 0", "level": "warning", "said": "odd", "do": "look"}],
        "skipped": [],
    }


def test_an_old_server_is_a_problem() -> None:
    """PostgreSQL 15 is the oldest."""
    assert judge_version(140_011).said == "PostgreSQL 14.11 is too old"
    assert judge_version(150_000) == fine("PostgreSQL 15.0")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (90, "90 s"), (300, "5 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_spans_have_one_unit(seconds: float, text: str) -> None:
    """As people say them."""
    assert span(seconds) == text


def test_long_lists_are_cut() -> None:
    """With how many more there are."""
    assert listed(["a", "b"]) == "a, b"
    assert listed([*"abcdefg"]) == "a, b, c, d, e and 2 more"
