"""The worker's edge for jobs that it does itself; jobs done by children are under tests/faults."""

import threading

import pytest

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import DatasetRecord, EventRecord
from tunix_rt_common.errors import InvalidInput, Unavailable, UnusableData
from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import BuildDatasetJob
from tunix_rt_common.pipeline import Ending, NewJob
from tunix_rt_common.states import JobState
from tunix_rt_common.supervisor import ShortJob, Supervisor
from tunix_rt_common.testing.memory_store import MemoryStore
from tunix_rt_common.world import World

AGAIN = Ending(JobState.RETRY_WAIT, "tries again")


def nothing_more(world, session, claim, result):
    return []


class Worker:
    """A supervisor for one kind of short job, and what it did."""

    def __init__(self, machine):
        self.machine, self.stopping, self.started = machine, threading.Event(), 0
        self.world = World(machine.settings, machine.database, MemoryStore())

    def handle(self, job_id, work=lambda world, claim: {"rows": 3}, finish=nothing_more):
        """Let the supervisor do the next job; this job afterwards."""
        self.work_once(work, finish)
        return self.machine.job(job_id)

    def work_once(self, work, finish=nothing_more):
        return self.supervisor(work, finish).work_once()

    def supervisor(self, work, finish=nothing_more):
        def counted(world, claim):
            self.started += 1
            return work(world, claim)

        jobs = {"build_dataset": ShortJob(counted, finish)}
        return Supervisor(self.world, jobs, self.stopping)


@pytest.fixture
def worker(machine):
    return Worker(machine)


def raising(error):
    def work(*_):
        raise error

    return work


def test_short_job_succeeds_with_its_result(machine, worker):
    job = worker.handle(machine.submit())
    assert (job.state, job.result) == ("succeeded", {"rows": 3})
    assert machine.states(job.id) == ["queued", "running", "succeeded"]


def test_doubled_message_is_worked_on_once(machine, worker):
    job_id = machine.submit()
    worker.handle(job_id)
    worker.handle(job_id)
    assert (worker.started, machine.job(job_id).attempt) == (1, 1)


def test_doorbell_that_rings_for_nothing_is_dropped(worker):
    assert worker.work_once(nothing_more) is False
    assert worker.started == 0


def test_one_doorbell_is_answered_until_nothing_is_due(machine, worker):
    jobs = [machine.submit() for _ in range(3)]
    worker.supervisor(lambda world, claim: {}).answer(BuildDatasetJob(job_id=jobs[1]))
    assert [machine.job(job_id).state for job_id in jobs] == ["succeeded"] * 3


def test_worker_told_to_stop_between_two_jobs_leaves_the_second(machine, worker):
    jobs = [machine.submit() for _ in range(2)]

    def work_and_be_told(world, claim):
        worker.stopping.set()
        return {}

    worker.supervisor(work_and_be_told).answer(BuildDatasetJob(job_id=jobs[0]))
    assert [machine.job(job_id).state for job_id in jobs] == ["succeeded", "queued"]


def test_what_finish_writes_and_the_next_job_appear_with_the_success(machine, worker):
    def finish(world, session, claim, result):
        session.add(DatasetRecord(id=new_id(), name="made", version=result["rows"], spec={}))
        return [NewJob("register", payload=result)]

    job = worker.handle(machine.submit(), finish=finish)
    assert job.state == "succeeded"
    assert [row.version for row in machine.all(DatasetRecord)] == [3]
    following = [event.job_kind for event in machine.all(EventRecord) if event.job_id != job.id]
    assert following == ["register"]


def test_users_error_fails_at_once_and_is_not_retried(machine, worker):
    job = worker.handle(machine.submit(), raising(UnusableData("no trace passes the filters")))
    assert (job.state, job.failure, job.attempt) == ("failed", "no trace passes the filters", 1)
    assert worker.handle(job.id).attempt == 1


