"""How soon accepted work begins on Postgres and Redis, and what a claim costs behind ten thousand waiting jobs.

`PYTHONPATH=. python benchmarks/dispatch_speed.py` from the repository's root, after `make servers`. Replaces its own
lines in results.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

from celery import Celery
from kombu import Queue as KombuQueue
from measurement import Measurement, record, show
from sqlalchemy import select
from tests.e2e.bars.cluster import running_cluster
from tests.servers.fresh import fresh_prefix
from tests.servers.processes import Minio, Postgres, Redis

from tunix_rt.client import Client
from tunix_rt.synthetic import arithmetic_traces
from tunix_rt_common import pipeline
from tunix_rt_common.db.models import AttemptRecord, JobRecord
from tunix_rt_common.db.session import Database, open_database
from tunix_rt_common.pipeline import Ending, NewJob
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.states import JobState

BUILDS = 200
BACKLOG = 10_000
CLAIMS = 400


def main() -> None:
    """Measure, show, write."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark-secret"}
    with Postgres() as postgres, Redis() as redis, Minio() as minio, tempfile.TemporaryDirectory() as folder:
        rows = measure_dispatch(Path(folder), postgres.url, redis.url, fresh_prefix(minio.url))
        rows += measure_backlog(postgres.url)
    record(rows)
    show(rows)


def measure_dispatch(home: Path, postgres_url: str, redis_url: str, s3_url: str) -> list[Measurement]:
    """From the 202 to the claim with idle workers; beside it a bare Celery round trip on the same Redis."""
    with running_cluster(home, postgres_url, redis_url, s3_url) as cluster, cluster.client() as client:
        lines = (json.dumps(record).encode() + b"\n" for record in arithmetic_traces(4, seed=7, digits=2))
        client.traces.upload(lines, source="tiny")
        timed_builds(client, 5)
        with bare_worker(redis_url):
            bare_ms = bare_round_trips(redis_url, BUILDS)
            accepted = timed_builds(client, BUILDS)
    delays = claim_delays_ms(open_database(postgres_url), accepted)
    beside = {"limit_is": "bare Celery round trip"}
    return [
        Measurement("202 to claimed on Redis, median", "ms", median(delays), median(bare_ms), **beside),
        Measurement("202 to claimed on Redis, 99 %", "ms", centile(delays), centile(bare_ms), **beside),
    ]


def timed_builds(client: Client, count: int) -> dict[str, datetime]:
    """When each of several tiny builds was accepted, one after the other."""
    accepted = {}
    for _ in range(count):
        dataset_id = client.datasets.build(DatasetSpec(name="tiny")).dataset_id
        accepted[dataset_id] = datetime.now(UTC)
        client.datasets.wait(dataset_id, interval_s=0.01)
    return accepted


def claim_delays_ms(database: Database, accepted: dict[str, datetime]) -> list[float]:
    """Milliseconds from each answer to the claim of its job; below zero where the worker overtook the answer."""
    wanted = select(JobRecord.dataset_id, AttemptRecord.started_at).join(
        AttemptRecord, AttemptRecord.job_id == JobRecord.id
    )
    with database.reading() as session:
        claimed = dict(session.execute(wanted).tuples().all())
    return [1e3 * (claimed[UUID(dataset_id)] - at).total_seconds() for dataset_id, at in accepted.items()]


def bare_app(redis_url: str) -> Celery:
    """Celery as it comes, with a result backend to hear that the task ran."""
    app = Celery("bare", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.update(
        broker_transport_options={"global_keyprefix": "bare:"},
        result_backend_transport_options={"global_keyprefix": "bare:"},
        task_queues=[KombuQueue("bare")],
        worker_pool_start_method="spawn",
    )
    return app


class bare_worker:  # noqa: N801 - a context manager
    """A plain `celery worker` with one process and a task that does nothing."""

    def __init__(self, redis_url: str) -> None:
        module = Path(tempfile.mkdtemp()) / "bare_tasks.py"
        module.write_text(BARE_TASKS.format(url=redis_url))
        command = [sys.executable, "-m", "celery", "-A", "bare_tasks", "worker", "-c", "1", "-Q", "bare", "-l", "error"]
        environment = os.environ | {"PYTHONPATH": str(module.parent)}
        self._process = subprocess.Popen(command, env=environment, cwd=module.parent)

    def __enter__(self) -> None:
        """Nothing to wait for: the first round trip waits."""

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()


BARE_TASKS = """
from celery import Celery

app = Celery("bare", broker="{url}", backend="{url}")
app.conf.broker_transport_options = {{"global_keyprefix": "bare:"}}
app.conf.result_backend_transport_options = {{"global_keyprefix": "bare:"}}


@app.task(name="bare.nothing")
def nothing():
    return 1
"""


def bare_round_trips(redis_url: str, count: int) -> list[float]:
    """Milliseconds from sending a message to hearing that its task has run."""
    app = bare_app(redis_url)
    app.send_task("bare.nothing", queue="bare").get(timeout=60)
    return [1e3 * _timed(lambda: app.send_task("bare.nothing", queue="bare").get(timeout=10)) for _ in range(count)]


def measure_backlog(postgres_url: str) -> list[Measurement]:
    """Claims behind 10,000 waiting jobs of a huge project, and how often a small one is served meanwhile."""
    database = open_database(postgres_url)
    for start in range(0, BACKLOG, 500):
        with database.transaction() as session:
            for _ in range(start, start + 500):
                pipeline.submit(session, NewJob("train", project="huge", priority=100))
    with database.transaction() as session:
        for _ in range(CLAIMS // 4):
            pipeline.submit(session, NewJob("train", project="small"))
    took, projects = [], Counter()
    for _ in range(CLAIMS):
        started = time.perf_counter()
        with database.transaction() as session:
            claim = pipeline.claim_next(session, ["train"], "benchmark", 60)
        took.append(1e3 * (time.perf_counter() - started))
        assert claim
        with database.transaction() as session:
            projects[session.get_one(JobRecord, claim.job_id).project] += 1
            pipeline.advance(session, claim, Ending(JobState.SUCCEEDED, "done"))
    return [
        Measurement("claim behind 10,000 jobs, median", "ms", median(took)),
        Measurement("claim behind 10,000 jobs, 99 %", "ms", centile(took)),
        Measurement(
            "claims of a small project, of the first 200", "jobs", min(projects["small"], 100), 100, "its half"
        ),
    ]


def centile(values: list[float]) -> float:
    """The 99th."""
    return quantiles(values, n=100)[98]


def _timed(call: object) -> float:
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
