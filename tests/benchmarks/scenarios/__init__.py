"""What is measured: one module per kind of scenario, and the list of all."""

from tests.benchmarks.scenarios.base import Bench, Figures, Scenario
from tests.benchmarks.scenarios.cluster import CLUSTER
from tests.benchmarks.scenarios.delivery import DELIVERIES
from tests.benchmarks.scenarios.soak import SOAK
from tests.benchmarks.scenarios.sockets import CONNECT, IDLE, RETURN
from tests.benchmarks.scenarios.storm import STORM
from tests.benchmarks.scenarios.ways import WAYS
from tests.benchmarks.scenarios.writers import WRITERS

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (*DELIVERIES, WAYS, WRITERS, CLUSTER, IDLE, CONNECT, RETURN, STORM, SOAK)
}

__all__ = ["SCENARIOS", "Bench", "Figures", "Scenario"]
