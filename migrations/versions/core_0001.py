"""The event log, the doorbell and the functions that any SQL may call."""

from __future__ import annotations

from migrations.scripts import run_scripts

revision = "core_0001"
down_revision = None
branch_labels = ("core",)
depends_on = None


def upgrade() -> None:
    run_scripts(
        "core/events",
        "core/retention",
        "core/doorbell",
        "core/connections",
        "core/values",
        "core/contract",
        "core/rights",
    )


def downgrade() -> None:
    run_scripts("core/down")
