"""What retention deletes and what it never does, on each database and on each store."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import JSON, delete, select, text, update

from tunix_rt_common import references, retention
from tunix_rt_common.db.models import (
    AttemptRecord,
    Base,
    CheckpointRecord,
    DatasetRecord,
    EvaluationRecord,
    EventRecord,
    IdempotencyRecord,
    JobRecord,
    LogRecord,
    MetricRecord,
    ModelVersionRecord,
    OutboxRecord,
    RunRecord,
    SpanRecord,
    UploadRecord,
    utc_now,
)
from tunix_rt_common.errors import Unavailable
from tunix_rt_common.ids import new_id
from tunix_rt_common.pipeline import Ending
from tunix_rt_common.reports import FileEntry
from tunix_rt_common.retention import COLLECTOR_LOCK, Collected, collect, collect_when_alone
from tunix_rt_common.settings import Settings
from tunix_rt_common.states import JobState
from tunix_rt_common.storage import open_store
from tunix_rt_common.storage.bundle import FolderManifest
from tunix_rt_common.storage.local import LocalStore
from tunix_rt_common.testing.memory_store import MemoryStore
from tunix_rt_common.uploads import DatabaseUploads
from tunix_rt_common.world import World

NOTHING = Collected(*[0] * len(fields(Collected)))
CANCELLED = Ending(JobState.CANCELLED, "cancelled")
WHOLE_RUN = (RunRecord, JobRecord, EventRecord, MetricRecord, AttemptRecord)
PAST_ITS_TIME = (LogRecord, SpanRecord, CheckpointRecord)


@dataclass(frozen=True)
class PlannedRun:
    """A run in a drawn history; numbers stand for blobs, and runs with equal numbers share them."""

    ended_days_ago: int | None = 31
    base_model: frozenset[int] = frozenset({0})
    trained: frozenset[int] = frozenset({1})
    checkpoint: frozenset[int] = frozenset({2})
    output: int = 3
    evaluated: bool = False
    registered: bool = False
    trace: int = 1

    @property
    def is_fresh(self):
        return self.ended_days_ago is None or self.ended_days_ago < 30

    @property
    def stays(self):
        return self.is_fresh or self.evaluated or self.registered


class History:
    """Writes runs and blobs as the services do, at times long gone, and remembers what each run refers to."""

    def __init__(self, machine, store, young=frozenset()):
        self.machine, self.store = machine, store
        self.world = World(machine.settings, machine.database, store)
        self.young = {self.store.put_bytes(b"%d" % number).sha256 for number in young}
        self.blobs = set(self.young)
        self.is_old = True

    def put(self, number):
        return self._aged(self.store.put_bytes(b"%d" % number).sha256)

    def put_folder(self, numbers):
        """A manifest and its files; all digests."""
        files = [self.put(number) for number in sorted(numbers)]
        entries = tuple(FileEntry(path=sha256, sha256=sha256, size_bytes=1) for sha256 in files)
        return [self._aged(self.store.put_document(FolderManifest(files=entries))), *files]

    def _aged(self, sha256):
        self.blobs.add(sha256)
        if self.is_old and sha256 not in self.young and isinstance(self.store, MemoryStore):
            self.store.modified_at[sha256] = utc_now() - timedelta(days=3)
        return sha256

    def add_dataset(self, numbers):
        """Datasets are kept for ever; their digests."""
        digests = self.put_folder(numbers)
        with self.machine.writing() as session:
            name = f"d-{new_id()}"
            session.add(DatasetRecord(id=new_id(), name=name, version=1, spec={}, manifest_sha256=digests[0]))
        return digests

    def add_run(self, plan):
        """The run's id, the digests that it refers to, and those of its checkpoint."""
        base, trained, checkpoint = map(self.put_folder, (plan.base_model, plan.trained, plan.checkpoint))
        output, report, verdict = self.put(plan.output), self.put(100 + plan.output), self.put(200 + plan.output)
        job_id = self.machine.submit_run(payload={"manifest_sha256": trained[0]})
        claim = self.machine.claim(job_id)
        self.machine.heartbeat(claim, step=1)
        traceparent = f"00-{plan.trace:032x}-{1:016x}-01"
        started = utc_now() - timedelta(days=60)
        with self.machine.writing() as session:
            run = session.get_one(RunRecord, claim.run_id)
            run.pins = {"base_model": {"manifest_sha256": base[0]}, "baseline": None}
            run.logs_sha256, run.traceparent = output, traceparent
            of_job = {"run_id": run.id, "job_id": job_id}
            session.add(LogRecord(**of_job, attempt=1, stream="stdout", chunk=b"text"))
            session.add(MetricRecord(run_id=run.id, step=1, numbers={}))
            session.add(
                CheckpointRecord(**of_job, step=1, claim_id=claim.claim_id, manifest_sha256=checkpoint[0], size_bytes=1)
            )
            session.add(
                SpanRecord(
                    trace_id=traceparent[3:35], span_id=new_id().hex[-16:], name="span", service="trainer",
                    started_at=started, ended_at=started, status="ok", attributes={}, links={"spans": []},
                )
            )  # fmt: skip
        if plan.ended_days_ago is not None:
            self.machine.end(claim, CANCELLED)
            self.set_ended(claim.run_id, plan.ended_days_ago)
        refers = [*base, *trained, output]
        if plan.evaluated:
            self._add_evaluation(claim.run_id, trained[0], report, verdict)
            refers += [report, verdict]
        if plan.registered:
            self._add_version(claim.run_id, trained[0])
        return claim.run_id, set(refers), set(checkpoint)

    def set_ended(self, run_id, days_ago):
        with self.machine.writing() as session:
            session.execute(
                update(RunRecord).where(RunRecord.id == run_id).values(finished_at=utc_now() - timedelta(days=days_ago))
            )

    def _add_evaluation(self, run_id, model_sha256, report, verdict):
        row = EvaluationRecord(
            run_id=run_id, model_sha256=model_sha256, report_sha256=report, eval_set_sha256="0" * 64, judge="numeric",
            score={}, verdict_sha256=verdict, decision="GO", reason="better",
        )  # fmt: skip
        with self.machine.writing() as session:
            session.add(row)

    def _add_version(self, run_id, manifest_sha256):
        row = ModelVersionRecord(
            name=f"m-{run_id}", version=1, run_id=run_id, manifest_sha256=manifest_sha256, metrics={}, provenance={}
        )
        with self.machine.writing() as session:
            session.add(row)

    def stored(self):
        return {blob.sha256 for blob in self.store.blobs()}

    def keeps(self, tables, runs):
        """Whether just these runs have rows in each of the tables."""
        return {table: self.runs_with(table) for table in tables} == {table: set(runs) for table in tables}

    def runs_with(self, table):
        """The ids of the runs that have rows in a table."""
        if table is SpanRecord:
            traces = {row.trace_id for row in self.machine.all(SpanRecord)}
            return {
                run.id for run in self.machine.all(RunRecord) if run.traceparent and run.traceparent[3:35] in traces
            }
        if table is AttemptRecord:
            jobs = {job.id: job.run_id for job in self.machine.all(JobRecord)}
            return {jobs[row.job_id] for row in self.machine.all(AttemptRecord)}
        return {row.id if table is RunRecord else row.run_id for row in self.machine.all(table)}


