"""Doorbells from outbox to queue, and what the sweeper makes up for."""

import threading
import time

import pytest

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import JobRecord, OutboxRecord
from tunix_rt_common.errors import Unavailable
from tunix_rt_common.pipeline import Ending
from tunix_rt_common.relay import BATCH, Relay
from tunix_rt_common.states import JobState

OVER = -1.0
"""A lease that ran out before it began: what a worker is given that will fall silent."""
DONE = Ending(JobState.SUCCEEDED, "done")


class ListQueue:
    """A queue that shows what it was given, and can break before or after it takes a message."""

    def __init__(self, *, breaks=None):
        self.messages, self.breaks = [], breaks

    def publish(self, message):
        if self.breaks == "before":
            raise Unavailable("the broker is away")
        self.messages.append(message)
        if self.breaks == "after":
            raise Unavailable("the broker went away")


@pytest.fixture
def queue():
    return ListQueue()


@pytest.fixture
def relay(machine, queue):
    return Relay(machine.database, queue, machine.settings)


def eventually(condition, patience_s=10.0):
    """Wait until it holds; False when it never does."""
    deadline = time.monotonic() + patience_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return met


@pytest.fixture
def running():
    """Runs relays in threads until the test ends."""
    stop, threads = threading.Event(), []

    def run(relay):
        threads.append(threading.Thread(target=relay.run, args=(stop,)))
        threads[-1].start()

    yield run
    stop.set()
    for thread in threads:
        thread.join(10)


def test_doorbell_is_published_once_to_the_queue_of_its_kind(machine, relay, queue):
    job_id = machine.submit("build_dataset")
    assert [relay.publish_due(), relay.publish_due()] == [1, 0]
    assert [(message.queue, message.kind, message.job_id) for message in queue.messages] == [
        ("registry", "build_dataset", job_id)
    ]
    assert machine.doorbells(job_id)[0].published_at


def test_doorbell_of_a_backed_off_job_waits_until_it_is_due(machine, relay, queue):
    job_id = machine.submit()
    relay.publish_due()
    machine.end(machine.claim(job_id), Ending(JobState.RETRY_WAIT, "later", delay_s=3600))
    assert relay.publish_due() == 0


def test_doorbells_ring_in_the_order_of_submission(machine, relay, queue):
    jobs = [machine.submit() for _ in range(5)]
    relay.publish_due()
    assert [message.job_id for message in queue.messages] == jobs


def test_more_doorbells_than_a_batch_are_published_in_batches(machine, relay, queue):
    with machine.writing() as session:
        for _ in range(BATCH + 1):
            pipeline.submit(session, pipeline.NewJob("train"))
    assert [relay.publish_due(), relay.publish_due(), relay.publish_due()] == [BATCH, 1, 0]
    assert len({message.job_id for message in queue.messages}) == BATCH + 1


def test_crash_between_publish_and_mark_rings_twice_and_the_work_is_done_once(machine):
    job_id = machine.submit()
    queue = ListQueue(breaks="after")
    relay = Relay(machine.database, queue, machine.settings)
    with pytest.raises(Unavailable):
        relay.publish_due()
    queue.breaks = None
    relay.publish_due()
    assert [message.job_id for message in queue.messages] == [job_id, job_id]
    claims = [machine.try_claim(message.job_id) for message in queue.messages]
    assert [claim is not None for claim in claims] == [True, False]


def test_broker_outage_loses_no_doorbell(machine, running):
    job_id = machine.submit()
    queue = ListQueue(breaks="before")
    relay = Relay(machine.database, queue, machine.settings)
    running(relay)
    time.sleep(0.3)
    assert (queue.messages, machine.doorbells(job_id)[0].published_at) == ([], None)
    queue.breaks = None
    assert eventually(lambda: queue.messages)
    assert queue.messages[0].job_id == job_id


def test_relay_rings_at_once_what_its_own_process_commits(machine, relay, queue, running):
    running(relay)
    started = time.monotonic()
    for count in range(1, 41):
        machine.submit()
        assert eventually(lambda wanted=count: len(queue.messages) >= wanted)
    assert time.monotonic() - started < 5


def test_two_relays_at_once_ring_every_doorbell_at_least_once_and_claims_stay_single(machine, running):
    queue = ListQueue()
    jobs = {machine.submit() for _ in range(30)}
    for _ in range(2):
        running(Relay(machine.database, queue, machine.settings))
    assert eventually(lambda: {message.job_id for message in queue.messages} == jobs)
    claims = [machine.try_claim(message.job_id) for message in queue.messages]
    assert sum(claim is not None for claim in claims) == 30