def test_users_error_while_publishing_fails_and_keeps_nothing_of_it(machine, worker):
    def finish(world, session, claim, result):
        session.add(DatasetRecord(id=new_id(), name="half", version=1, spec={}))
        session.flush()
        raise InvalidInput("the name is taken")

    job = worker.handle(machine.submit(), finish=finish)
    assert (job.state, job.failure) == ("failed", "the name is taken")
    assert machine.all(DatasetRecord) == []


def test_store_that_is_away_is_retried(machine, worker):
    job = worker.handle(machine.submit(), raising(Unavailable("the disk is full")))
    assert (job.state, job.failure_class, job.counted_attempts) == ("retry_wait", "storage", 0)
    assert "the disk is full" in machine.events(job.id)[-1].message
    assert worker.handle(job.id).state == "succeeded"


def test_job_that_always_meets_the_same_outage_ends_in_quarantine(open_machine, tmp_path):
    worker = Worker(open_machine(tmp_path / "patient", max_preemptions=2, max_stalled_attempts=2))
    job_id = worker.machine.submit()
    states = [worker.handle(job_id, raising(Unavailable("the disk is full"))).state for _ in range(3)]
    assert states == ["retry_wait"] * 2 + ["quarantined"]


def test_unforeseen_error_leaves_the_job_to_the_sweeper_and_the_worker_alive(machine, worker):
    job = worker.handle(machine.submit(), raising(RuntimeError("a bug")))
    assert (job.state, job.claim_id is not None) == ("running", True)
    assert worker.handle(machine.submit()).state == "succeeded"


def test_worker_that_lost_its_job_writes_nothing(machine, worker):
    def stolen(world, claim):
        with machine.writing() as session:
            pipeline.advance(session, claim, AGAIN)
        machine.claim(claim.job_id)
        return {"rows": 3}

    def finish(world, session, claim, result):
        raise AssertionError("the publication of a job that belongs to somebody else")

    job = worker.handle(machine.submit(), stolen, finish)
    assert (job.state, job.attempt, job.result) == ("running", 2, None)


def test_cancel_that_arrives_during_the_work_publishes_nothing(machine, worker):
    def cancelled_meanwhile(world, claim):
        machine.cancel(claim.job_id)
        return {"rows": 3}

    def finish(world, session, claim, result):
        session.add(DatasetRecord(id=new_id(), name="unwanted", version=1, spec={}))
        return [NewJob("register")]

    job = worker.handle(machine.submit(), cancelled_meanwhile, finish)
    assert (job.state, machine.all(DatasetRecord)) == ("cancelled", [])
    assert "cancelled" in machine.events(job.id)[-1].message


def test_work_that_ends_while_the_database_is_away_is_kept_and_published_later(machine, worker):
    home, away = machine.settings.home_dir, machine.settings.home_dir / "away"

    def bring_back():
        (home / "tunix-rt.db").rmdir()
        for part in away.iterdir():
            part.rename(home / part.name)

    def outage(world, claim):
        machine.database.close()
        away.mkdir()
        for part in home.glob("tunix-rt.db*"):
            part.rename(away / part.name)
        (home / "tunix-rt.db").mkdir()
        threading.Timer(0.3, bring_back).start()
        return {"rows": 3}

    assert worker.handle(machine.submit(), outage).result == {"rows": 3}
    assert worker.started == 1


def test_stopping_worker_takes_no_further_job(machine, worker):
    worker.stopping.set()
    assert worker.handle(machine.submit()).state == "queued"


def test_lease_is_kept_while_the_work_lasts(machine, open_machine, tmp_path):
    worker = Worker(open_machine(tmp_path / "slow", lease_s=0.5, heartbeat_s=0.05))
    seen = []

    def slow(world, claim):
        for _ in range(10):
            threading.Event().wait(0.1)
            with worker.machine.reading() as session:
                seen.extend(pipeline.expired(session))
        return {}

    assert worker.handle(worker.machine.submit(), slow).state == "succeeded"
    assert seen == []
