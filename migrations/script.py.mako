"""${message}."""

from __future__ import annotations

from migrations.scripts import run_scripts

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    run_scripts()


def downgrade() -> None:
    run_scripts()
