"""The job machine, move by move: what each writes, and what it refuses."""

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import AttemptRecord, EventRecord, JobRecord, OutboxRecord
from tunix_rt_common.errors import NotFound, OwnershipLost
from tunix_rt_common.ids import new_id
from tunix_rt_common.pipeline import Ending, NewJob
from tunix_rt_common.states import CLAIMABLE, LEGAL, TERMINAL, JobState

OVER = -1.0
DONE = Ending(JobState.SUCCEEDED, "done", result={"answer": 42})
AGAIN = Ending(JobState.RETRY_WAIT, "tries again", "crash")
LEFT = Ending(JobState.QUEUED, "preempted", "preempted", counted=False)
ENDINGS = [Ending(state, f"becomes {state}") for state in sorted(LEGAL[JobState.RUNNING])]


def snapshot(machine):
    """All that the machine has written, to see that nothing was."""
    kinds = (JobRecord, AttemptRecord, EventRecord, OutboxRecord)
    return [
        {column.key: getattr(row, column.key) for column in row.__table__.columns}
        for kind in kinds
        for row in machine.all(kind)
    ]


def crash_after(machine, write):
    """Write, and die before the commit."""
    with machine.writing() as session:
        write(session)
        raise ZeroDivisionError


def test_submitting_writes_job_event_and_doorbell_together(machine):
    job_id = machine.submit(payload={"a": [1]})
    job = machine.job(job_id)
    assert (job.state, job.payload, job.attempt, job.fence, job.claim_id) == ("queued", {"a": [1]}, 0, 0, None)
    assert machine.states(job_id) == ["queued"]
    assert [row.published_at for row in machine.doorbells(job_id)] == [None]


def test_submission_that_is_not_committed_leaves_nothing(machine):
    with pytest.raises(ZeroDivisionError):
        crash_after(machine, lambda session: pipeline.submit(session, NewJob("train")))
    assert snapshot(machine) == []


def test_claim_names_the_work_and_whose_it_is(machine):
    job_id = machine.submit_run(payload={"x": 1}, timeout_s=5.0)
    claim, job = machine.claim(job_id), machine.job(job_id)
    assert (claim.job_id, claim.claim_id, claim.run_id) == (job_id, job.claim_id, job.run_id)
    assert (claim.kind, claim.payload, claim.timeout_s) == ("train", {"x": 1}, 5.0)
    assert (claim.attempt, claim.fence, job.state, job.worker) == (1, 1, "running", "worker")


def test_doubled_message_claims_once(machine):
    job_id = machine.submit()
    assert machine.try_claim(job_id)
    before = snapshot(machine)
    assert machine.try_claim(job_id) is None
    assert snapshot(machine) == before


def test_doorbell_of_a_job_that_does_not_exist_rings_for_nothing(machine):
    assert machine.try_claim(new_id()) is None


def test_job_is_not_claimed_before_its_back_off_is_over(machine):
    job_id = machine.submit()
    machine.end(machine.claim(job_id), Ending(JobState.RETRY_WAIT, "later", delay_s=3600))
    assert machine.try_claim(job_id) is None
    doorbell = machine.doorbells(job_id)[-1]
    assert doorbell.due_at == machine.job(job_id).not_before


def test_each_claim_has_a_new_id_and_a_higher_fence(machine):
    job_id = machine.submit()
    claims = []
    for ending in (AGAIN, LEFT, AGAIN):
        claims.append(machine.claim(job_id))
        machine.end(claims[-1], ending)
    claims.append(machine.claim(job_id))
    assert [claim.fence for claim in claims] == [1, 2, 3, 4]
    assert len({claim.claim_id for claim in claims}) == 4
    assert [row.claim_id for row in machine.all(AttemptRecord)] == [claim.claim_id for claim in claims]


def test_expired_lease_is_still_owned_until_somebody_else_claims(machine):
    claim = machine.claim(machine.submit(), lease_s=OVER)
    assert machine.heartbeat(claim, 7) is None
    with machine.reading() as session:
        assert pipeline.expired(session) == []
    assert machine.job(claim.job_id).step == 7


