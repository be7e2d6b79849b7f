"""The alerts and the dashboard in docs ask for metrics that there are, and alerts do what they say.

promtool, which comes with Prometheus, checks the rules and runs their own tests.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.test_prometheus import scraped, some_metrics
from tests.waiting import LIMIT

DOCS = Path(__file__).parents[2] / "docs"
RULES = DOCS / "prometheus" / "rules.yml"
RULES_TEST = DOCS / "prometheus" / "rules_test.yml"
DASHBOARD = json.loads((DOCS / "grafana" / "dashboard.json").read_text("utf-8"))
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text("utf-8"))


def asked_for(text: str) -> set[str]:
    return set(re.findall(r"\brealtime_\w+", text))


def test_the_alerts_and_the_dashboard_ask_for_metrics_that_there_are() -> None:
    """A misspelt name would be an alert that never fires."""
    there = {sample.name for sample in scraped(some_metrics()).samples}
    targets = [one["expr"] for panel in DASHBOARD["panels"] for one in panel["targets"]]
    assert asked_for(RULES.read_text("utf-8")) - there == set()
    assert asked_for(" ".join(targets)) - there == set()


def test_the_dashboard_shows_every_metric() -> None:
    """What says when a process started and what it is called stays in tables."""
    shown = asked_for(json.dumps(DASHBOARD))
    there = {
        one.name for one in scraped(some_metrics()).samples if not one.name.endswith("_created")
    }
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in there}
    missing = families - {re.sub(r"_bucket$", "", name) for name in shown}
    assert missing == {"realtime_start_time_seconds", "realtime_node_info", "realtime_log_rows"}


def test_no_panel_lies_on_another() -> None:
    """Each has a place of its own in the 24 columns."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (at["x"] + column, at["y"] + row) for column in range(at["w"]) for row in range(at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_every_alert_has_an_example_that_fires_and_one_that_does_not() -> None:
    """By name, in the file that promtool runs."""
    names = re.findall(r"- name: (\w+) (fires|does not)\n", RULES_TEST.read_text("utf-8"))
    assert names == [(alert, what) for alert in ALERTS for what in ("fires", "does not")]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (apt: prometheus) is not there")
@pytest.mark.parametrize("command", [("check", RULES), ("test", RULES_TEST)], ids=str)
def test_promtool_agrees(command: tuple[str, Path]) -> None:
    """With the syntax of the rules, and with what each of their tests expects."""
    what, path = command
    done = subprocess.run(
        ["promtool", what, "rules", str(path)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