def test_silent_workers_job_goes_to_another_and_says_so(machine, relay):
    claim = machine.claim(machine.submit_run(), lease_s=OVER)
    assert relay.expire_leases() == 1
    job = machine.job(claim.job_id)
    assert (job.state, job.failure_class, job.counted_attempts) == ("retry_wait", "lost", 1)
    assert "worker fell silent" in machine.events(claim.job_id)[-1].message
    assert machine.claim(claim.job_id).fence == 2


def test_workers_that_always_fall_silent_at_one_step_end_in_quarantine(machine, relay):
    job_id = machine.submit()
    for _ in range(machine.settings.max_stalled_attempts):
        assert machine.job(job_id).state in {"queued", "retry_wait"}
        machine.claim(job_id, lease_s=OVER)
        relay.expire_leases()
    assert machine.job(job_id).state == "quarantined"


def test_two_sweepers_at_once_expire_a_lease_once(machine):
    claims = [machine.claim(machine.submit(), lease_s=OVER) for _ in range(20)]
    relays = [Relay(machine.database, ListQueue(), machine.settings) for _ in range(2)]
    expired = []
    threads = [threading.Thread(target=lambda one=one: expired.append(one.expire_leases())) for one in relays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(expired) == len(claims)
    assert all(machine.states(claim.job_id) == ["queued", "running", "retry_wait"] for claim in claims)


def test_lost_message_is_rung_again(open_machine, tmp_path, running):
    machine, queue = open_machine(tmp_path / "lossy", doorbell_s=0.3, sweep_s=0.05), ListQueue()
    job_id = machine.submit()
    running(Relay(machine.database, queue, machine.settings))
    assert eventually(lambda: len(queue.messages) >= 2)
    assert {message.job_id for message in queue.messages} == {job_id}


def test_nothing_expires_before_one_healthy_lease_time_has_passed(open_machine, tmp_path, running):
    machine = open_machine(tmp_path / "started", lease_s=1.0, sweep_s=0.05)
    claim = machine.claim(machine.submit(), lease_s=OVER)
    running(Relay(machine.database, ListQueue(), machine.settings))
    time.sleep(0.5)
    assert machine.job(claim.job_id).state == "running"
    assert eventually(lambda: machine.job(claim.job_id).state == "retry_wait")


def test_after_an_outage_nothing_expires_before_another_healthy_lease_time(
    open_machine, tmp_path, running, monkeypatch
):
    machine = open_machine(tmp_path / "outage", lease_s=1.0, sweep_s=0.05)
    running(Relay(machine.database, ListQueue(), machine.settings))
    time.sleep(0.9)
    away = threading.Event()

    def be_away(*_):
        away.set()
        raise Unavailable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fail_overdue", be_away)
        assert away.wait(5)
    claim = machine.claim(machine.submit(), lease_s=OVER)
    time.sleep(0.5)
    assert machine.job(claim.job_id).state == "running"
    assert eventually(lambda: machine.job(claim.job_id).state == "retry_wait")


def test_database_that_stood_still_does_not_count_as_everybodys_silence(open_machine, tmp_path, running):
    machine = open_machine(tmp_path / "stalled", lease_s=0.5, sweep_s=0.05)
    relay = Relay(machine.database, ListQueue(), machine.settings)
    running(relay)
    time.sleep(0.7)
    claim = machine.claim(machine.submit(), lease_s=0.5)
    with machine.writing() as session:
        session.get(JobRecord, claim.job_id)  # takes the write lock
        time.sleep(1.0)
    time.sleep(0.2)
    assert machine.job(claim.job_id).state == "running"
    machine.heartbeat(claim)


def test_outage_within_a_sweep_does_not_count_as_everybodys_silence(open_machine, tmp_path, running, monkeypatch):
    machine = open_machine(tmp_path / "froze", lease_s=1.0, sweep_s=0.05)
    running(Relay(machine.database, ListQueue(), machine.settings))
    time.sleep(1.2)
    expire, froze = Relay.expire_leases, threading.Event()

    def freeze_and_expire(*arguments, **options):
        if not froze.is_set():
            claims.append(machine.claim(machine.submit(), lease_s=0.3))
            time.sleep(1.0)
            froze.set()
        return expire(*arguments, **options)

    claims = []
    monkeypatch.setattr(Relay, "expire_leases", freeze_and_expire)
    assert froze.wait(5)
    time.sleep(0.2)
    assert machine.job(claims[0].job_id).state == "running"
    machine.heartbeat(claims[0])


def test_published_doorbells_stay_as_a_record(machine, relay):
    machine.submit()
    relay.publish_due()
    assert len(machine.all(OutboxRecord)) == len(machine.all(JobRecord)) == 1
