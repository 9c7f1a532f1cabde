"""A served Tunix RT, filled through its public doors, and a browser to look at it."""

import hashlib
import json
import os
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from uuid import UUID

import pytest
import uvicorn
from playwright.sync_api import sync_playwright

from tunix_rt_api.datasets.service import build_job, find_dataset
from tunix_rt_api.main import create_app
from tunix_rt_common import pipeline
from tunix_rt_common.db.session import open_database
from tunix_rt_common.jobreport import JobReport, Progress
from tunix_rt_common.leasekeeper import LeaseKeeper
from tunix_rt_common.messages import BuildDatasetJob, RegisterJob
from tunix_rt_common.pipeline import Claim, Ending
from tunix_rt_common.reports import EvalReport, ItemResult, eval_set_sha256
from tunix_rt_common.settings import Settings
from tunix_rt_common.specs import GatePolicy, SamplingSpec
from tunix_rt_common.states import JobState
from tunix_rt_common.storage import open_store
from tunix_rt_common.storage.bundle import FolderManifest, put_folder
from tunix_rt_common.supervisor import Supervisor
from tunix_rt_common.world import World
from tunix_rt_evaluator.gate import decide
from tunix_rt_evaluator.handlers import after_evaluation
from tunix_rt_evaluator.statistics import score, slices
from tunix_rt_registry.handlers import JOBS as REGISTRY_JOBS
from tunix_rt_trainer.handlers import after_training

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Answer:
    """What the server said to one request."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Stage:
    """One claimed job of a run, played by the test instead of a child process."""

    def __init__(self, world: World, claim: Claim) -> None:
        self.world, self.claim = world, claim
        self._report = JobReport()
        self._keeper = LeaseKeeper(world, claim, self._report)

    def progress(self, steps: range, total: int, **numbers: float) -> None:
        for step in steps:
            loss = {"loss": 2.5 / (1 + step / 20), "learning_rate": 1e-3 * (1 - step / total / 2)}
            speed = {"tokens_per_s": 52_000.0 + 700 * (step % 7), "eta_s": (total - step) * 0.5}
            validation = {"validation_loss": 2.6 / (1 + step / 20)} if step % 20 == 0 else {}
            self._report.hear(
                Progress(step=step, total_steps=total, numbers={**loss, **speed, **validation, **numbers})
            )
        self._keeper.flush()

    def log(self, stream: str, text: str) -> None:
        self._report.log(stream, text.encode())
        self._keeper.flush()

    def end(self, ending: Ending, finish: Any = None) -> None:
        with self.world.database.transaction() as session:
            pipeline.hold(session, self.claim)
            next_jobs = finish(self.world, session, self.claim, ending.result) if finish else ()
            pipeline.advance(session, self.claim, ending, next_jobs)


class Site:
    """The server, and the workers whose part the test plays."""

    def __init__(self, world: World, url: str, scratch: Path) -> None:
        self.world, self.url, self._scratch = world, url, scratch
        self._registry = Supervisor(world, dict(REGISTRY_JOBS), threading.Event())

    def get(self, path: str) -> Answer:
        return self._open(urllib.request.Request(self.url + path))

    def post(self, path: str, body: bytes | dict[str, Any]) -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._open(urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"}))

    def import_traces(self, traces: Sequence[dict[str, Any]], source: str = "pages") -> None:
        lines = "\n".join(map(json.dumps, traces)).encode()
        outcome = self.post(f"/api/v1/traces/batch?source={source}", lines).json()
        assert outcome["rejected_count"] == 0, outcome

    def build_dataset(self, name: str, **spec: Any) -> dict[str, Any]:
        dataset = self.post("/api/v1/datasets", {"name": name, **spec}).json()
        with self.world.database.reading() as session:
            job = build_job(session, find_dataset(session, dataset["dataset_id"]))
        self._registry.answer(BuildDatasetJob(job_id=job.id))
        return dict(self.get(f"/api/v1/datasets/{dataset['dataset_id']}").json())

    def start_run(self, dataset: str, **spec: Any) -> str:
        accepted = self.post("/api/v1/runs", {"dataset": dataset, "base_model": "tiny", **spec})
        assert accepted.status == 202, accepted.text
        return str(accepted.json()["run_id"])

    def claim(self, run_id: str) -> Stage:
        """The stage that the run waits for."""
        job = self.get(f"/api/v1/runs/{run_id}").json()["jobs"][-1]
        with self.world.database.transaction() as session:
            claim = pipeline.claim(session, UUID(job["job_id"]), "worker-1", 60)
        assert claim is not None, job
        return Stage(self.world, claim)

    def end_training(self, stage: Stage) -> FolderManifest:
        """Publish a small model directory as what was trained."""
        folder = self._scratch / str(stage.claim.job_id)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"job": str(stage.claim.job_id)}))
        (folder / "model.safetensors").write_bytes(bytes(2048))
        manifest = put_folder(self.world.store, folder)
        result = {
            "manifest_sha256": self.world.store.put_document(manifest),
            "metrics": {"loss": 0.41},
            "environment": {"device_kind": "cpu"},
        }
        stage.end(Ending(JobState.SUCCEEDED, "train done", result=result), after_training)
        return manifest

    def evaluate(self, run_id: str, items: Sequence[ItemResult]) -> str:
        """Judge a trained run; the evaluation's id."""
        stage = self.claim(run_id)
        run = self.get(f"/api/v1/runs/{run_id}").json()
        report = eval_report(items, digest_of(run_id), run["pins"]["eval_dataset"]["dataset_sha256"])
        baseline = run["pins"]["baseline"]
        before = baseline and self.world.store.get_document(EvalReport, baseline["report_sha256"])
        verdict = decide(before, report, GatePolicy())
        stored = {
            "report_sha256": self.world.store.put_document(report),
            "verdict_sha256": self.world.store.put_document(verdict),
        }
        stage.end(Ending(JobState.SUCCEEDED, "evaluate done", result=stored), after_evaluation)
        return str(self.get(f"/api/v1/runs/{run_id}").json()["evaluation_id"])

    def register(self, run_id: str) -> None:
        job = self.get(f"/api/v1/runs/{run_id}").json()["jobs"][-1]
        self._registry.answer(RegisterJob(job_id=UUID(job["job_id"])))

    def finished_run(self, dataset: str, items: Sequence[ItemResult], **spec: Any) -> str:
        """A run that went all the way; its id."""
        run_id = self.start_run(dataset, **spec)
        stage = self.claim(run_id)
        stage.progress(range(41), 40)
        self.end_training(stage)
        self.evaluate(run_id, items)
        self.register(run_id)
        return run_id

    def _open(self, request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return _read(answer)
        except HTTPError as error:
            return _read(error)


def _read(answer: HTTPResponse | HTTPError) -> Answer:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(answer.status or 0, headers, answer.read().decode())


def eval_report(items: Sequence[ItemResult], model_sha256: str, dataset_sha256: str) -> EvalReport:
    return EvalReport(
        model_sha256=model_sha256,
        dataset_sha256=dataset_sha256,
        split="test",
        judge="answer_correctness@1",
        sampling=SamplingSpec(),
        items=tuple(items),
        overall=score(items),
        slices=slices(items),
        eval_set_sha256=eval_set_sha256(items),
    )


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def traces(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"A crate holds {number} apples. How many do two crates hold?",
            "steps": [
                {"i": 0, "type": "setup", "content": f"One crate holds {number} apples."},
                {"i": 1, "type": "calculation", "content": f"2 x {number} = {2 * number}"},
            ],
            "final_answer": str(2 * number),
            "meta": {"category": "fruit"},
        }
        for number in range(1, count + 1)
    ]


