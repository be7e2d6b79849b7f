"""That the benchmarks run. No timing is asserted: machines are noisy, and tests must not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from realtime.embedded.server import EmbeddedPostgres
from tests.benchmarks.bench import run
from tests.benchmarks.charts import write_charts
from tests.benchmarks.contenders import THIS
from tests.benchmarks.database import Database
from tests.benchmarks.packages import Packages
from tests.benchmarks.report import section, summary
from tests.benchmarks.results import Results, read_results, write_results
from tests.benchmarks.scenarios import SCENARIOS, Bench

MEASURED = ("burst", "storm")


@pytest.fixture(scope="module")
def results(postgres: EmbeddedPostgres) -> Results:
    """Two tiny scenarios, this server alone."""
    database = Database(postgres)
    database.make()
    bench = Bench(database, Packages(print), True, 0, print)
    return run(
        bench,
        [SCENARIOS[name] for name in MEASURED],
        rounds=1,
        only=frozenset({THIS.name}),
        command="",
        machine={},
    )


def test_every_delivery_of_a_burst_is_counted(results: Results) -> None:
    """The load generator sees all events of a burst, and figures come out of it."""
    (figures,) = results["burst"].rounds[THIS.name]
    assert figures["missing"] == 0
    assert figures["lost_sockets"] == 0
    assert min(figures["deliveries_per_s"], figures["p99_ms"], figures["seconds"]) > 0


def test_every_socket_of_a_storm_gets_its_past(results: Results) -> None:
    """Sockets that come back at once with old cursors are all sent what they missed."""
    (figures,) = results["storm"].rounds[THIS.name]
    assert figures["missing"] == 0
    assert figures["storm_seconds"] > 0


def test_results_survive_a_file_and_become_tables_and_charts(
    results: Results, tmp_path: Path
) -> None:
    """What was measured is written, read again, and shown."""
    write_results(tmp_path / "results.json", results)
    read = read_results(tmp_path / "results.json")
    assert read == results
    assert "this server" in section("burst", read["burst"])
    assert "Storm" in summary(read)
    written = write_charts(tmp_path, {"wide": read["burst"], "many": read["burst"]})
    assert [one.name for one in written] == ["many.svg", "deliveries.svg"]
    assert "deliveries per second" in written[1].read_text().lower()
    p99 = read["burst"].median(THIS.name, "p99_ms")
    assert f"{p99:,.1f} ms" in written[0].read_text()
