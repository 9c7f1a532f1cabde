"""Projects, priorities, deadlines, traces, idempotency keys and multipart uploads."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency_keys")),
    )
    with op.batch_alter_table("idempotency_keys") as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_keys_created_at"), ["created_at"], unique=False)

    op.create_table(
        "project_shares",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "kind", name=op.f("pk_project_shares")),
    )
    op.create_table(
        "spans",
        sa.Column("trace_id", sa.String(length=32), nullable=False),
        sa.Column("span_id", sa.String(length=16), nullable=False),
        sa.Column("parent_span_id", sa.String(length=16), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("service", sa.String(length=64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("links", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("trace_id", "span_id", name=op.f("pk_spans")),
    )
    with op.batch_alter_table("spans") as batch_op:
        batch_op.create_index(batch_op.f("ix_spans_started_at"), ["started_at"], unique=False)

    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    with op.batch_alter_table("uploads") as batch_op:
        batch_op.create_index(batch_op.f("ix_uploads_started_at"), ["started_at"], unique=False)

    with op.batch_alter_table("checkpoints") as batch_op:
        batch_op.add_column(sa.Column("validation_loss", sa.Double(), nullable=True))

    with op.batch_alter_table("job_attempts") as batch_op:
        batch_op.add_column(sa.Column("traceparent", sa.String(length=55), nullable=True))

    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("project", sa.String(length=64), server_default="default", nullable=False))
        batch_op.add_column(sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("pause_requested_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("traceparent", sa.String(length=55), nullable=True))
        batch_op.drop_index(batch_op.f("ix_jobs_state_not_before"))
        batch_op.create_index("ix_jobs_project_state", ["project", "state"], unique=False)
        batch_op.create_index("ix_jobs_state_kind_not_before", ["state", "kind", "not_before"], unique=False)

    with op.batch_alter_table("outbox") as batch_op:
        batch_op.add_column(sa.Column("traceparent", sa.String(length=55), nullable=True))
        batch_op.add_column(sa.Column("taken_until", sa.DateTime(timezone=True), nullable=True))

    with op.batch_alter_table("runs") as batch_op:
        batch_op.add_column(sa.Column("project", sa.String(length=64), server_default="default", nullable=False))
        batch_op.add_column(sa.Column("traceparent", sa.String(length=55), nullable=True))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("runs") as batch_op:
        batch_op.drop_column("traceparent")
        batch_op.drop_column("project")

    with op.batch_alter_table("outbox") as batch_op:
        batch_op.drop_column("taken_until")
        batch_op.drop_column("traceparent")

    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_index("ix_jobs_state_kind_not_before")
        batch_op.drop_index("ix_jobs_project_state")
        batch_op.create_index(batch_op.f("ix_jobs_state_not_before"), ["state", "not_before"], unique=False)
        batch_op.drop_column("traceparent")
        batch_op.drop_column("deadline_at")
        batch_op.drop_column("pause_requested_at")
        batch_op.drop_column("priority")
        batch_op.drop_column("project")

    with op.batch_alter_table("job_attempts") as batch_op:
        batch_op.drop_column("traceparent")

    with op.batch_alter_table("checkpoints") as batch_op:
        batch_op.drop_column("validation_loss")

    with op.batch_alter_table("uploads") as batch_op:
        batch_op.drop_index(batch_op.f("ix_uploads_started_at"))

    op.drop_table("uploads")
    with op.batch_alter_table("spans") as batch_op:
        batch_op.drop_index(batch_op.f("ix_spans_started_at"))

    op.drop_table("spans")
    op.drop_table("project_shares")
    with op.batch_alter_table("idempotency_keys") as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_keys_created_at"))

    op.drop_table("idempotency_keys")