@pytest.mark.parametrize(
    "write",
    [
        lambda session, claim: pipeline.heartbeat(session, claim, step=9, lease_s=60),
        pipeline.hold,
        lambda session, claim: pipeline.advance(session, claim, DONE, [NewJob("register")]),
    ],
    ids=["heartbeat", "hold", "advance"],
)
@pytest.mark.parametrize("by_now", ["claimed by another", "waiting", "ended"])
def test_stale_claim_writes_nothing(machine, write, by_now):
    job_id = machine.submit()
    stale = machine.claim(job_id)
    machine.end(stale, DONE if by_now == "ended" else AGAIN)
    if by_now == "claimed by another":
        machine.claim(job_id)
    before = snapshot(machine)
    with pytest.raises(OwnershipLost), machine.writing() as session:
        write(session, stale)
    assert snapshot(machine) == before


def test_success_and_the_next_stage_become_true_together(machine):
    job_id = machine.submit_run()
    claim = machine.claim(job_id)
    machine.end(claim, DONE, [NewJob("evaluate", payload={"m": 1}, run_id=claim.run_id)])
    train, evaluate = machine.all(JobRecord)
    assert (train.state, train.result, train.claim_id, train.lease_expires_at) == (
        "succeeded",
        {"answer": 42},
        None,
        None,
    )
    assert (evaluate.kind, evaluate.state, evaluate.payload) == ("evaluate", "queued", {"m": 1})
    assert machine.states(evaluate.id) == ["queued"]
    assert len(machine.doorbells(evaluate.id)) == 1


def test_failure_between_ending_and_commit_leaves_the_attempt_running(machine):
    job_id = machine.submit_run()
    claim = machine.claim(job_id)
    before = snapshot(machine)
    evaluate = NewJob("evaluate", run_id=claim.run_id)
    with pytest.raises(ZeroDivisionError):
        crash_after(machine, lambda session: pipeline.advance(session, claim, DONE, [evaluate]))
    assert snapshot(machine) == before
    machine.end(claim, DONE)


def test_next_stage_that_cannot_be_written_takes_the_success_back(machine):
    claim = machine.claim(machine.submit_run())
    before = snapshot(machine)
    with pytest.raises(IntegrityError):
        machine.end(claim, DONE, [NewJob("evaluate", dataset_id=new_id())])
    assert snapshot(machine) == before


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.state)
def test_attempt_ends_in_every_legal_state_and_its_outcome_is_written(machine, ending):
    job_id = machine.submit_run()
    machine.end(machine.claim(job_id), ending)
    job, attempt = machine.job(job_id), machine.all(AttemptRecord)[0]
    assert (job.state, job.claim_id) == (ending.state, None)
    assert (job.finished_at is not None) == (ending.state in TERMINAL)
    assert (attempt.outcome, attempt.ended_at is not None) == (ending.message, True)
    assert machine.states(job_id) == ["queued", "running", ending.state]
    assert len(machine.doorbells(job_id)) == 1 + (ending.state in CLAIMABLE)


def test_attempt_cannot_end_by_running_on(machine):
    claim = machine.claim(machine.submit())
    with pytest.raises(ValueError, match="cannot become running"):
        machine.end(claim, Ending(JobState.RUNNING, "goes on"))


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_terminal_state_never_changes(machine, state):
    job_id = machine.submit()
    claim = machine.claim(job_id, lease_s=OVER)
    machine.end(claim, Ending(state, "the end"))
    before = snapshot(machine)
    assert machine.try_claim(job_id) is None
    assert machine.cancel(job_id) == state
    with pytest.raises(OwnershipLost):
        machine.end(claim, DONE)
    with machine.writing() as session:
        assert pipeline.ring_unheard(session, doorbell_s=0) == 0
        assert pipeline.expired(session) == []
    assert snapshot(machine) == before


def test_only_a_success_leads_to_the_next_stage(machine):
    claim = machine.claim(machine.submit())
    machine.end(claim, AGAIN, [NewJob("register")])
    assert [job.kind for job in machine.all(JobRecord)] == ["build_dataset"]


