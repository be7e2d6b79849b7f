"""How figures are called and written, and which of each scenario's stand in its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Figure:
    """A column.

    Attributes:
        better: which way is better; None: the figure explains, and is not compared.
    """

    heading: str
    form: str
    better: str | None = None

    def show(self, value: float) -> str:
        return self.form.format(value)


FIGURES: Final = {
    "deliveries_per_s": Figure("deliveries/s", "{:,.0f}", "high"),
    "p50_ms": Figure("p50", "{:,.1f} ms", "low"),
    "p99_ms": Figure("p99", "{:,.1f} ms", "low"),
    "cpu_us": Figure("CPU per delivery", "{:,.1f} µs", "low"),
    "seconds": Figure("all delivered after", "{:,.2f} s"),
    "written_seconds": Figure("all written after", "{:,.2f} s"),
    "server_busy": Figure("server busy", "{:.0%}"),
    "generator_busy": Figure("generator busy", "{:.0%}"),
    "handshakes_per_s": Figure("handshakes/s", "{:,.0f}", "high"),
    "handshake_cpu_us": Figure("CPU of a handshake", "{:,.0f} µs", "low"),
    "return_seconds": Figure("until all are back", "{:,.2f} s", "low"),
    "kb_per_subscription": Figure("kB per bot watched", "{:,.1f}", "low"),
    "kb_per_connection": Figure("kB per connection", "{:,.1f}", "low"),
    "storm_seconds": Figure("until all have everything", "{:,.1f} s"),
    "let_in_seconds": Figure("until all are let in", "{:,.1f} s"),
    "deliveries": Figure("deliveries", "{:,.0f}"),
    "missing": Figure("missing", "{:,.0f}"),
    "lost_sockets": Figure("sockets lost", "{:,.0f}"),
    "log_queries": Figure("reads of the log's past", "{:,.0f}"),
    "transactions": Figure("transactions in all", "{:,.0f}"),
    "server_cpu_seconds": Figure("server's CPU", "{:,.1f} s"),
    "memory_growth_mb": Figure("memory added", "{:,.0f} MB"),
    "soak_seconds": Figure("duration", "{:,.0f} s"),
    "first_p99_ms": Figure("p99, first minute", "{:,.1f} ms"),
    "last_p99_ms": Figure("p99, last minute", "{:,.1f} ms"),
    "first_log_mb": Figure("log, 2nd quarter", "{:,.1f} MB"),
    "last_log_mb": Figure("log, 4th quarter", "{:,.1f} MB"),
    "first_memory_mb": Figure("memory, 2nd quarter", "{:,.1f} MB"),
    "last_memory_mb": Figure("memory, 4th quarter", "{:,.1f} MB"),
    **{
        f"{kind}_{rate}": Figure(f"{words}, {rate} a second", "{:,.0f} µs")
        for kind, words in (("process", "process"), ("postgres", "PostgreSQL"))
        for rate in (20, 200, 1000)
    },
    **{
        f"{table}_{clients}": Figure(f"{clients}, {words}", "{:,.0f}", "high")
        for table, words in (("fk", "reference"), ("bare", "bare table"))
        for clients in (1, 8, 32, 64)
    },
}

_BURST: Final = (
    "deliveries_per_s",
    "p99_ms",
    "written_seconds",
    "seconds",
    "server_busy",
    "generator_busy",
)
COLUMNS: Final = {
    "quiet": ("p50_ms", "p99_ms"),
    "burst": _BURST,
    "wide": _BURST,
    "steady": ("cpu_us", "p50_ms", "p99_ms", "generator_busy"),
    "many": ("p99_ms", "cpu_us", "p50_ms", "server_busy", "generator_busy"),
    "ways": ("cpu_us", "p50_ms", "p99_ms", "kb_per_subscription", "generator_busy"),
    "writers": tuple(
        f"{table}_{clients}" for table in ("fk", "bare") for clients in (1, 8, 32, 64)
    ),
    "cluster": tuple(
        f"{kind}_{rate}" for kind in ("process", "postgres") for rate in (20, 200, 1000)
    ),
    "idle": ("kb_per_connection",),
    "connect": ("handshakes_per_s", "handshake_cpu_us"),
    "return": ("return_seconds", "handshake_cpu_us"),
    "storm": (
        "storm_seconds",
        "let_in_seconds",
        "log_queries",
        "transactions",
        "server_cpu_seconds",
        "memory_growth_mb",
        "generator_busy",
    ),
    "soak": (
        "soak_seconds",
        "first_p99_ms",
        "last_p99_ms",
        "first_log_mb",
        "last_log_mb",
        "first_memory_mb",
        "last_memory_mb",
    ),
}
