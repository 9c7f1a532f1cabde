"""The five endpoints of the earlier system, as its scripts use them."""

import time
from uuid import UUID

import pytest
from sqlalchemy import select

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import JobRecord, LogRecord
from tunix_rt_common.db.session import open_database
from tunix_rt_common.logarchive import archive_logs
from tunix_rt_common.pipeline import Claim, Ending
from tunix_rt_common.settings import Settings
from tunix_rt_common.states import JobState
from tunix_rt_common.storage import open_store

BUILD, RUN, RUNS = "/api/datasets/build", "/api/tunix/run", "/api/tunix/runs"
WANTED = {"dataset_key": "sums-v1", "model_id": "tiny", "num_epochs": 1, "dry_run": False}
ENDED = {"completed", "failed", "timeout", "cancelled"}


def trace(number):
    steps = [{"i": 0, "type": "sum", "content": f"{number} and 1"}]
    return {"prompt": f"{number}+1=", "steps": steps, "final_answer": str(number + 1), "meta": {"parity": number % 2}}


class Hands:
    """A worker played by the test: it claims a run's training, writes output, and ends it."""

    def __init__(self, api):
        settings = Settings(home=api.home)
        self.database = open_database(settings.resolved_database_url)
        self.store = open_store(settings.resolved_artifacts_url)

    def claim(self, run_id: str) -> Claim:
        with self.database.transaction() as session:
            job_id = session.scalars(select(JobRecord.id).where(JobRecord.run_id == UUID(run_id))).one()
            claim = pipeline.claim(session, job_id, "test", 60)
        assert claim
        return claim

    def write(self, claim: Claim, stream: str, chunk: bytes) -> None:
        with self.database.transaction() as session:
            named = {"run_id": claim.run_id, "job_id": claim.job_id, "attempt": 1}
            session.add(LogRecord(stream=stream, chunk=chunk, **named))

    def end(self, claim: Claim, state: JobState) -> None:
        with self.database.transaction() as session:
            pipeline.hold(session, claim)
            pipeline.advance(session, claim, Ending(state, "it ended"))


@pytest.fixture
def sums(api):
    api.import_traces(*map(trace, range(20)))
    built = api.post(BUILD, {"dataset_name": "sums", "dataset_version": "v1"})
    assert built.status == 201, built.text
    assert built.json["dataset_key"] == "sums-v1"
    return api


@pytest.fixture
def hands(sums):
    hands = Hands(sums)
    yield hands
    hands.database.close()


def start(api, **changes) -> str:
    accepted = api.post(RUN, WANTED | changes)
    assert accepted.status == 202, accepted.text
    assert accepted.headers["location"] == f"{RUNS}/{accepted.json['run_id']}"
    return str(accepted.json["run_id"])


def test_build_answers_when_the_dataset_is_there(sums):
    built = sums.post(BUILD, {"dataset_name": "odd", "dataset_version": "v2", "filters": {"parity": "1"}}).json
    assert built["trace_count"] == 10
    assert sums.get(built["manifest_path"]).json["state"] == "succeeded"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dataset_name": ""}, "dataset_name"),
        ({"dataset_name": "../x"}, "dataset_name"),
        ({"dataset_name": "x" * 64}, "dataset_name"),
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"seed": -1}, "seed"),
        ({"selection_strategy": "best"}, "selection_strategy"),
        ({"session_id": 1}, "session_id"),
    ],
)
def test_build_that_cannot_work_is_refused_by_field(sums, change, field):
    problem = sums.post(BUILD, {"dataset_name": "a", "dataset_version": "v1", **change}).problem(422)
    assert problem["errors"][0]["field"] == field


def test_build_of_nothing_says_so(sums):
    filters = {"parity": "7"}
    problem = sums.post(BUILD, {"dataset_name": "a", "dataset_version": "v1", "filters": filters}).problem(422)
    assert "no trace passes the filters" in problem["detail"]


def test_dry_run_shows_the_plan_fast_and_keeps_nothing(sums, stories, broken_copy):
    folder = broken_copy(sums.models / "stories", lambda _: None)
    blobs = sorted(sums.home.rglob("blobs/sha256/*/*"))
    began = time.monotonic()
    answer = sums.post(RUN, WANTED | {"dry_run": True, "model_id": str(folder)})
    assert time.monotonic() - began < 5
    assert answer.status == 202
    plan = answer.json
    assert (plan["mode"], plan["status"]) == ("dry-run", "completed")
    assert "18 training rows" in plan["stdout"]
    assert "stories" in plan["stdout"]
    assert sums.get(RUNS).json["data"] == []
    assert sorted(sums.home.rglob("blobs/sha256/*/*")) == blobs


def test_run_is_dry_unless_asked_otherwise(sums):
    assert sums.post(RUN, {"dataset_key": "sums-v1", "model_id": "tiny"}).json["mode"] == "dry-run"


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dataset_key": "nobody-v1"}, "dataset"),
        ({"model_id": "google/gemma-2b"}, "base_model"),
        ({"model_id": "/etc"}, "base_model"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"num_epochs": True}, "num_epochs"),
        ({"num_epochs": "3"}, "num_epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_seq_length": 64}, "max_seq_length"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
        ({"timeout_seconds": 1e30}, "timeout_seconds"),
        ({"max_output_bytes": -1}, "max_output_bytes"),
        ({"max_output_bytes": 102_401}, "max_output_bytes"),
        ({"output_dir": ""}, "output_dir"),
        ({"engine": "torch"}, "engine"),
        ({"command": "rm -rf /"}, "command"),
    ],
)
def test_run_that_cannot_work_is_refused_by_field(sums, dry_run, change, field):
    problem = sums.post(RUN, WANTED | {"dry_run": dry_run} | change).problem(422)
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize("dry_run", [True, False])
def test_engine_that_is_not_installed_comes_with_the_command_that_installs_it(sums, dry_run):
    problem = sums.post(RUN, WANTED | {"engine": "tunix", "dry_run": dry_run}).problem(501)
    assert "pip install google-tunix" in problem["detail"]
    assert sums.get(RUNS).json["data"] == []


