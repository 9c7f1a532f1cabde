"""Whatever happens to jobs and messages, in whatever order: the promises of the job machine hold after each step."""

import shutil
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from tunix_rt_common import endings, pipeline
from tunix_rt_common.db.models import AttemptRecord, EventRecord, JobRecord, OutboxRecord, RunRecord
from tunix_rt_common.errors import OwnershipLost, Unavailable
from tunix_rt_common.pipeline import Ending, NewJob
from tunix_rt_common.relay import Relay
from tunix_rt_common.states import CLAIMABLE, LEGAL, OVERRULED_BY_CANCEL, TERMINAL, JobState

OVER = -1.0
NEXT_KIND = {"train": "evaluate", "evaluate": "register"}
DONE = Ending(JobState.SUCCEEDED, "done")
MAX_ATTEMPTS = 4
ENOUGH_ROUNDS = 20


class Rehearsal(Exception):
    """Raised at the end of a transaction of which nothing shall be kept."""


class LossyQueue:
    """A queue whose messages a test may take, double and lose, and which may break once it has taken one."""

    def __init__(self):
        self.messages, self.breaks = [], False

    def publish(self, message):
        self.messages.append(message.job_id)
        if self.breaks:
            raise Unavailable("the broker went away")


class AnyOrder(RuleBasedStateMachine):
    """A real job machine, and beside it a model that knows who owns what."""

    jobs, claims = Bundle("jobs"), Bundle("claims")
    open_machine = None

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.machine = self.open_machine(Path(self.folder) / "home", max_attempts=MAX_ATTEMPTS)
        self.queue = LossyQueue()
        self.relay = Relay(self.machine.database, self.queue, self.machine.settings)
        self.owners, self.lapsed, self.asked_to_cancel, self.ended = {}, set(), set(), {}

    def teardown(self):
        try:
            self.everything_ends_when_nothing_fails_any_more()
        finally:
            self.machine.database.close()
            shutil.rmtree(self.folder)

    @rule(target=jobs)
    def submit(self):
        return self.machine.submit_run()

    @rule(breaks=st.booleans())
    def publish(self, breaks):
        self.queue.breaks = breaks
        try:
            self.relay.publish_due()
        except Unavailable:
            assert breaks
        self.queue.breaks = False

    @precondition(lambda self: self.queue.messages)
    @rule(data=st.data())
    def drop_message(self, data):
        self.queue.messages.pop(self._any_message(data))

    @precondition(lambda self: self.queue.messages)
    @rule(data=st.data())
    def double_message(self, data):
        self.queue.messages.append(self.queue.messages[self._any_message(data)])

    @precondition(lambda self: self.queue.messages)
    @rule(target=claims, data=st.data(), silent=st.booleans())
    def deliver(self, data, silent):
        return self._claim(self.queue.messages.pop(self._any_message(data)), silent)

    @rule(target=claims, job_id=jobs, silent=st.booleans())
    def deliver_from_nowhere(self, job_id, silent):
        return self._claim(job_id, silent)

    @rule(claim=claims, step=st.integers(0, 3), silent=st.booleans())
    def heartbeat(self, claim, step, silent):
        cancelled = self._as_owner(claim, lambda: self._beat(claim, step, silent))
        assert cancelled is None or cancelled == (claim.job_id in self.asked_to_cancel)
        if cancelled is not None:
            self._lease(claim.job_id, silent)

    @rule(claim=claims)
    def finish(self, claim):
        if claim is None:
            return
        following = [NewJob(NEXT_KIND[claim.kind], run_id=claim.run_id)] if claim.kind in NEXT_KIND else []
        self._end(claim, DONE, following)

    @rule(claim=claims)
    def fail(self, claim):
        self._end(claim, endings.user_error("no rows"))

    @rule(claim=claims)
    def leave(self, claim):
        if claim is not None:
            self._end(claim, endings.preempted(self.machine.job(claim.job_id), self.machine.settings))

    @rule(claim=claims)
    def crash(self, claim):
        if claim is not None:
            job = self.machine.job(claim.job_id)
            self._end(claim, endings.died(job, self.machine.settings, -9, ""))

    @rule(job_id=jobs)
    def cancel(self, job_id):
        before = self.machine.job(job_id).state
        after = self.machine.cancel(job_id)
        if before == JobState.RUNNING:
            assert after == JobState.RUNNING
            self.asked_to_cancel.add(job_id)
        else:
            assert after == (before if before in TERMINAL else JobState.CANCELLED)

    @rule(job_id=jobs)
    def pause(self, job_id):
        before = self.machine.job(job_id).state
        assert self.machine.pause(job_id) == (JobState.PAUSED if before in CLAIMABLE else before)

    @rule(job_id=jobs)
    def resume(self, job_id):
        before = self.machine.job(job_id).state
        assert self.machine.resume(job_id) == (JobState.QUEUED if before == JobState.PAUSED else before)

    @rule()
    def sweep(self):
        assert self.relay.expire_leases() == len(self.lapsed)
        for job_id in self.lapsed:
            del self.owners[job_id]
        self.lapsed = set()
        with self.machine.writing() as session:
            pipeline.ring_unheard(session, doorbell_s=0)

    @invariant()
    def running_jobs_and_no_others_are_owned_by_the_newest_claim(self):
        running = {job.id: job.claim_id for job in self._jobs() if job.state == JobState.RUNNING}
        assert running == {job_id: claim.claim_id for job_id, claim in self.owners.items()}
        assert all((job.claim_id is None) == (job.state != JobState.RUNNING) for job in self._jobs())

    @invariant()
    def story_is_a_legal_path_to_the_present_state(self):
        told = {}
        for event in self.machine.all(EventRecord):
            if event.to_state:
                told.setdefault(event.job_id, []).append(JobState(event.to_state))
        for job in self._jobs():
            path = told[job.id]
            assert (path[0], path[-1]) == (JobState.QUEUED, job.state)
            assert all(after in LEGAL[before] for before, after in pairwise(path))
            assert path.count(JobState.SUCCEEDED) <= 1

    @invariant()
    def terminal_states_never_change(self):
        states = {job.id: job.state for job in self._jobs()}
        assert all(states[job_id] == state for job_id, state in self.ended.items())
        self.ended = {job_id: state for job_id, state in states.items() if state in TERMINAL}

    @invariant()
    def every_waiting_job_is_found_by_a_sweep(self):
        waiting = {job.id for job in self._jobs() if job.state in CLAIMABLE}
        with suppress(Rehearsal), self.machine.writing() as session:
            pipeline.ring_unheard(session, doorbell_s=0)
            unpublished = select(OutboxRecord.job_id).where(pipeline.is_due(pipeline.database_now(session)))
            assert waiting <= set(session.scalars(unpublished))
            raise Rehearsal

    @invariant()
    def attempts_are_numbered_fenced_and_within_the_budget(self):
        attempts = [row.job_id for row in self.machine.all(AttemptRecord)]
        for job in self._jobs():
            assert attempts.count(job.id) == job.attempt == job.fence
            assert job.counted_attempts <= MAX_ATTEMPTS

    @invariant()
    def cancelled_and_failed_jobs_lead_nowhere(self):
        jobs = self._jobs()
        for job in jobs:
            following = [one for one in jobs if one.run_id == job.run_id and one.id > job.id]
            assert not following or job.state == JobState.SUCCEEDED
            assert len({one.kind for one in following}) == len(following)

    @invariant()
    def run_has_ended_when_its_last_job_has(self):
        newest = {job.run_id: job for job in self._jobs()}
        for run in self.machine.all(RunRecord):
            job = newest[run.id]
            over = job.state in TERMINAL and not (job.state == JobState.SUCCEEDED and job.kind in NEXT_KIND)
            assert (run.state in TERMINAL) == (run.finished_at is not None) == over
            assert run.stage == job.kind

    def everything_ends_when_nothing_fails_any_more(self):
        for _ in range(ENOUGH_ROUNDS):
            for job in self._jobs():
                self.resume(job.id)
            self.lapsed |= set(self.owners)
            for claim in list(self.owners.values()):
                self.machine.heartbeat(claim, lease_s=OVER)
            self.sweep()
            self.publish(breaks=False)
            while self.queue.messages:
                self.finish(self._claim(self.queue.messages.pop(), silent=False))
        assert {job.state for job in self._jobs()} <= TERMINAL
        assert {run.state for run in self.machine.all(RunRecord)} <= TERMINAL

    def _beat(self, claim, step, silent):
        return self.machine.heartbeat(claim, step, lease_s=OVER if silent else 60) == "cancel"

    def _any_message(self, data):
        return data.draw(st.integers(0, len(self.queue.messages) - 1))

    def _jobs(self):
        return self.machine.all(JobRecord)

    def _claim(self, job_id, silent):
        free = self.machine.job(job_id).state in CLAIMABLE
        claim = self.machine.try_claim(job_id, lease_s=OVER if silent else 60)
        assert (claim is not None) == free
        if claim:
            self.owners[job_id] = claim
            self._lease(job_id, silent)
        return claim

    def _lease(self, job_id, silent):
        self.lapsed.discard(job_id)
        if silent:
            self.lapsed.add(job_id)

    def _end(self, claim, ending, following=()):
        def end():
            self.machine.end(claim, ending, following)
            return True

        if self._as_owner(claim, end):
            del self.owners[claim.job_id]
            self.lapsed.discard(claim.job_id)
            if claim.job_id in self.asked_to_cancel and ending.state in OVERRULED_BY_CANCEL:
                assert self.machine.job(claim.job_id).state == JobState.CANCELLED

    def _as_owner(self, claim, act):
        """Do it; who does not own the job must be told so. None where there was nothing to do it with."""
        if claim is None:
            return None
        if self.owners.get(claim.job_id) == claim:
            return act()
        with pytest.raises(OwnershipLost):
            act()
        return None


def test_promises_hold_in_any_order_of_events(open_machine_on):
    AnyOrder.open_machine = staticmethod(open_machine_on)
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
