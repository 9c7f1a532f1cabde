"""Checks the invariants of the job machine from the rows alone, and from the store for what rows promise of it.

    I1   what was accepted has ended, or is owned, or waits and has been announced
    I2   nothing succeeds twice: one job of a kind, one success of a job, one version of a run
    I3   events form a legal path, which ends where the row says
    I4   fences count claims, and what an attempt has published stands in its own time
    I5   at most one claim at a time
    I6   checkpoints grow within an attempt; a later one begins at the newest that was whole
    I7   what a row names is in the store, with the right bytes
    I8   a terminal state is the last one, and the run agrees with its jobs
    I9   attempts are within their budgets
    I10  a run that was cancelled or failed has no version
    I11  all of a run belongs to one trace

I12, the same numbers as without faults, needs to know those numbers: whoever started the run compares them. Not
covered: whether a row was changed and changed back between two audits.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TypeVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunix_rt_common.db.models import (
    AttemptRecord,
    Base,
    CheckpointRecord,
    DatasetRecord,
    EvaluationRecord,
    EventRecord,
    JobRecord,
    ModelVersionRecord,
    OutboxRecord,
    RunRecord,
    SpanRecord,
)
from tunix_rt_common.db.session import Database, database_now
from tunix_rt_common.errors import NotFound, TunixError
from tunix_rt_common.pipeline import CLAIMABLE, LEGAL, TERMINAL, JobState
from tunix_rt_common.reports import CheckpointManifest, EvalReport, Verdict
from tunix_rt_common.settings import Settings
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest

Row = TypeVar("Row", bound=Base)
GRACE = timedelta(seconds=60)
"""For how long a waiting job may go unannounced, and a silent owner unnoticed."""


@dataclass
class Books:
    """All rows that the checks look at, read in one transaction."""

    now: datetime
    accepted: Collection[UUID]
    runs: list[RunRecord]
    jobs: list[JobRecord]
    datasets: list[DatasetRecord]
    evaluations: list[EvaluationRecord]
    versions: list[ModelVersionRecord]
    checkpoints: list[CheckpointRecord]
    outbox: list[OutboxRecord]
    spans: list[SpanRecord]
    attempts: dict[UUID, list[AttemptRecord]] = field(default_factory=lambda: defaultdict(list))
    events: dict[UUID, list[EventRecord]] = field(default_factory=lambda: defaultdict(list))

    def jobs_of(self, run: RunRecord) -> list[JobRecord]:
        """First to last."""
        return [job for job in self.jobs if job.run_id == run.id]

    def states_of(self, job: JobRecord) -> list[EventRecord]:
        """The events that moved the job."""
        return [event for event in self.events[job.id] if event.to_state]


def audit(
    database: Database, store: ArtifactStore, settings: Settings, *, accepted: Collection[str], settled: bool
) -> list[str]:
    """Every violation as a sentence; `settled` says that nothing should be under way any more."""
    with database.reading() as session:
        books = _read(session, [UUID(run_id) for run_id in accepted])
    found = [sentence for check in CHECKS for sentence in check(books)]
    found += _within_budgets(books, settings)
    found += _kept_by_the_store(books, store)
    if settled:
        found += [f"I1 run {run.id} is still {run.state}" for run in books.runs if run.state not in TERMINAL]
    return found


def _read(session: Session, accepted: Collection[UUID]) -> Books:
    def rows(kind: type[Row]) -> list[Row]:
        return list(session.scalars(select(kind).order_by(*kind.__table__.primary_key)))

    books = Books(
        now=database_now(session),
        accepted=accepted,
        runs=rows(RunRecord),
        jobs=rows(JobRecord),
        datasets=rows(DatasetRecord),
        evaluations=rows(EvaluationRecord),
        versions=rows(ModelVersionRecord),
        checkpoints=rows(CheckpointRecord),
        outbox=rows(OutboxRecord),
        spans=rows(SpanRecord),
    )
    for attempt in rows(AttemptRecord):
        books.attempts[attempt.job_id].append(attempt)
    for event in rows(EventRecord):
        books.events[event.job_id].append(event)
    return books


def _accepted_is_known(books: Books) -> Iterator[str]:
    known = {run.id for run in books.runs}
    for run_id in set(books.accepted) - known:
        yield f"I1 run {run_id} was accepted and there is no row of it"
    for run in books.runs:
        jobs = books.jobs_of(run)
        if run.state not in TERMINAL and not any(job.state not in TERMINAL for job in jobs):
            yield f"I1 run {run.id} is {run.state}, and none of its jobs waits or runs"


def _open_jobs_are_cared_for(books: Books) -> Iterator[str]:
    for job in books.jobs:
        due_since = books.now - max(job.not_before, job.rung_at)
        if job.state in CLAIMABLE and due_since > GRACE:
            yield f"I1 job {job.id} has waited for {due_since} since it was last announced"
        if job.state == JobState.RUNNING and job.lease_expires_at and books.now - job.lease_expires_at > GRACE:
            yield f"I1 job {job.id} has had a silent owner since {job.lease_expires_at}"


def _succeeds_once(books: Books) -> Iterator[str]:
    for job in books.jobs:
        successes = sum(event.to_state == JobState.SUCCEEDED for event in books.events[job.id])
        if successes != (job.state == JobState.SUCCEEDED):
            yield f"I2 job {job.id} is {job.state} and has succeeded {successes} times"
    for (run_id, kind), number in Counter((job.run_id, job.kind) for job in books.jobs if job.run_id).items():
        if number > 1:
            yield f"I2 run {run_id} has {number} jobs of kind {kind}"
    for run_id, number in Counter(version.run_id for version in books.versions).items():
        if number > 1:
            yield f"I2 run {run_id} has {number} versions"
    registered = {version.run_id for version in books.versions}
    for run in books.runs:
        if run.state == JobState.SUCCEEDED and run.id not in registered:
            yield f"I2 run {run.id} has succeeded and has no version"


def _path_is_legal(books: Books) -> Iterator[str]:
    for job in books.jobs:
        moves = books.states_of(job)
        states = [JobState(str(event.to_state)) for event in moves]
        if states[:1] != [JobState.QUEUED]:
            yield f"I3 job {job.id} does not begin as queued"
        for was, event in zip(states, moves[1:], strict=False):
            if event.to_state not in LEGAL[was] or event.from_state not in {None, was}:
                yield f"I3 job {job.id} was {was}, and moved from {event.from_state} to {event.to_state}"
        if states and states[-1] != job.state:
            yield f"I3 job {job.id} is {job.state}, and its last event says {states[-1]}"
        if sum(state == JobState.RUNNING for state in states) != job.attempt:
            yield f"I3 job {job.id} has {job.attempt} attempts, and its events tell of {states.count(JobState.RUNNING)}"


def _fences_count_claims(books: Books) -> Iterator[str]:
    for job in books.jobs:
        numbers = [attempt.attempt for attempt in books.attempts[job.id]]
        if numbers != list(range(1, job.attempt + 1)) or job.fence != job.attempt:
            yield f"I4 job {job.id} has attempts {numbers}, attempt {job.attempt} and fence {job.fence}"
        told = [event.attempt for event in books.events[job.id]]
        if told != sorted(told):
            yield f"I4 job {job.id} has an event of an older attempt after one of a newer: {told}"
    for checkpoint in books.checkpoints:
        attempt = {a.claim_id: a.attempt for a in books.attempts[checkpoint.job_id]}.get(checkpoint.claim_id)
        told = [
            event.attempt for event in _published(books, checkpoint.job_id) if event.detail["step"] == checkpoint.step
        ]
        if not told or attempt != told[-1]:
            yield (
                f"I4 checkpoint {checkpoint.step} of run {checkpoint.run_id} is attempt {attempt}'s, and the job's "
                f"attempt was {told[-1:]} when it was published"
            )


def _one_claim_at_a_time(books: Books) -> Iterator[str]:
    for job in books.jobs:
        attempts = books.attempts[job.id]
        for older, newer in pairwise(attempts):
            if older.ended_at is None or older.ended_at > newer.started_at:
                yield f"I5 job {job.id}: attempt {newer.attempt} began before attempt {older.attempt} had ended"
        running = job.state == JobState.RUNNING
        if attempts and (attempts[-1].ended_at is None) != running:
            yield f"I5 job {job.id} is {job.state}, and its last attempt {'has' if running else 'has not'} ended"
        if running and (not attempts or attempts[-1].claim_id != job.claim_id):
            yield f"I5 job {job.id} is claimed by somebody who has no attempt"


def _published(books: Books, job_id: UUID) -> list[EventRecord]:
    return [event for event in books.events[job_id] if event.kind == "checkpoint"]


def _checkpoints_grow(books: Books) -> Iterator[str]:
    """By the story: rows of older checkpoints are deleted in time.

    A restore is told with the next heartbeat, so it may come after the attempt's first checkpoint; an attempt that
    found a checkpoint unusable may begin before it.
    """
    for job in books.jobs:
        newest = 0
        for attempt in books.attempts[job.id]:
            told = [event for event in books.events[job.id] if event.attempt == attempt.attempt]
            steps = [event.detail["step"] for event in told if event.kind == "checkpoint"]
            restored = [event.detail["step"] for event in told if event.kind == "restored"]
            broken = any(event.kind == "restore_failed" for event in told)
            if set(restored) - {newest} and not broken:
                yield f"I6 job {job.id}: attempt {attempt.attempt} began at {restored}, and step {newest} was published"
            begun_at = [] if broken else [newest]
            if any(later <= earlier for earlier, later in pairwise([*begun_at, *steps])):
                yield f"I6 job {job.id}: attempt {attempt.attempt} published {steps} after step {newest}"
            newest = max(newest, *steps) if steps and not broken else (steps or [newest])[-1]


def _ends_for_good(books: Books) -> Iterator[str]:
    for job in books.jobs:
        if (job.finished_at is not None) != (job.state in TERMINAL):
            yield f"I8 job {job.id} is {job.state}, and its end is at {job.finished_at}"
    for run in books.runs:
        if (run.finished_at is not None) != (run.state in TERMINAL):
            yield f"I8 run {run.id} is {run.state}, and its end is at {run.finished_at}"
        jobs = books.jobs_of(run)
        if run.state in TERMINAL and jobs and jobs[-1].state != run.state:
            yield f"I8 run {run.id} is {run.state}, and its last job {jobs[-1].kind} is {jobs[-1].state}"
        if any(job.state != JobState.SUCCEEDED for job in jobs[:-1]):
            yield f"I8 run {run.id} has a stage after one that did not succeed"


def _unwanted_make_nothing(books: Books) -> Iterator[str]:
    ended_badly = {run.id: run.state for run in books.runs if run.state in TERMINAL - {JobState.SUCCEEDED}}
    for version in books.versions:
        if version.run_id in ended_badly:
            yield f"I10 run {version.run_id} is {ended_badly[version.run_id]}, and has version {version.version}"


def _one_trace(books: Books) -> Iterator[str]:
    traces = {run.id: _trace_id(run.traceparent) for run in books.runs}
    of_job = {job.id: traces[job.run_id] for job in books.jobs if job.run_id}
    told: list[tuple[str, UUID, str | None]] = [("job", job.id, job.traceparent) for job in books.jobs if job.run_id]
    told += [("doorbell of job", row.job_id, row.traceparent) for row in books.outbox]
    told += [
        ("attempt of job", row.job_id, row.traceparent)
        for rows in books.attempts.values()
        for row in rows
        if row.traceparent
    ]
    for what, job_id, traceparent in told:
        if job_id in of_job and _trace_id(traceparent) != of_job[job_id]:
            yield f"I11 {what} {job_id} has trace {_trace_id(traceparent)}, and its run {of_job[job_id]}"
    known = {str(run_id): trace for run_id, trace in traces.items()}
    for span in books.spans:
        run_id = span.attributes.get("tunix_rt.run_id")
        if run_id in known and span.trace_id != known[run_id]:
            yield f"I11 span {span.name} of run {run_id} has trace {span.trace_id}, and the run {known[run_id]}"


def _trace_id(traceparent: str | None) -> str | None:
    return traceparent.split("-")[1] if traceparent else None


def _within_budgets(books: Books, settings: Settings) -> Iterator[str]:
    for job in books.jobs:
        if job.counted_attempts > settings.max_attempts:
            yield f"I9 job {job.id} has used {job.counted_attempts} attempts of {settings.max_attempts}"
        if job.attempt - job.counted_attempts > settings.max_preemptions + 1:
            yield f"I9 job {job.id} has {job.attempt} attempts, of which only {job.counted_attempts} count"


def _kept_by_the_store(books: Books, store: ArtifactStore) -> Iterator[str]:
    for words, look in _promises(books, store):
        try:
            look()
        except TunixError as error:
            yield f"I7 {words}: {error}"
        except ValueError as error:
            yield f"I7 {words} is no such document: {error}"


def _promises(books: Books, store: ArtifactStore) -> Iterator[tuple[str, Callable[[], object]]]:
    """What rows say is in the store, and how to see that it is."""
    for row in books.checkpoints:
        words = f"checkpoint {row.step} of run {row.run_id}"
        yield words, lambda row=row: _read_files(store, CheckpointManifest, row.manifest_sha256)
    for version in books.versions:
        words = f"version {version.version} of {version.name}"
        yield words, lambda version=version: _read_files(store, FolderManifest, version.manifest_sha256)
    for found in books.evaluations:
        yield f"report of run {found.run_id}", lambda found=found: store.get_document(EvalReport, found.report_sha256)
        yield f"verdict of run {found.run_id}", lambda found=found: store.get_document(Verdict, found.verdict_sha256)
    for run in books.runs:
        if run.logs_sha256:
            yield f"logs of run {run.id}", lambda run=run: store.read(run.logs_sha256)
    for dataset in books.datasets:
        if dataset.manifest_sha256:
            yield f"dataset {dataset.name}", lambda dataset=dataset: store.read(dataset.manifest_sha256)


def _read_files(store: ArtifactStore, kind: type[CheckpointManifest | FolderManifest], sha256: str) -> None:
    for entry in store.get_document(kind, sha256).files:
        size_bytes = len(store.read(entry.sha256))
        if size_bytes != entry.size_bytes:
            raise NotFound(f"{entry.path} has {size_bytes} bytes instead of {entry.size_bytes}")


CHECKS: Sequence[Callable[[Books], Iterator[str]]] = (
    _accepted_is_known,
    _open_jobs_are_cared_for,
    _succeeds_once,
    _path_is_legal,
    _fences_count_claims,
    _one_claim_at_a_time,
    _checkpoints_grow,
    _ends_for_good,
    _unwanted_make_nothing,
    _one_trace,
)