def test_preemption_costs_nothing_and_the_job_waits_at_once(machine):
    job_id = machine.submit()
    for _ in range(20):
        machine.end(machine.claim(job_id), LEFT)
    job = machine.job(job_id)
    assert (job.state, job.attempt, job.counted_attempts, job.stalled_attempts) == ("queued", 20, 0, 0)


def test_attempts_that_end_at_one_step_are_counted_as_stalled_until_one_gets_further(machine):
    job_id, stalled = machine.submit(), []
    for step in (0, 0, 5, 5, 6):
        claim = machine.claim(job_id)
        machine.heartbeat(claim, step)
        machine.end(claim, AGAIN)
        stalled.append(machine.job(job_id).stalled_attempts)
    assert stalled == [1, 2, 1, 2, 1]
    assert machine.job(job_id).counted_attempts == 5


@pytest.mark.parametrize("state", ["queued", "retry_wait", "paused"])
def test_cancel_ends_a_job_that_nobody_runs_at_once(machine, state):
    job_id = machine.submit_run()
    if state != "queued":
        machine.end(machine.claim(job_id), Ending(JobState(state), "not now"))
    assert machine.cancel(job_id) == "cancelled"
    assert machine.try_claim(job_id) is None
    assert machine.run_of(job_id).state == "cancelled"
    assert machine.states(job_id)[-2:] == [state, "cancelled"]


def test_cancel_of_a_running_job_is_heard_at_the_next_heartbeat(machine):
    claim = machine.claim(machine.submit_run())
    assert machine.heartbeat(claim) is None
    assert machine.cancel(claim.job_id) == "running"
    assert machine.heartbeat(claim) == "cancel"


def test_cancelling_twice_is_told_once(machine):
    claim = machine.claim(machine.submit_run())
    machine.cancel(claim.job_id)
    before = snapshot(machine)
    assert machine.cancel(claim.job_id) == "running"
    assert snapshot(machine) == before


@pytest.mark.parametrize("ending", [DONE, AGAIN, LEFT], ids=lambda ending: ending.state)
def test_cancel_wins_over_success_and_over_another_attempt(machine, ending):
    claim = machine.claim(machine.submit_run())
    machine.cancel(claim.job_id)
    machine.end(claim, ending, [NewJob("evaluate", run_id=claim.run_id)])
    assert machine.job(claim.job_id).state == "cancelled"
    assert machine.run_of(claim.job_id).state == "cancelled"
    assert len(machine.all(JobRecord)) == 1


def test_cancel_does_not_hide_a_failure(machine):
    claim = machine.claim(machine.submit_run())
    machine.cancel(claim.job_id)
    machine.end(claim, Ending(JobState.FAILED, "no rows"))
    assert machine.run_of(claim.job_id).failure == "no rows"


def test_cancel_of_a_job_whose_worker_died_ends_it_when_its_lease_runs_out(machine):
    claim = machine.claim(machine.submit_run(), lease_s=OVER)
    machine.cancel(claim.job_id)
    with machine.writing() as session:
        assert pipeline.expire(session, pipeline.expired(session)[0], AGAIN)
    assert machine.job(claim.job_id).state == "cancelled"


def test_cancelling_a_job_that_does_not_exist_is_not_found(machine):
    with pytest.raises(NotFound):
        machine.cancel(new_id())


def test_run_follows_its_jobs_to_the_last_stage(machine):
    job_id, told = machine.submit_run(), []
    for following in ("evaluate", "register", None):
        claim = machine.claim(job_id)
        next_jobs = [NewJob(following, run_id=claim.run_id)] if following else []
        machine.end(claim, DONE, next_jobs)
        run = machine.run_of(job_id)
        told.append((run.state, run.stage, run.finished_at is not None))
        job_id = machine.all(JobRecord)[-1].id
    assert told == [("running", "evaluate", False), ("running", "register", False), ("succeeded", "register", True)]


