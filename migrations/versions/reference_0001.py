"""The platform's tables, who may watch what, and the triggers that write the log."""

from __future__ import annotations

from migrations.scripts import run_scripts

revision = "reference_0001"
down_revision = None
branch_labels = ("reference",)
depends_on = "core_0001"


def upgrade() -> None:
    run_scripts("0001/reference/tables", "0001/reference/rendered", "0001/reference/rights")


def downgrade() -> None:
    run_scripts("0001/reference/down")