@pytest.fixture
def history(machine_on):
    return History(machine_on, MemoryStore())


numbers = st.integers(0, 5)
folders = st.frozensets(numbers, max_size=3)
plans = st.builds(
    PlannedRun,
    ended_days_ago=st.sampled_from([None, 0, 29, 31, 400]),
    base_model=folders,
    trained=folders,
    checkpoint=folders,
    output=numbers,
    evaluated=st.booleans(),
    registered=st.booleans(),
    trace=st.integers(1, 3),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(planned=st.lists(plans, max_size=4), dataset=folders, lost=folders, young=folders)
def test_whatever_the_history_what_is_referred_to_stays_and_the_rest_goes(
    open_machine_on, tmp_path, planned, dataset, lost, young
):
    machine = open_machine_on(tmp_path / str(new_id()))
    history = History(machine, MemoryStore(), young)
    referred = set(history.add_dataset(dataset))
    history.put_folder(lost)
    runs = {}
    for plan in planned:
        run_id, refers, checkpoint = history.add_run(plan)
        runs[run_id] = plan
        referred |= refers if plan.stays else set()
        referred |= checkpoint if plan.is_fresh else set()

    collect(history.world)

    staying = {run_id for run_id, plan in runs.items() if plan.stays}
    fresh = {run_id for run_id, plan in runs.items() if plan.is_fresh}
    told = {plan.trace for plan in planned if plan.is_fresh}
    assert history.stored() == history.blobs & (referred | history.young)
    assert history.keeps(WHOLE_RUN, staying)
    assert history.runs_with(LogRecord) == history.runs_with(CheckpointRecord) == fresh
    assert {int(row.trace_id, 16) for row in machine.all(SpanRecord)} == told
    assert collect(history.world) == NOTHING
    machine.database.close()


def test_ended_run_that_nothing_refers_to_goes_with_all_that_is_its(history):
    _, refers, checkpoint = history.add_run(PlannedRun())
    collected = collect(history.world)
    assert history.keeps((*WHOLE_RUN, *PAST_ITS_TIME), ())
    assert history.machine.all(OutboxRecord) == []
    assert (collected.runs, collected.logs, collected.spans, collected.checkpoints) == (1, 1, 1, 1)
    assert (collected.blobs, collected.freed_bytes > 0) == (len(refers | checkpoint) + 2, True)
    assert history.stored() == set()


@pytest.mark.parametrize("why", ["evaluated", "registered"])
def test_run_that_a_report_or_a_version_refers_to_keeps_its_story_and_loses_logs_spans_and_checkpoints(history, why):
    run_id, refers, _ = history.add_run(replace(PlannedRun(), **{why: True}))
    collect(history.world)
    assert history.keeps(WHOLE_RUN, {run_id})
    assert history.keeps(PAST_ITS_TIME, ())
    assert history.stored() == refers


def test_run_with_an_open_job_is_open_whatever_its_row_says(history):
    run_id, refers, checkpoint = history.add_run(PlannedRun())
    history.machine.submit("evaluate", run_id=run_id)
    with history.machine.writing() as session:
        session.execute(update(RunRecord).values(state="cancelled"))
    collect(history.world)
    assert history.runs_with(CheckpointRecord) == {run_id}
    assert history.stored() == refers | checkpoint


def test_age_of_what_is_deleted_is_a_setting(open_machine_on, tmp_path):
    machine = open_machine_on(tmp_path / "home", retention_days=2)
    history = History(machine, MemoryStore())
    history.add_run(PlannedRun(ended_days_ago=3))
    younger, _, _ = history.add_run(PlannedRun(ended_days_ago=1))
    collect(history.world)
    assert history.runs_with(RunRecord) == history.runs_with(LogRecord) == {younger}
    machine.database.close()


def test_more_rows_than_fit_into_one_transaction_are_all_deleted(history, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    for trace in range(1, 6):
        history.add_run(PlannedRun(trace=trace))
    assert collect(history.world).runs == 5
    assert history.machine.all(EventRecord) == history.machine.all(SpanRecord) == []


@pytest.mark.parametrize("days", [29, 31])
def test_plan_is_forgotten_with_its_story_once_it_is_old(history, days):
    machine = history.machine
    kept, gone = (machine.submit("plan", payload={"pins": {"manifest_sha256": None}}) for _ in range(2))
    machine.end(machine.claim(gone), Ending(JobState.SUCCEEDED, "plan done", result={"device": "cpu"}))
    with machine.writing() as session:
        session.get_one(JobRecord, gone).finished_at = utc_now() - timedelta(days=days)
    left = {kept} if days > 30 else {kept, gone}
    assert collect(history.world).plans == 2 - len(left)
    assert {job.id for job in machine.all(JobRecord)} == left
    assert {event.job_id for event in machine.all(EventRecord)} == left


def test_doorbells_and_repeatable_answers_are_forgotten_after_a_day(history):
    yesterday, before = utc_now() - timedelta(hours=23), utc_now() - timedelta(hours=25)
    for _ in range(3):
        history.machine.submit()
    with history.machine.writing() as session:
        rung, long_rung, _ = session.scalars(select(OutboxRecord).order_by(OutboxRecord.id))
        rung.published_at, long_rung.published_at = yesterday, before
        for key, at in (("young", yesterday), ("old", before)):
            session.add(IdempotencyRecord(key=key, request_sha256="0" * 64, answer={}, created_at=at))
    collected = collect(history.world)
    assert (collected.doorbells, collected.idempotency_keys) == (1, 1)
    assert [row.published_at for row in history.machine.all(OutboxRecord)] == [yesterday, None]
    assert [row.key for row in history.machine.all(IdempotencyRecord)] == ["young"]


def test_uploads_that_were_never_finished_are_aborted(history):
    ledger = DatabaseUploads(history.machine.database)
    ledger.begin("young")
    ledger.begin("old")
    with history.machine.writing() as session:
        old = update(UploadRecord).where(UploadRecord.key == "old")
        session.execute(old.values(started_at=utc_now() - timedelta(hours=25)))
    assert collect(history.world).uploads == 1
    assert [row.key for row in history.machine.all(UploadRecord)] == ["young"]


def test_blob_whose_row_is_not_written_yet_is_young_and_stays(history):
    old = history.put(1)
    young = history.store.put_bytes(b"a checkpoint under way").sha256
    collect(history.world)
    assert history.stored() == {young}
    assert old == history.store.put_bytes(b"1").sha256
    collect(history.world)
    assert history.stored() == {young, old}


def test_old_blob_that_is_put_again_after_it_was_listed_stays(history, monkeypatch):
    sha256 = history.put(1)
    listed = list(history.store.blobs())
    monkeypatch.setattr(history.store, "blobs", lambda: listed)
    history.store.put_bytes(b"1")
    assert collect(history.world).blobs == 0
    assert history.store.read(sha256) == b"1"


def test_manifest_that_another_collector_deleted_with_its_row_is_not_missed(history, monkeypatch):
    _, refers, checkpoint = history.add_run(PlannedRun(ended_days_ago=None))
    lost = history.put(9)
    read = history.store.read

    def forget_checkpoint_and_read(sha256):
        with history.machine.writing() as session:
            session.execute(delete(CheckpointRecord))
        for blob in checkpoint:
            history.store.delete(blob, utc_now())
        return read(sha256)

    monkeypatch.setattr(history.store, "read", forget_checkpoint_and_read)
    collect(history.world)
    assert history.stored() == refers
    assert lost not in history.stored()


def test_no_blob_is_deleted_while_a_manifest_is_missing(history):
    digests = history.add_dataset({1, 2})
    lost = history.put(3)
    history.store.delete(digests[0], utc_now())
    with pytest.raises(Unavailable, match=f"manifest {digests[0]}.*is gone from the store: restore it"):
        collect(history.world)
    assert history.stored() == {*digests[1:], lost}
    history.put_folder({1, 2})
    assert collect(history.world).blobs == 1
    assert history.stored() == set(digests)


def test_no_blob_is_deleted_while_a_manifest_is_damaged(history):
    digests = history.add_dataset({1})
    history.store.contents[digests[0]] = b'{"files":[]}'
    with pytest.raises(Unavailable, match="is damaged"):
        collect(history.world)
    assert history.stored() == set(digests)


def make_old(store, sha256):
    if isinstance(store, LocalStore):
        file = next(store._root.rglob(sha256))
        long_ago = (utc_now() - timedelta(days=3)).timestamp()
        os.utime(file, (long_ago, long_ago))


@pytest.fixture(params=["local", "minio_server", "second_s3_server"])
def real_store(request, tmp_path):
    """A store of each kind; nobody can make a blob in S3 look old."""
    if request.param == "local":
        return LocalStore(tmp_path / "artifacts")
    from tests.servers.fresh import fresh_prefix

    return open_store(fresh_prefix(request.getfixturevalue(request.param).url))


def test_real_store_loses_what_nothing_refers_to_and_nothing_else(machine, real_store, monkeypatch):
    if not isinstance(real_store, LocalStore):
        monkeypatch.setattr(retention, "YOUNG", timedelta(seconds=-60))
    history = History(machine, real_store)
    digests = history.add_dataset(range(5))
    _, refers, checkpoint = history.add_run(PlannedRun(ended_days_ago=None))
    history.put_folder({7, 8})
    for sha256 in history.blobs:
        make_old(real_store, sha256)
    kept = {*digests} | refers | checkpoint
    assert collect(history.world).blobs == len(history.blobs) - len(kept)
    assert history.stored() == kept
    assert collect(history.world) == NOTHING


def test_many_may_collect_at_once_while_runs_are_written(history):
    for trace in range(1, 6):
        history.add_run(PlannedRun(trace=trace, trained=frozenset({trace})))
    history.is_old = False
    done = threading.Event()

    def collect_often():
        while not done.is_set():
            collect(history.world)

    with ThreadPoolExecutor(3) as threads:
        collectors = [threads.submit(collect_often) for _ in range(3)]
        try:
            written = [history.add_run(PlannedRun(ended_days_ago=None, base_model=frozenset())) for _ in range(5)]
        finally:
            done.set()
    for collector in collectors:
        collector.result()
    history.store.modified_at.update(dict.fromkeys(history.stored(), utc_now() - timedelta(days=3)))
    collect(history.world)
    assert history.runs_with(RunRecord) == {run_id for run_id, _, _ in written}
    assert history.stored() >= set().union(*(refers | checkpoint for _, refers, checkpoint in written))


def test_second_collector_leaves_it_to_the_first(open_machine, postgres_url, tmp_path):
    machine = open_machine(tmp_path / "home", database_url=postgres_url)
    world = World(machine.settings, machine.database, MemoryStore())
    with machine.writing() as session:
        session.execute(text(f"SELECT pg_advisory_xact_lock({COLLECTOR_LOCK})"))
        assert collect_when_alone(world) is None
    assert collect_when_alone(world) == NOTHING
    machine.database.close()


def test_lone_process_always_collects(machine):
    assert collect_when_alone(World(machine.settings, machine.database, MemoryStore())) == NOTHING


def run_command(settings):
    command = [sys.executable, "-m", "tunix_rt_common", "collect"]
    environment = os.environ | settings.child_environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_command_collects_at_once_and_says_what(machine):
    store = open_store(machine.settings.resolved_artifacts_url)
    history = History(machine, store)
    for sha256 in history.put_folder({1}):
        make_old(store, sha256)
    ended = run_command(machine.settings)
    assert ended.returncode == 0
    assert "collected 2 blobs" in ended.stderr
    assert history.stored() == set()


def test_command_without_a_database_says_what_to_do(tmp_path):
    ended = run_command(Settings(home=tmp_path))
    assert ended.returncode != 0
    assert "run `python -m tunix_rt_common migrate`" in ended.stderr
    assert "Traceback" not in ended.stderr


NO_REFERENCE = {
    "traces.content_sha256", "traces.prompt_sha256", "traces.document", "datasets.spec", "datasets.dataset_sha256",
    "runs.spec", "runs.labels", "events.detail", "idempotency_keys.request_sha256", "idempotency_keys.answer",
    "spans.attributes", "spans.links", "metrics.numbers", "evaluations.eval_set_sha256", "evaluations.score",
    "model_versions.metrics",
}  # fmt: skip
"""Columns that could name a blob, and do not."""


def test_every_column_that_could_name_a_blob_is_either_marked_or_known_not_to():
    columns = [column for table in Base.metadata.sorted_tables for column in table.columns]
    could = {str(column) for column in columns if "sha256" in column.name or isinstance(column.type, JSON)}
    followed = (*references.MANIFESTS, *references.BLOBS, *references.DOCUMENTS)
    assert {str(column.property.columns[0]) for column in followed} == could - NO_REFERENCE


def test_every_row_that_hangs_on_a_run_goes_with_it_or_keeps_it():
    hanging = {
        str(key.parent)
        for table in Base.metadata.sorted_tables
        for key in table.foreign_keys
        if key.column.table.name in {"runs", "jobs"}
    }
    with_a_run = {f"{record.__tablename__}.run_id" for record in (*retention.OWNED_BY_RUN, LogRecord, CheckpointRecord)}
    with_a_job = {f"{record.__tablename__}.job_id" for record in retention.OWNED_BY_JOB}
    with_both = {"jobs.run_id", "events.job_id", "logs.job_id", "checkpoints.job_id"}
    keeping = {str(column.property.columns[0]) for column in retention.REFERRERS}
    assert hanging == with_a_run | with_a_job | with_both | keeping
