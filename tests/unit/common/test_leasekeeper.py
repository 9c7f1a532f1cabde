"""The thread that keeps a claim alive and writes down what the job says."""

import threading
import time

import pytest

from tunix_rt_common.db.models import LogRecord, MetricRecord
from tunix_rt_common.errors import OwnershipLost
from tunix_rt_common.jobreport import JobReport, Progress, Story
from tunix_rt_common.leasekeeper import LeaseKeeper
from tunix_rt_common.pipeline import Ending
from tunix_rt_common.states import JobState
from tunix_rt_common.testing.memory_store import MemoryStore
from tunix_rt_common.world import World

AGAIN = Ending(JobState.RETRY_WAIT, "tries again")
RUNNING_ON = threading.Event()


def keeper(machine, claim, report=None, **settings):
    """A keeper that beats by hand only, unless it is entered."""
    world = World(machine.settings.model_copy(update=settings), machine.database, MemoryStore())
    return LeaseKeeper(world, claim, report or JobReport())


def eventually(condition, patience_s=5.0):
    deadline = time.monotonic() + patience_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return met


def test_flush_writes_step_metrics_logs_and_story_at_once(machine):
    claim, report = machine.claim(machine.submit_run()), JobReport()
    report.hear(Progress(step=1, total_steps=9, numbers={"loss": 2.5}))
    report.hear(Story(kind="checkpoint", message="kept", detail={"step": 1}))
    report.hear(Progress(step=2, total_steps=9, numbers={"loss": None}))
    report.log("stdout", b"\xff\x00text")
    keeper(machine, claim, report).flush()
    run = machine.run_of(claim.job_id)
    assert (machine.job(claim.job_id).step, run.step, run.total_steps) == (2, 2, 9)
    assert [(row.step, row.numbers) for row in machine.all(MetricRecord)] == [(1, {"loss": 2.5}), (2, {"loss": None})]
    assert [(row.stream, row.chunk, row.attempt) for row in machine.all(LogRecord)] == [("stdout", b"\xff\x00text", 1)]
    assert machine.events(claim.job_id)[-1].message == "kept"


def test_step_that_is_done_again_replaces_its_metrics(machine):
    claim, report = machine.claim(machine.submit_run()), JobReport()
    lease = keeper(machine, claim, report)
    for loss in (3.0, 2.0):
        report.hear(Progress(step=5, numbers={"loss": loss}))
        lease.flush()
    assert [row.numbers for row in machine.all(MetricRecord)] == [{"loss": 2.0}]


def test_job_without_a_run_keeps_no_metrics_and_no_logs(machine):
    claim, report = machine.claim(machine.submit()), JobReport()
    report.hear(Progress(step=1, numbers={"loss": 1.0}))
    report.log("stdout", b"text")
    keeper(machine, claim, report).flush()
    assert (machine.all(MetricRecord), machine.all(LogRecord)) == ([], [])
    assert machine.job(claim.job_id).step == 1


def test_flush_after_another_claim_writes_nothing(machine):
    claim, report = machine.claim(machine.submit_run()), JobReport()
    machine.end(claim, AGAIN)
    machine.claim(claim.job_id)
    report.hear(Progress(step=7, numbers={"loss": 1.0}))
    report.log("stdout", b"text")
    with pytest.raises(OwnershipLost):
        keeper(machine, claim, report).flush()
    assert (machine.all(MetricRecord), machine.all(LogRecord), machine.job(claim.job_id).step) == ([], [], 0)


def test_loss_of_the_job_is_noticed_within_a_heartbeat(machine):
    claim = machine.claim(machine.submit())
    with keeper(machine, claim, heartbeat_s=0.02) as lease:
        assert lease.stop_reason(RUNNING_ON) is None
        machine.end(claim, AGAIN)
        assert eventually(lambda: lease.stop_reason(RUNNING_ON) == "lost")


def test_cancel_is_noticed_within_a_heartbeat(machine):
    claim = machine.claim(machine.submit())
    with keeper(machine, claim, heartbeat_s=0.02) as lease:
        machine.cancel(claim.job_id)
        assert eventually(lambda: lease.stop_reason(RUNNING_ON) == "cancel")


def test_job_is_stopped_when_its_time_is_over_and_when_it_hangs(machine):
    claim = machine.claim(machine.submit(timeout_s=0.05))
    lease = keeper(machine, claim, progress_timeout_s=60)
    assert eventually(lambda: lease.stop_reason(RUNNING_ON) == "timeout")
    endless = machine.claim(machine.submit())
    lease = keeper(machine, endless, progress_timeout_s=0.05)
    assert eventually(lambda: lease.stop_reason(RUNNING_ON) == "hung")


def test_stopping_worker_stops_its_job(machine):
    lease, stopping = keeper(machine, machine.claim(machine.submit())), threading.Event()
    assert lease.stop_reason(stopping) is None
    stopping.set()
    assert lease.stop_reason(stopping) == "shutdown"


def test_outage_of_the_database_loses_nothing_of_what_was_said(machine, tmp_path):
    claim, report = machine.claim(machine.submit_run()), JobReport()
    file, away = machine.settings.home_dir / "tunix-rt.db", tmp_path / "away"
    machine.database.close()
    with keeper(machine, claim, report, heartbeat_s=0.02) as lease:
        machine.database.close()
        away.mkdir()
        for part in machine.settings.home_dir.glob("tunix-rt.db*"):
            part.rename(away / part.name)
        file.mkdir()
        report.hear(Progress(step=4, numbers={"loss": 1.0}))
        report.log("stderr", b"said while away")
        time.sleep(0.2)
        assert lease.stop_reason(RUNNING_ON) is None
        file.rmdir()
        for part in away.iterdir():
            part.rename(machine.settings.home_dir / part.name)
        assert eventually(lambda: machine.job(claim.job_id).step == 4)
    assert [row.chunk for row in machine.all(LogRecord)] == [b"said while away"]
