"""A real API over HTTP with a real registry worker; training and judging are played by the tests."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select
from tests.e2e.world import listening

from tunix_rt import cli
from tunix_rt_api.main import create_app
from tunix_rt_common import pipeline
from tunix_rt_common.db.models import EvaluationRecord, JobRecord, LogRecord, MetricRecord, RunRecord
from tunix_rt_common.db.session import Database, open_database
from tunix_rt_common.pipeline import Claim, Ending, NewJob
from tunix_rt_common.queue import open_queue
from tunix_rt_common.relay import Relay
from tunix_rt_common.reports import EvalReport, FileEntry, Interval, ItemResult, Score, Verdict, digest, eval_set_sha256
from tunix_rt_common.settings import Settings
from tunix_rt_common.specs import GatePolicy, SamplingSpec
from tunix_rt_common.states import JobState
from tunix_rt_common.storage import ArtifactStore, open_store
from tunix_rt_common.storage.bundle import FolderManifest
from tunix_rt_common.world import World
from tunix_rt_registry import worker as registry

MODEL_FILES = {"config.json": b"{}", "weights/model.safetensors": bytes(range(256)) * 4096}


@dataclass
class Outcome:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Platform:
    """A server, and hands that do what trainer and evaluator would."""

    url: str
    database: Database
    store: ArtifactStore

    def claim(self, run_id: str) -> Claim:
        with self.database.transaction() as session:
            queued = JobRecord.state.in_(["queued", "retry_wait"])
            job_id = session.scalars(select(JobRecord.id).where(JobRecord.run_id == UUID(run_id), queued)).one()
            claim = pipeline.claim(session, job_id, "test", 60)
        assert claim
        return claim

    def report(self, run_id: str, step: int, total_steps: int, numbers: dict[str, float]) -> None:
        with self.database.transaction() as session:
            run = session.get_one(RunRecord, UUID(run_id))
            run.step, run.total_steps = step, total_steps
            session.add(MetricRecord(run_id=run.id, step=step, numbers=numbers))

    def write_log(self, claim: Claim, chunk: bytes) -> None:
        with self.database.transaction() as session:
            session.add(LogRecord(run_id=claim.run_id, job_id=claim.job_id, attempt=1, stream="stdout", chunk=chunk))

    def end(self, claim: Claim, ending: Ending, *next_jobs: NewJob) -> None:
        with self.database.transaction() as session:
            pipeline.advance(session, claim, ending, next_jobs)

    def finish_training(self, run_id: str) -> None:
        claim = self.claim(run_id)
        self.report(run_id, 4, 4, {"loss": 0.5, "tokens_per_s": 1200.0, "eta_s": 0.0})
        self.end(claim, Ending(JobState.SUCCEEDED, "train done"), NewJob("evaluate", run_id=UUID(run_id)))

    def finish_judging(self, run_id: str, decision: str, baseline: UUID | None = None) -> None:
        claim = self.claim(run_id)
        with self.database.transaction() as session:
            session.add(self._evaluation(run_id, decision, baseline))
        entries = [(path, self.store.put_bytes(content)) for path, content in MODEL_FILES.items()]
        files = tuple(FileEntry(path=path, sha256=blob.sha256, size_bytes=blob.size_bytes) for path, blob in entries)
        manifest_sha256 = self.store.put_document(FolderManifest(files=files))
        payload = {"manifest_sha256": manifest_sha256, "metrics": {"loss": 0.5}, "environment": {}}
        register = NewJob("register", payload=payload, run_id=UUID(run_id))
        self.end(claim, Ending(JobState.SUCCEEDED, "evaluate done"), register)

    def _evaluation(self, run_id: str, decision: str, baseline: UUID | None) -> EvaluationRecord:
        report = _report()
        verdict = _verdict(report, decision)
        return EvaluationRecord(
            run_id=UUID(run_id),
            model_sha256=report.model_sha256,
            report_sha256=self.store.put_document(report),
            eval_set_sha256=report.eval_set_sha256,
            judge=report.judge,
            score=report.overall.model_dump(),
            verdict_sha256=self.store.put_document(verdict),
            decision=decision,
            reason=verdict.reason,
            baseline_version_id=baseline,
        )


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    settings = Settings(home=tmp_path / "home")
    database = open_database(settings.resolved_database_url)
    database.migrate()
    store, queue = open_store(settings.resolved_artifacts_url), open_queue("inline://")
    relay, stop = Relay(database, queue, settings), threading.Event()
    app = create_app(settings, database, store)
    threads = [
        threading.Thread(target=relay.run, args=(stop,)),
        threading.Thread(target=registry.serve, args=(World(settings, database, store), queue, stop)),
    ]
    for thread in threads:
        thread.start()
    with listening(app) as url:
        yield Platform(url, database, store)
    stop.set()
    relay.wake()
    for thread in threads:
        thread.join(10)
    database.close()


@pytest.fixture
def command(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run `tunix-rt` in this process, against the platform."""
    monkeypatch.setenv("TUNIX_RT_API_URL", platform.url)

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = cli.run(arguments)
        return Outcome(code, *capsys.readouterr())

    return call


AS_FROM_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tunix_rt.cli import main
main()
"""


@pytest.fixture
def spawned(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.Popen[str]]:
    """Start `tunix-rt` as a process of its own, against the platform, as a terminal does: SIGINT is not ignored."""
    monkeypatch.setenv("TUNIX_RT_API_URL", platform.url)

    def start(*arguments: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", AS_FROM_A_TERMINAL, *arguments]
        return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def dataset(command: Callable[..., Outcome]) -> str:
    """A built dataset of sums."""
    assert command("traces", "generate", "arithmetic", "--count", "40").code == 0
    assert command("datasets", "build", "sums", "--test-fraction", "0.2").code == 0
    return "sums@1"


@pytest.fixture
def run_id(command: Callable[..., Outcome], dataset: str) -> str:
    """A queued run."""
    return str(command("runs", "create", "--dataset", dataset, "--base-model", "tiny", "--json").json["run_id"])


def _report() -> EvalReport:
    items = tuple(_item(number) for number in range(3))
    score = Score(
        correct=2, scored=3, unscored=0, accuracy=2 / 3, interval=Interval(low=0.2, high=0.9, confidence=0.95)
    )
    return EvalReport(
        model_sha256="a" * 64,
        dataset_sha256="b" * 64,
        split="test",
        judge="answer_correctness@1",
        sampling=SamplingSpec(),
        items=items,
        overall=score,
        slices={"category": {"0 carries": score}},
        eval_set_sha256=eval_set_sha256(items),
    )


def _item(number: int) -> ItemResult:
    wrong = number == 1
    return ItemResult(
        item_id=f"item-{number}",
        prompt=f"{number}+1=",
        expected=str(number + 1),
        prediction="[bold]\x1b[31m9" if wrong else str(number + 1),
        outcome="wrong" if wrong else "correct",
        extracted="[bold]\x1b[31m9" if wrong else str(number + 1),
        reason="expected 2" if wrong else "equal",
        group="c" * 64,
    )


def _verdict(report: EvalReport, decision: str) -> Verdict:
    return Verdict(
        decision=decision,  # type: ignore[arg-type]
        reason="no baseline holds the alias" if decision == "GO" else "worse than its baseline",
        candidate_sha256="a" * 64,
        baseline_sha256=None,
        candidate_report_sha256=digest(report),
        baseline_report_sha256=None,
        eval_set_sha256=report.eval_set_sha256,
        judge=report.judge,
        policy=GatePolicy(),
        paired=None,
        gained=(),
        lost=(),
        minimum_detectable_difference=None,
    )
