"""Release 0.2.0: the triggers and access functions, as in the templates."""

from __future__ import annotations

from migrations.scripts import mark, replace_scripts, run_scripts, unmark

revision = "reference_0002"
down_revision = "reference_0001"
branch_labels = None
depends_on = "core_0002"


def upgrade() -> None:
    run_scripts("0002/reference/rendered", "0002/reference/dropped", "0002/reference/rights")
    mark(revision, "0.2.0", serves_from=revision)


def downgrade() -> None:
    unmark(revision)
    replace_scripts("0001/reference/rendered")
    run_scripts("0002/reference/down", "0001/reference/rights")
