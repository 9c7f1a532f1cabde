"""What Prometheus reads from a worker, also when there is no database to ask."""

import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.machine import Machine

from tunix_rt_common import metrics
from tunix_rt_common.db.session import Database, open_database
from tunix_rt_common.pipeline import Ending
from tunix_rt_common.states import JobState

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@contextmanager
def served(database: Database) -> Iterator[Callable[[], Samples]]:
    """A worker's endpoint; called, it is scraped."""
    server = metrics.serve(0, database, "127.0.0.1")

    def scrape() -> Samples:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=20) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}

    yield scrape
    server.shutdown()
    server.server_close()


def key(name: str, **labels: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    return f"tunix_rt_{name}", tuple(sorted(labels.items()))


def test_a_scrape_tells_what_waits_what_runs_and_for_how_long(machine: Machine):
    machine.submit("train")
    machine.claim(machine.submit("evaluate"))
    done = machine.claim(machine.submit("register"))
    machine.end(done, Ending(JobState.SUCCEEDED, "register done"))
    with served(machine.database) as scrape:
        found = scrape()
    assert found[key("database_up")] == 1
    assert found[key("jobs", kind="train", state="queued")] == 1
    assert found[key("jobs", kind="train", state="running")] == 0
    assert found[key("jobs", kind="evaluate", state="running")] == 1
    assert not any(name == "tunix_rt_jobs" and ("state", "succeeded") in labels for name, labels in found)
    assert found[key("queue_oldest_age_seconds", kind="train")] > 0
    assert found[key("queue_oldest_age_seconds", kind="evaluate")] == 0
    assert found[key("outbox_unpublished")] == 3
    assert found[key("outbox_oldest_age_seconds")] > 0


def test_what_waits_is_read_anew_at_each_scrape(machine: Machine):
    with served(machine.database) as scrape:
        assert scrape()[key("jobs", kind="train", state="queued")] == 0
        machine.submit("train")
        assert scrape()[key("jobs", kind="train", state="queued")] == 1


def test_a_process_tells_what_it_counted(machine: Machine):
    with served(machine.database) as scrape:
        before = Counter(scrape())
        metrics.JOBS_FINISHED.labels("train", "failed").inc()
        metrics.JOB_DURATION.labels("train", "failed").observe(7)
        metrics.TRAINED_TOKENS_PER_SECOND.set(1234)
        found = scrape()
    failed = {"kind": "train", "state": "failed"}
    more = {name: value - before[name] for name, value in found.items()}
    assert more[key("jobs_finished_total", **failed)] == 1
    assert more[key("job_duration_seconds_bucket", **failed, le="10.0")] == 1
    assert more[key("job_duration_seconds_bucket", **failed, le="5.0")] == 0
    assert found[key("trained_tokens_per_second")] == 1234


@pytest.mark.parametrize("url", ["postgresql+psycopg://nobody@127.0.0.1:1/nothing", "sqlite:///{}/unmigrated.db"])
def test_a_scrape_answers_while_the_database_is_away(tmp_path, url):
    with served(open_database(url.format(tmp_path))) as scrape:
        found = scrape()
    assert found[key("database_up")] == 0
    assert not any(name == "tunix_rt_jobs" for name, _ in found)
    assert any(
        name.startswith("tunix_rt_http_request_duration_seconds") or "jobs_finished" in name for name, _ in found
    )


def test_a_database_that_hangs_does_not_make_the_scrape_hang():
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = open_database(f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing")
        with served(database) as scrape:
            assert scrape()[key("database_up")] == 0
            assert scrape()[key("database_up")] == 0
        assert time.monotonic() - began < 15
    for thread in threading.enumerate():
        if thread.name == "backlog":
            thread.join(30)
