"""What a reader must know of the machine and the versions to make sense of the figures."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from tests.benchmarks.database import Database


def describe(database: Database) -> dict[str, str]:
    """Processor, memory, system, and what is run on it."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, all on loopback",
        "load when it began": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "Node": _node(),
        "PostgreSQL": f"{database.version()}, durable: `fsync` and `synchronous_commit` are on",
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo").read_text()
    names = [line for line in information.splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        return "none"
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    return answer.stdout.strip()
