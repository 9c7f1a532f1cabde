"""Whose turn it is, what a wish does, and when a job is announced again: on each dialect."""

from datetime import timedelta

import pytest
from sqlalchemy import update

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import JobRecord, OutboxRecord, utc_now
from tunix_rt_common.pipeline import BELLS, Ending, NewJob
from tunix_rt_common.states import JobState

DONE = Ending(JobState.SUCCEEDED, "done")


@pytest.fixture
def machine(machine_on):
    return machine_on


def claimed_projects(machine, count):
    """Whose jobs are claimed, one after another, when each ends before the next begins."""
    projects = []
    for _ in range(count):
        claim = machine.claim_next()
        projects.append(machine.job(claim.job_id).project)
        machine.end(claim, DONE)
    return projects


def test_nothing_due_is_nothing_claimed(machine):
    assert machine.claim_next() is None
    machine.submit("evaluate")
    assert machine.claim_next("train") is None


def test_higher_priority_comes_first_and_age_decides_between_equals(machine):
    low, first, second, high = (machine.submit_run(priority=priority) for priority in (-1, 0, 0, 5))
    order = [machine.claim_next().job_id for _ in range(4)]
    assert order == [high, first, second, low]


def test_small_project_is_served_in_turn_with_one_that_queued_a_hundred_before_it(machine):
    for _ in range(20):
        machine.submit_run(project="huge", priority=100)
    for _ in range(3):
        machine.submit_run(project="small")
    assert claimed_projects(machine, 7) == ["huge", "small", "huge", "small", "huge", "small", "huge"]


def test_project_with_fewer_running_jobs_comes_first(machine):
    for project in ("a", "a", "a", "b", "b"):
        machine.submit_run(project=project)
    running = [machine.job(machine.claim_next().job_id).project for _ in range(5)]
    assert running == ["a", "b", "a", "b", "a"]


def test_retry_that_waits_and_job_that_is_cancelled_are_not_claimed(machine):
    later = machine.submit_run()
    machine.end(machine.claim(later), Ending(JobState.RETRY_WAIT, "tries again", delay_s=60))
    machine.cancel(machine.submit_run())
    assert machine.claim_next() is None


def test_paused_job_waits_until_it_is_resumed(machine):
    job_id = machine.submit_run()
    assert machine.pause(job_id) == "paused"
    assert (machine.claim_next(), machine.run_of(job_id).state) == (None, "paused")
    assert machine.pause(job_id) == "paused"
    assert machine.resume(job_id) == "queued"
    assert machine.resume(job_id) == "queued"
    assert machine.claim_next().job_id == job_id
    assert machine.states(job_id) == ["queued", "paused", "queued", "running"]


def test_pause_of_a_running_job_is_heard_at_the_next_heartbeat_and_can_be_taken_back(machine):
    claim = machine.claim(machine.submit_run())
    assert machine.pause(claim.job_id) == "running"
    assert machine.heartbeat(claim) == "pause"
    machine.resume(claim.job_id)
    assert machine.heartbeat(claim) is None


def test_cancel_outdoes_pause(machine):
    claim = machine.claim(machine.submit_run())
    machine.pause(claim.job_id)
    machine.cancel(claim.job_id)
    assert machine.heartbeat(claim) == "cancel"
    machine.end(claim, Ending(JobState.PAUSED, "paused"))
    assert machine.job(claim.job_id).state == "cancelled"


def test_paused_job_can_be_cancelled(machine):
    job_id = machine.submit_run()
    machine.pause(job_id)
    assert machine.cancel(job_id) == "cancelled"
    assert machine.run_of(job_id).state == "cancelled"


def test_job_that_fails_while_its_pause_is_asked_for_waits_paused_instead_of_trying_again(machine):
    claim = machine.claim(machine.submit_run())
    machine.pause(claim.job_id)
    machine.end(claim, Ending(JobState.RETRY_WAIT, "the child died"))
    assert machine.job(claim.job_id).state == "paused"


def test_waiting_job_whose_deadline_has_passed_is_not_claimed_and_fails(machine):
    job_id = machine.submit_run(deadline_at=utc_now() - timedelta(seconds=1))
    assert machine.claim_next() is None
    with machine.writing() as session:
        assert pipeline.fail_overdue(session) == 1
        assert pipeline.fail_overdue(session) == 0
    run = machine.run_of(job_id)
    assert (run.state, machine.job(job_id).failure_class) == ("failed", "deadline")
    assert "start a new run" in run.failure


def test_running_job_hears_of_its_deadline(machine):
    claim = machine.claim(machine.submit_run(deadline_at=utc_now() + timedelta(hours=1)))
    assert machine.heartbeat(claim) is None
    with machine.writing() as session:
        session.execute(update(JobRecord).values(deadline_at=utc_now() - timedelta(seconds=1)))
    assert machine.heartbeat(claim) == "deadline"


def test_next_stage_inherits_project_priority_and_deadline(machine):
    deadline = utc_now() + timedelta(hours=1)
    claim = machine.claim(machine.submit_run(project="p", priority=7, deadline_at=deadline))
    machine.end(claim, DONE, [NewJob("evaluate", run_id=claim.run_id)])
    evaluate = machine.all(JobRecord)[-1]
    assert (evaluate.project, evaluate.priority, evaluate.deadline_at) == ("p", 7, deadline)


def test_huge_backlog_is_announced_again_by_few_doorbells_and_not_again_at_once(machine):
    with machine.writing() as session:
        for _ in range(BELLS + 50):
            pipeline.submit(session, NewJob("build_dataset"))
        session.query(OutboxRecord).delete()
    with machine.writing() as session:
        assert pipeline.ring_unheard(session, doorbell_s=0) == BELLS
        assert pipeline.ring_unheard(session, doorbell_s=60) == 0
    assert len(machine.all(OutboxRecord)) == BELLS


def test_retry_links_to_the_attempts_before_it(machine):
    claim = machine.claim(machine.submit_run(traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"))
    with machine.writing() as session:
        pipeline.trace_attempt(session, claim, "00-" + "1" * 32 + "-" + "3" * 16 + "-01")
    machine.end(claim, Ending(JobState.RETRY_WAIT, "tries again"))
    again = machine.claim_next()
    assert again.traceparent == claim.traceparent
    assert again.earlier_attempts == ("00-" + "1" * 32 + "-" + "3" * 16 + "-01",)
