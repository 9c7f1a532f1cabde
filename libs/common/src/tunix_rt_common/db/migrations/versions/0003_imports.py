"""Runs that were trained elsewhere and imported as a bundle."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("runs") as batch_op:
        batch_op.add_column(sa.Column("bundle_sha256", sa.String(length=64), nullable=True))
        batch_op.create_unique_constraint(batch_op.f("uq_runs_bundle_sha256"), ["bundle_sha256"])


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("runs") as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_runs_bundle_sha256"), type_="unique")
        batch_op.drop_column("bundle_sha256")