def test_status_says_that_the_engine_is_not_needed(sums):
    status = sums.get("/api/tunix/status").json
    assert (status["available"], status["runtime_required"]) == (False, False)
    assert "pip install google-tunix" in status["message"]


def test_runs_are_paged_newest_first(sums):
    started = [start(sums) for _ in range(5)]
    pages = [sums.get(RUNS, limit=2, offset=offset).json for offset in (0, 2, 4)]
    assert [run["run_id"] for page in pages for run in page["data"]] == started[::-1]
    assert [page["pagination"]["next_offset"] for page in pages] == [2, 4, None]
    assert sums.get(RUNS, offset=2**31 - 1).json["data"] == []


def test_runs_are_filtered_by_status_and_dataset(sums, hands):
    sums.post(BUILD, {"dataset_name": "other", "dataset_version": "v1"})
    failed, running, other = start(sums), start(sums), start(sums, dataset_key="other-v1")
    hands.end(hands.claim(failed), JobState.FAILED)
    hands.claim(running)

    def found(**filters: str) -> list[str]:
        return [run["run_id"] for run in sums.get(RUNS, **filters).json["data"]]

    assert found(status="failed") == [failed]
    assert found(status="running") == [running]
    assert found(status="pending") == [other]
    assert found(dataset_key="sums-v1") == [running, failed]
    assert found(dataset_key="sums-v1", status="pending") == []
    assert found(dataset_key="' OR 1=1 --") == []


def test_runs_of_the_new_api_are_not_listed(sums):
    run_id = sums.start("sums-v1", "tiny").rpartition("/")[2]
    assert sums.get(RUNS).json["data"] == []
    assert f"/api/v1/runs/{run_id}" in sums.get(f"{RUNS}/{run_id}").problem(404)["detail"]


@pytest.mark.parametrize(("asked", "limit"), [({}, 10_240), ({"max_output_bytes": 102_400}, 102_400)])
def test_output_is_cut_before_a_character_and_whole_in_the_artifact(sums, hands, asked, limit):
    run_id = start(sums, **asked)
    claim = hands.claim(run_id)
    hands.write(claim, "stdout", b"begin ")
    for _ in range(50):
        hands.write(claim, "stdout", "€".encode() * 1000)
    hands.write(claim, "stderr", "😀".encode() * 40_000)
    logs = archive_logs(hands.database, hands.store, claim)
    shown = sums.get(f"{RUNS}/{run_id}").json
    assert limit - 3 < len(shown["stdout"].encode()) <= limit
    assert limit - 4 < len(shown["stderr"].encode()) <= limit
    assert set(shown["stdout"]) == {"€"}
    assert set(shown["stderr"]) == {"😀"}
    assert len(hands.store.read(logs)) == len("begin ") + 3 * 50_000 + 4 * 40_000


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_limit_smaller_than_a_character_shows_nothing_of_it(sums, hands, limit):
    run_id = start(sums, max_output_bytes=limit)
    hands.write(hands.claim(run_id), "stdout", "€😀".encode())
    assert sums.get(f"{RUNS}/{run_id}").json["stdout"] == ""


def test_output_that_is_not_utf8_is_shown_all_the_same(sums, hands):
    run_id = start(sums)
    hands.write(hands.claim(run_id), "stdout", b"\xff\xfe\x80 ok")
    shown = sums.get(f"{RUNS}/{run_id}").json["stdout"]
    assert shown.endswith(" ok")
    assert "�" in shown


def test_run_beyond_its_time_ends_as_timeout_and_keeps_its_logs(world):
    world.import_traces(*map(trace, range(20)))
    world.post(BUILD, {"dataset_name": "sums", "dataset_version": "v1"})
    run = world.wait(f"{RUNS}/{start(world, timeout_seconds=0.2)}", ENDED)
    assert (run["status"], run["exit_code"]) == ("timeout", -1)
    assert "0.2 s" in run["message"]
    assert [found["run_id"] for found in world.get(RUNS, status="timeout").json["data"]] == [run["run_id"]]
    assert world.get(RUNS, status="failed").json["data"] == []


def test_completed_run_shows_its_output_and_where_all_of_it_is(world):
    world.import_traces(*map(trace, range(20)))
    world.post(BUILD, {"dataset_name": "sums", "dataset_version": "v1"})
    run_id = start(world, batch_size=8, max_seq_length=128)
    run = world.wait(f"{RUNS}/{run_id}", ENDED)
    assert (run["status"], run["exit_code"]) == ("completed", 0)
    assert "step 3/3" in run["stdout"] + run["stderr"]
    whole = world.get(run["logs_url"])
    assert whole.status == 200
    assert "step 3/3" in whole.text
    assert world.get(f"/api/v1/runs/{run_id}").json["model_version"] == 1
