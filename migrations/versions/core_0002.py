"""Release 0.2.0: signed cursors that know their history; which older processes are served."""

from __future__ import annotations

from migrations.scripts import mark, run_scripts

revision = "core_0002"
down_revision = "core_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_scripts(
        "0002/core/hold_writers",
        "0002/core/releases",
        "0002/core/log",
        "0002/core/floor",
        "0002/core/cursor",
        "0002/core/turns",
        "0002/core/channels",
        "0002/core/connections",
        "0002/core/values",
        "0002/core/marks",
        "0002/core/contract",
        "0002/core/rights",
    )
    mark(revision, "0.2.0", serves_from=revision)


def downgrade() -> None:
    run_scripts("0002/core/down")
