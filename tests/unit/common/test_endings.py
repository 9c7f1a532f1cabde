"""What the end of an attempt means for its job, by the one table of rules."""

import pytest

from tunix_rt_common import endings
from tunix_rt_common.db.models import JobRecord
from tunix_rt_common.settings import Settings

SETTINGS = Settings(retry_delay_s=1.0, max_attempts=8, max_stalled_attempts=3)


def job(**fields):
    """A job that has failed never."""
    fresh = {
        "step": 10,
        "last_ended_step": 5,
        "stalled_attempts": 1,
        "counted_attempts": 0,
        "attempt": 1,
        "worker": "w:1",
    }
    return JobRecord(**(fresh | fields))


@pytest.mark.parametrize(("counted", "delay_s"), [(0, 1), (1, 2), (3, 8), (6, 60)])
def test_back_off_doubles_with_each_attempt_up_to_a_minute(counted, delay_s):
    ending = endings.lease_lost(job(counted_attempts=counted), SETTINGS)
    assert (ending.state, ending.delay_s) == ("retry_wait", delay_s)
    assert f"tries again in {delay_s} s" in ending.message


@pytest.mark.parametrize(("counted", "state"), [(6, "retry_wait"), (7, "quarantined")])
def test_job_is_quarantined_when_its_last_attempt_is_spent(counted, state):
    assert endings.lease_lost(job(counted_attempts=counted), SETTINGS).state == state


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"stalled_attempts": 1, "last_ended_step": 10}, "retry_wait"),
        ({"stalled_attempts": 2, "last_ended_step": 10}, "quarantined"),
        ({"stalled_attempts": 2, "last_ended_step": 9}, "retry_wait"),
        ({"stalled_attempts": 0, "last_ended_step": None}, "retry_wait"),
    ],
)
def test_job_is_quarantined_when_attempts_in_a_row_end_at_one_step(fields, state):
    assert endings.lease_lost(job(**fields), SETTINGS).state == state


def test_quarantine_says_why_and_what_to_do():
    ending = endings.died(job(stalled_attempts=2, last_ended_step=10), SETTINGS, -11, "")
    assert "killed by signal 11" in ending.message
    assert "3 attempts in a row ended at step 10" in ending.message
    assert "read the run's logs" in ending.message


@pytest.mark.parametrize(
    ("status", "failure_class", "words"),
    [
        (-9, "crash", "killed by signal 9"),
        (0, "crash", "exited with status 0"),
        (1, "crash", "exited with status 1"),
        (20, "out_of_memory", "exited with status 20"),
        (30, "storage", "exited with status 30"),
    ],
)
def test_death_of_a_child_is_told_by_its_status(status, failure_class, words):
    ending = endings.died(job(), SETTINGS, status, "last words")
    assert (ending.state, ending.failure_class, ending.counted) == ("retry_wait", failure_class, True)
    assert words in ending.message
    assert "last words" in ending.message


def test_users_error_is_final_at_once():
    ending = endings.user_error("dataset: no rows")
    assert (ending.state, ending.message, ending.failure_class) == ("failed", "dataset: no rows", "user_error")


def test_cancel_pause_and_preemption_do_not_count():
    assert (endings.cancelled().state, endings.cancelled().counted) == ("cancelled", False)
    assert (endings.paused().state, endings.paused().counted) == ("paused", False)
    preempted = endings.preempted(job(), SETTINGS)
    assert (preempted.state, preempted.counted) == ("queued", False)


def test_preemption_counts_once_it_never_ends():
    ending = endings.preempted(job(attempt=SETTINGS.max_preemptions), SETTINGS)
    assert (ending.state, ending.counted, ending.failure_class) == ("retry_wait", True, "preempted")


def test_attempt_that_could_not_begin_for_want_of_storage_is_free_and_waits_longer_each_time():
    waits = [
        endings.died(job(step=0, last_ended_step=None, attempt=attempt), SETTINGS, 30, "") for attempt in (1, 2, 3, 20)
    ]
    assert [(ending.state, ending.counted) for ending in waits] == [("retry_wait", False)] * 4
    assert [ending.delay_s for ending in waits] == [2, 4, 8, 60]
