"""Every table. `jobs.state` and `runs.state` are written by `pipeline` alone."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tunix_rt_common.ids import new_id

Document = dict[str, Any]


def utc_now() -> datetime:
    """This process's clock, aware. For records only: leases go by the database's clock."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time, also on databases that store none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse naive times; store UTC."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"naive time {value}: make it aware")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give UTC back to what SQLite stored without it."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


BIG_ID = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Naming conventions make constraints addressable by migrations on every dialect."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime,
        Document: JSON,
        UUID: Uuid,
        str: Text,
    }


class TraceRow(Base):
    """One reasoning trace, stored once however often it is imported."""

    __tablename__ = "traces"
    __table_args__ = (Index("ix_traces_source_id", "source", "id"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    content_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    prompt_sha256: Mapped[str] = mapped_column(String(64), index=True)
    source: Mapped[str | None] = mapped_column(String(200))
    document: Mapped[Document]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class DatasetRecord(Base):
    """An immutable dataset version: pinned selection first, manifest once its build job has succeeded."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("name", "version"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    spec: Mapped[Document]
    newest_trace_id: Mapped[UUID | None]
    manifest_sha256: Mapped[str | None] = mapped_column(String(64))
    dataset_sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class RunRecord(Base):
    """The user's story: what was asked, what was pinned, how it goes."""

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_state_created", "state", "created_at"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    spec: Mapped[Document]
    pins: Mapped[Document]
    labels: Mapped[Document] = mapped_column(default=dict)
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id"))
    bundle_sha256: Mapped[str | None] = mapped_column(String(64), unique=True)
    """Of the bundle that the run was imported from; None where it was trained here, or ended badly and was redone."""
    project: Mapped[str] = mapped_column(String(64), default="default", server_default="default")
    traceparent: Mapped[str | None] = mapped_column(String(55))
    state: Mapped[str] = mapped_column(String(16))
    stage: Mapped[str] = mapped_column(String(16))
    failure: Mapped[str | None]
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    logs_sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobRecord(Base):
    """The one thing that is claimed, leased, fenced, retried and cancelled."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("(state = 'running') = (claim_id IS NOT NULL)", name="running_is_claimed"),
        Index("ix_jobs_state_kind_not_before", "state", "kind", "not_before"),
        Index("ix_jobs_project_state", "project", "state"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str] = mapped_column(String(16))
    project: Mapped[str] = mapped_column(String(64), default="default", server_default="default")
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id"), index=True)
    dataset_id: Mapped[UUID | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    payload: Mapped[Document]
    state: Mapped[str] = mapped_column(String(16))
    claim_id: Mapped[UUID | None]
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    counted_attempts: Mapped[int] = mapped_column(default=0)
    stalled_attempts: Mapped[int] = mapped_column(default=0)
    last_ended_step: Mapped[int | None]
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[datetime | None]
    not_before: Mapped[datetime]
    rung_at: Mapped[datetime]
    cancel_requested_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]
    timeout_s: Mapped[float | None]
    traceparent: Mapped[str | None] = mapped_column(String(55))
    result: Mapped[Document | None]
    failure_class: Mapped[str | None] = mapped_column(String(32))
    failure: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class AttemptRecord(Base):
    """One claim of a job, from its start to its end."""

    __tablename__ = "job_attempts"
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    claim_id: Mapped[UUID] = mapped_column(unique=True)
    worker: Mapped[str] = mapped_column(String(200))
    traceparent: Mapped[str | None] = mapped_column(String(55))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]


class EventRecord(Base):
    """The story, append-only: state changes and what happened between them."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True, autoincrement=True)
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id"), index=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), index=True)
    job_kind: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int]
    kind: Mapped[str] = mapped_column(String(32))
    from_state: Mapped[str | None] = mapped_column(String(16))
    to_state: Mapped[str | None] = mapped_column(String(16))
    message: Mapped[str]
    detail: Mapped[Document]
    at: Mapped[datetime] = mapped_column(default=utc_now)


class OutboxRecord(Base):
    """A doorbell to ring, written in the transaction that made it necessary."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_published_at_due_at", "published_at", "due_at"),)
    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    traceparent: Mapped[str | None] = mapped_column(String(55))
    due_at: Mapped[datetime]
    taken_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    published_at: Mapped[datetime | None]


class ProjectShareRecord(Base):
    """When a project was last given a worker for a kind of job; the one that waits longest comes next."""

    __tablename__ = "project_shares"
    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    claimed_at: Mapped[datetime]


class IdempotencyRecord(Base):
    """A POST that was answered, so that asking again with the same key repeats the answer and not the deed."""

    __tablename__ = "idempotency_keys"
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    answer: Mapped[Document]
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)


class UploadRecord(Base):
    """A multipart upload under way; one that outlives its process is aborted by the sweeper."""

    __tablename__ = "uploads"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    key: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)


class SpanRecord(Base):
    """A finished OpenTelemetry span of a run, kept so that the waterfall needs no tracing backend."""

    __tablename__ = "spans"
    trace_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    span_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    parent_span_id: Mapped[str | None] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(200))
    service: Mapped[str] = mapped_column(String(64))
    started_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime]
    status: Mapped[str] = mapped_column(String(8))
    attributes: Mapped[Document]
    links: Mapped[Document]
    """Trace and span ids of the linked spans: `{"spans": [{"trace_id": …, "span_id": …}]}`."""


class CheckpointRecord(Base):
    """The only publication of a checkpoint: its blobs were verified before this row was written."""

    __tablename__ = "checkpoints"
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    claim_id: Mapped[UUID]
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    validation_loss: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class MetricRecord(Base):
    """What one optimizer step measured."""

    __tablename__ = "metrics"
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    numbers: Mapped[Document]
    at: Mapped[datetime] = mapped_column(default=utc_now)


class LogRecord(Base):
    """A piece of what a child wrote; raw bytes, since children write what they like."""

    __tablename__ = "logs"
    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True, autoincrement=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), index=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    stream: Mapped[str] = mapped_column(String(6))
    chunk: Mapped[bytes] = mapped_column(LargeBinary)
    at: Mapped[datetime] = mapped_column(default=utc_now)


class EvaluationRecord(Base):
    """A report in the store, with what a list of reports needs to show."""

    __tablename__ = "evaluations"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), unique=True)
    model_sha256: Mapped[str] = mapped_column(String(64), index=True)
    report_sha256: Mapped[str] = mapped_column(String(64))
    eval_set_sha256: Mapped[str] = mapped_column(String(64), index=True)
    judge: Mapped[str] = mapped_column(String(64))
    score: Mapped[Document]
    accuracy: Mapped[float | None] = mapped_column(index=True)
    verdict_sha256: Mapped[str] = mapped_column(String(64))
    decision: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str]
    baseline_version_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelVersionRecord(Base):
    """A registered version; one run makes at most one."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("name", "version"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id"), unique=True)
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    evaluation_id: Mapped[UUID | None] = mapped_column(ForeignKey("evaluations.id"), index=True)
    metrics: Mapped[Document]
    provenance: Mapped[Document]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class AliasRecord(Base):
    """A name that points to a version, moved by compare-and-swap."""

    __tablename__ = "aliases"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    version_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    moved_at: Mapped[datetime] = mapped_column(default=utc_now)


class AliasMoveRecord(Base):
    """Every move of an alias, append-only: who was champion when."""

    __tablename__ = "alias_moves"
    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(64))
    alias: Mapped[str] = mapped_column(String(64))
    from_version: Mapped[int | None]
    to_version: Mapped[int]
    reason: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=utc_now)