@pytest.mark.parametrize(
    ("kind", "ending", "state"),
    [
        ("train", AGAIN, "retry_wait"),
        ("train", LEFT, "queued"),
        ("evaluate", LEFT, "running"),
        ("evaluate", Ending(JobState.FAILED, "no rows"), "failed"),
        ("register", Ending(JobState.QUARANTINED, "spent"), "quarantined"),
    ],
)
def test_run_shows_how_its_stage_goes(machine, kind, ending, state):
    job_id = machine.submit(kind, run_id=machine.add_run())
    machine.end(machine.claim(job_id), ending)
    run = machine.run_of(job_id)
    assert (run.state, run.stage) == (state, kind)
    assert run.failure == (ending.message if state in {"failed", "quarantined"} else None)


def test_job_without_a_run_lives_and_ends_alone(machine):
    job_id = machine.submit("build_dataset")
    machine.end(machine.claim(job_id), DONE)
    assert machine.job(job_id).state == "succeeded"


def test_job_that_nobody_heard_of_is_announced_again(machine):
    job_id = machine.submit()
    with machine.writing() as session:
        assert pipeline.ring_unheard(session, doorbell_s=60) == 0
        assert pipeline.ring_unheard(session, doorbell_s=0) == 1
    assert len(machine.doorbells(job_id)) == 2


def test_running_waiting_and_ended_jobs_are_not_announced_again(machine):
    machine.claim(machine.submit())
    machine.end(machine.claim(machine.submit()), Ending(JobState.RETRY_WAIT, "later", delay_s=3600))
    machine.end(machine.claim(machine.submit()), DONE)
    machine.cancel(machine.submit())
    with machine.writing() as session:
        assert pipeline.ring_unheard(session, doorbell_s=0) == 0


def test_only_silent_workers_are_expired(machine):
    silent, speaking = machine.claim(machine.submit(), lease_s=OVER), machine.claim(machine.submit())
    with machine.writing() as session:
        assert [job.id for job in pipeline.expired(session)] == [silent.job_id]
    assert machine.job(speaking.job_id).state == "running"


def test_worker_that_spoke_after_the_sweeper_looked_keeps_its_job(machine):
    claim = machine.claim(machine.submit(), lease_s=OVER)
    with machine.reading() as session:
        silent = pipeline.expired(session)
    machine.heartbeat(claim)
    with machine.writing() as session:
        assert not pipeline.expire(session, silent[0], AGAIN)
    assert machine.job(claim.job_id).claim_id == claim.claim_id


@pytest.mark.parametrize("first", [AGAIN, Ending(JobState.QUARANTINED, "spent")], ids=lambda ending: ending.state)
def test_lease_expires_once_however_often_it_is_swept(machine, first):
    machine.claim(machine.submit(), lease_s=OVER)
    with machine.writing() as session:
        silent = pipeline.expired(session)[0]
        assert pipeline.expire(session, silent, first)
        assert not pipeline.expire(session, silent, AGAIN)
    assert machine.states(silent.id) == ["queued", "running", first.state]


def test_story_of_a_job_is_told_in_order(machine):
    claim = machine.claim(machine.submit_run())
    with machine.writing() as session:
        pipeline.hold(session, claim)
        pipeline.tell(session, claim, "checkpoint", "step 3", {"step": 3})
    machine.end(claim, DONE)
    told = [(event.kind, event.message, event.detail) for event in machine.events(claim.job_id)]
    assert told == [
        ("state", "train queued", {}),
        ("state", "train attempt 1 started", {}),
        ("checkpoint", "step 3", {"step": 3}),
        ("state", "done", {}),
    ]


def test_database_refuses_a_running_job_without_a_claim(machine):
    job_id = machine.submit()
    with pytest.raises(IntegrityError, match="running_is_claimed"), machine.writing() as session:
        session.execute(update(JobRecord).where(JobRecord.id == job_id).values(state="running"))
    with pytest.raises(IntegrityError, match="running_is_claimed"), machine.writing() as session:
        session.execute(update(JobRecord).where(JobRecord.id == job_id).values(claim_id=new_id()))
