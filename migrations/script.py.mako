"""${message}."""

from __future__ import annotations

from migrations.scripts import mark, run_scripts, unmark

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    run_scripts()
    mark(revision, "the release", serves_from=${repr(down_revision)})


def downgrade() -> None:
    unmark(revision)
    run_scripts()
