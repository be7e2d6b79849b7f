"""The event log, the doorbell and the functions that any SQL may call."""

from __future__ import annotations

from migrations.scripts import run_scripts

revision = "core_0001"
down_revision = None
branch_labels = ("core",)
depends_on = None


def upgrade() -> None:
    run_scripts(
        "0001/core/events",
        "0001/core/retention",
        "0001/core/doorbell",
        "0001/core/connections",
        "0001/core/values",
        "0001/core/contract",
        "0001/core/rights",
    )


def downgrade() -> None:
    run_scripts("0001/core/down")
