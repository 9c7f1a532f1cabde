"""The auditor finds what is planted, and nothing where nothing is wrong."""

import hashlib
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import delete, select, update
from tests.faults.suite.auditor import audit

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import (
    AttemptRecord,
    CheckpointRecord,
    EventRecord,
    JobRecord,
    ModelVersionRecord,
    OutboxRecord,
    RunRecord,
    SpanRecord,
    utc_now,
)
from tunix_rt_common.ids import new_id
from tunix_rt_common.pipeline import Ending, JobState, NewJob
from tunix_rt_common.reports import CheckpointManifest, FileEntry
from tunix_rt_common.storage.bundle import FolderManifest
from tunix_rt_common.testing.memory_store import MemoryStore

DONE = Ending(JobState.SUCCEEDED, "done")
AGAIN = Ending(JobState.RETRY_WAIT, "killed")
DIGEST = "0" * 64
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
OTHER_TRACE = f"00-{'c' * 32}-{'b' * 16}-01"


class Books:
    """A run that was killed once and then registered, with all that it left in rows and store."""

    def __init__(self, machine):
        self.machine, self.store = machine, MemoryStore()
        self.train = machine.submit_run(traceparent=TRACE)
        self.run_id = machine.job(self.train).run_id
        with machine.writing() as session:
            session.get_one(RunRecord, self.run_id).traceparent = TRACE
        first = machine.claim(self.train)
        self.publish(first, 10)
        machine.end(first, AGAIN)
        second = machine.claim(self.train)
        self.tell(second, "restored", 10)
        self.publish(second, 20)
        machine.end(second, DONE, [NewJob("register", run_id=self.run_id, traceparent=TRACE)])
        self.register = next(job.id for job in machine.all(JobRecord) if job.kind == "register")
        self.claims = (first, second)
        claim = machine.claim(self.register)
        self.plant(lambda session: session.add(self.version(self.run_id, 1)))
        machine.end(claim, DONE)

    def tell(self, claim, kind, step):
        with self.machine.writing() as session:
            pipeline.tell(session, claim, kind, kind, {"step": step})

    def publish(self, claim, step):
        content = str(step).encode()
        self.store.put_bytes(content)
        entry = FileEntry(path="state", sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        manifest = CheckpointManifest(
            run_id=str(claim.run_id), job_id=str(claim.job_id), step=step, files=(entry,), dataset_sha256=DIGEST,
            tokenizer_sha256=DIGEST, base_model_sha256=DIGEST, spec_sha256=DIGEST, versions={}, device_kind="",
            xla_flags="",
        )  # fmt: skip
        sha256 = self.store.put_document(manifest)
        row = CheckpointRecord(
            run_id=claim.run_id, step=step, job_id=claim.job_id, claim_id=claim.claim_id, manifest_sha256=sha256,
            size_bytes=1,
        )  # fmt: skip
        self.plant(lambda session: session.add(row))
        self.tell(claim, "checkpoint", step)

    def version(self, run_id, number):
        manifest = self.store.put_document(FolderManifest(files=()))
        return ModelVersionRecord(
            id=new_id(), name="m", version=number, run_id=run_id, manifest_sha256=manifest, metrics={}, provenance={}
        )

    def plant(self, change):
        with self.machine.writing() as session:
            change(session)

    def set(self, kind, key, **values):
        self.plant(lambda session: session.execute(update(kind).where(key).values(**values)))

    def audit(self, *, settled=True, accepted=()):
        ids = [str(self.run_id), *map(str, accepted)]
        return audit(self.machine.database, self.store, self.machine.settings, accepted=ids, settled=settled)


@pytest.fixture
def books(machine):
    return Books(machine)


def test_run_that_was_killed_once_and_then_registered_is_in_order(books):
    assert books.audit() == []


def test_accepted_run_without_a_row_is_lost(books):
    assert any("accepted and there is no row" in found for found in books.audit(accepted=[uuid4()]))


def leave_a_job_unannounced(books):
    job_id = books.machine.submit_run()
    books.set(
        JobRecord,
        JobRecord.id == job_id,
        rung_at=utc_now() - timedelta(hours=1),
        not_before=utc_now() - timedelta(hours=1),
    )


def leave_a_silent_owner(books):
    claim = books.machine.claim(books.machine.submit_run())
    books.set(JobRecord, JobRecord.id == claim.job_id, lease_expires_at=utc_now() - timedelta(hours=1))


def leave_a_run_without_open_jobs(books):
    books.set(RunRecord, RunRecord.id == books.run_id, state="running", finished_at=None)


def succeed_twice(books):
    def change(session):
        last = session.scalars(select(EventRecord).where(EventRecord.job_id == books.train)).all()[-1]
        session.add(EventRecord(run_id=books.run_id, job_id=books.train, job_kind="train", attempt=last.attempt, kind="state", message="again", to_state="succeeded", detail={}))  # fmt: skip  # noqa: E501

    books.plant(change)


def register_nothing(books):
    books.plant(lambda session: session.execute(delete(ModelVersionRecord)))


def train_a_run_twice(books):
    books.machine.submit("train", run_id=books.run_id, traceparent=TRACE)


def skip_a_state(books):
    def change(session):
        events = session.scalars(
            select(EventRecord).where(EventRecord.job_id == books.train, EventRecord.to_state == "running")
        )
        session.delete(events.first())

    books.plant(change)


def write_a_state_without_an_event(books):
    books.set(JobRecord, JobRecord.id == books.train, state="failed")


def forge_a_fence(books):
    books.set(JobRecord, JobRecord.id == books.train, fence=7)


def publish_after_the_claim_was_lost(books):
    books.set(CheckpointRecord, CheckpointRecord.step == 20, claim_id=books.claims[0].claim_id)


def overlap_two_attempts(books):
    books.set(
        AttemptRecord, AttemptRecord.claim_id == books.claims[0].claim_id, ended_at=utc_now() + timedelta(hours=1)
    )


def leave_an_attempt_open(books):
    books.set(AttemptRecord, AttemptRecord.claim_id == books.claims[1].claim_id, ended_at=None)


def begin_at_an_older_checkpoint(books):
    books.set(EventRecord, EventRecord.kind == "restored", detail={"step": 0})


def begin_again(books):
    books.set(EventRecord, EventRecord.kind == "checkpoint", detail={"step": 10})


def publish_one_step_twice(books):
    claim = books.machine.claim(books.machine.submit_run())
    for _ in range(2):
        books.tell(claim, "checkpoint", 10)


def lose_a_blob(books):
    del books.store.contents[hashlib.sha256(b"20").hexdigest()]


def damage_a_blob(books):
    books.store.contents[hashlib.sha256(b"20").hexdigest()] = b"21"


def move_a_run_after_its_end(books):
    books.set(RunRecord, RunRecord.id == books.run_id, state="failed")


def forget_when_a_job_ended(books):
    books.set(JobRecord, JobRecord.id == books.train, finished_at=None)


def attempt_beyond_the_budget(books):
    books.set(JobRecord, JobRecord.id == books.train, counted_attempts=99)


def leave_beyond_the_budget(books):
    books.set(JobRecord, JobRecord.id == books.train, attempt=999)


def register_a_cancelled_run(books):
    job_id = books.machine.submit_run()
    books.machine.cancel(job_id)
    run_id = books.machine.job(job_id).run_id
    books.plant(lambda session: session.add(books.version(run_id, 2)))


def ring_in_another_trace(books):
    books.set(OutboxRecord, OutboxRecord.job_id == books.register, traceparent=OTHER_TRACE)


def span_in_another_trace(books):
    row = SpanRecord(
        trace_id="d" * 32, span_id="e" * 16, name="s", service="api", started_at=utc_now(), ended_at=utc_now(),
        status="ok", attributes={"tunix_rt.run_id": str(books.run_id)}, links={},
    )  # fmt: skip
    books.plant(lambda session: session.add(row))


@pytest.mark.parametrize(
    ("violate", "invariant"),
    [
        (leave_a_job_unannounced, "I1 "),
        (leave_a_silent_owner, "I1 "),
        (leave_a_run_without_open_jobs, "I1 "),
        (succeed_twice, "I2 "),
        (register_nothing, "I2 "),
        (train_a_run_twice, "I2 "),
        (skip_a_state, "I3 "),
        (write_a_state_without_an_event, "I3 "),
        (forge_a_fence, "I4 "),
        (publish_after_the_claim_was_lost, "I4 "),
        (overlap_two_attempts, "I5 "),
        (leave_an_attempt_open, "I5 "),
        (begin_at_an_older_checkpoint, "I6 "),
        (begin_again, "I6 "),
        (publish_one_step_twice, "I6 "),
        (lose_a_blob, "I7 "),
        (damage_a_blob, "I7 "),
        (move_a_run_after_its_end, "I8 "),
        (forget_when_a_job_ended, "I8 "),
        (attempt_beyond_the_budget, "I9 "),
        (leave_beyond_the_budget, "I9 "),
        (register_a_cancelled_run, "I10 "),
        (ring_in_another_trace, "I11 "),
        (span_in_another_trace, "I11 "),
    ],
)  # fmt: skip
def test_planted_violation_is_found(books, violate, invariant):
    violate(books)
    assert [found for found in books.audit(settled=False) if found.startswith(invariant)]


def test_run_that_goes_on_is_no_violation_before_everything_should_have_ended(books):
    books.machine.submit_run()
    assert books.audit(settled=False) == []
    assert any("is still queued" in found for found in books.audit(settled=True))
