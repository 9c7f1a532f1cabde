"""Many hands on one job: whoever comes first has it, and nobody else writes."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import AttemptRecord, JobRecord
from tunix_rt_common.errors import OwnershipLost
from tunix_rt_common.pipeline import Ending, NewJob
from tunix_rt_common.queue import open_queue
from tunix_rt_common.relay import Relay
from tunix_rt_common.states import JobState

CLAIMER = Path(__file__).parent / "children" / "claimer.py"
DONE = Ending(JobState.SUCCEEDED, "done")


def at_once(*actions):
    """Do all of it in threads that start together; what each returned."""
    barrier, outcomes = threading.Barrier(len(actions)), [None] * len(actions)

    def act(place):
        barrier.wait()
        outcomes[place] = actions[place]()

    threads = [threading.Thread(target=act, args=(place,)) for place in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_of_many_threads_exactly_one_claims_each_job(machine_on):
    for _ in range(10):
        job_id = machine_on.submit()
        claims = at_once(*[lambda job_id=job_id: machine_on.try_claim(job_id)] * 6)
        assert sum(claim is not None for claim in claims) == 1
    assert len(machine_on.all(AttemptRecord)) == 10


def test_of_many_processes_exactly_one_claims_each_job(machine_on):
    jobs = {str(machine_on.submit()) for _ in range(15)}
    command = [sys.executable, CLAIMER, machine_on.settings.resolved_database_url, *jobs]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.close()
    got = [line for process in processes for line in process.stdout.read().split()]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sorted(got) == sorted(jobs)
    assert {job.attempt for job in machine_on.all(JobRecord)} == {1}


def test_cancel_racing_the_finish_leaves_one_ending_and_a_next_stage_only_after_success(machine_on):
    endings = set()
    for _ in range(15):
        claim = machine_on.claim(machine_on.submit_run())
        evaluate = NewJob("evaluate", run_id=claim.run_id)
        at_once(
            lambda claim=claim: machine_on.cancel(claim.job_id),
            lambda claim=claim, evaluate=evaluate: machine_on.end(claim, DONE, [evaluate]),
        )
        state = machine_on.job(claim.job_id).state
        following = [job for job in machine_on.all(JobRecord) if job.run_id == claim.run_id and job.kind == "evaluate"]
        assert (state, len(following)) in {("succeeded", 1), ("cancelled", 0)}
        assert machine_on.states(claim.job_id) == ["queued", "running", state]
        endings.add(state)
    assert endings <= {"succeeded", "cancelled"}


def test_cancel_racing_the_claim_stops_the_job_before_or_after_it_starts(machine_on):
    for _ in range(15):
        job_id = machine_on.submit_run()
        claim, _ = at_once(
            lambda job_id=job_id: machine_on.try_claim(job_id), lambda job_id=job_id: machine_on.cancel(job_id)
        )
        if claim is None:
            assert machine_on.states(job_id) == ["queued", "cancelled"]
        else:
            assert machine_on.heartbeat(claim) == "cancel"


def test_two_finishes_of_one_claim_end_it_once(machine_on):
    claim = machine_on.claim(machine_on.submit_run())

    def finish():
        try:
            machine_on.end(claim, DONE, [NewJob("evaluate", run_id=claim.run_id)])
        except OwnershipLost:
            return "lost"
        return "done"

    assert sorted(at_once(*[finish] * 4)) == ["done", "lost", "lost", "lost"]
    assert [job.kind for job in machine_on.all(JobRecord)] == ["train", "evaluate"]
    assert machine_on.states(claim.job_id).count("succeeded") == 1


@pytest.mark.parametrize("open_machine_on", ["postgresql"], indirect=True)
def test_silent_owner_that_froze_within_a_transaction_holds_up_nobody_elses_expiry(machine_on):
    frozen, silent = (machine_on.claim(machine_on.submit_run(), lease_s=-1) for _ in range(2))
    relay = Relay(machine_on.database, open_queue("inline://"), machine_on.settings)
    with machine_on.writing() as session:
        pipeline.hold(session, frozen)
        assert relay.expire_leases() == 1
    assert (machine_on.job(frozen.job_id).state, machine_on.job(silent.job_id).state) == ("running", "retry_wait")
    assert relay.expire_leases() == 1