def items(count: int, correct: int, *, subject: str = "apples") -> list[ItemResult]:
    """The first `correct` are right, the last one was not scored."""
    outcomes = ["correct"] * correct + ["wrong"] * (count - correct - 1) + ["unscored"]
    return [
        ItemResult(
            item_id=f"item-{number}",
            prompt=f"How many {subject} are {number} and 1?",
            expected=str(number + 1),
            prediction=None if outcome == "unscored" else str(number + (1 if outcome == "correct" else 2)),
            outcome=outcome,
            extracted=None if outcome == "unscored" else str(number),
            reason=f"the judge found it {outcome}",
            section=("easy", "hard")[number % 2],
            group=digest_of(f"{subject}{number}"),
        )
        for number, outcome in enumerate(outcomes)
    ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings(home=tmp_path)
    database = open_database(settings.resolved_database_url)
    database.migrate()
    world = World(settings, database, open_store(settings.resolved_artifacts_url))
    app = create_app(settings, database, world.store)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield Site(world, f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path)
        server.should_exit = True
        thread.join()
    database.close()


@pytest.fixture
def filled(site: Site) -> Site:
    """A site with a champion, a challenger that lost, one judged on other items, and a failed run."""
    site.import_traces(traces(60))
    site.build_dataset("apples", validation_fraction=0.1, test_fraction=0.1)
    site.finished_run("apples", items(60, 45))
    site.finished_run("apples", items(60, 20))
    site.finished_run("apples", items(40, 38, subject="pears"), model_name="pears")
    stage = site.claim(site.start_run("apples"))
    stage.end(Ending(JobState.FAILED, "training diverged at step 3: lower the learning rate", "user_error"))
    return site


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    executable = shutil.which("chromium")
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed: install it, CI looks at the pages with it")
        pytest.skip("chromium is not installed: install it to look at the pages")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab; whatever the browser complains of on the console, or refuses to load, fails the test."""
    tab = browser.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    yield tab
    tab.close()
    assert complaints == []
