"""Where the benchmarks find their files, and keep what they make."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEERS = HERE / "peers"
SQL = HERE / "sql"
DATA = ROOT / ".data" / "bench"
LOGS = DATA / "logs"
RESULTS = DATA / "results.json"
DOCUMENT = ROOT / "docs" / "performance.md"
CHARTS = ROOT / "docs" / "charts"
