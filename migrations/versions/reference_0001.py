"""The platform's tables, who may watch what, and the triggers that write the log."""

from __future__ import annotations

from migrations.scripts import run_scripts, run_templates

revision = "reference_0001"
down_revision = None
branch_labels = ("reference",)
depends_on = "core_0001"


def upgrade() -> None:
    run_scripts("reference/tables")
    run_templates()
    run_scripts("reference/rights")


def downgrade() -> None:
    run_scripts("reference/down")
