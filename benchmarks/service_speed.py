"""The service under one client: import, dataset build, and how soon accepted work begins."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

from measurement import Measurement, seconds
from sqlalchemy import select
from sqlite_floor import commit_seconds, insert_seconds

from tunix_rt.client import Client
from tunix_rt.server import running_server
from tunix_rt.synthetic import arithmetic_traces
from tunix_rt_common.db.models import AttemptRecord, JobRecord
from tunix_rt_common.db.session import open_database
from tunix_rt_common.specs import DatasetSpec

DATASET = "sums"
TRACES = 20_000
TINY_DATASET = "tiny-sums"
TINY_TRACES = 4
TINY_BUILDS = 200
START_PATIENCE_S = 30.0
POLL_S = 0.01
COMMAND = Path(sys.executable).with_name("tunix-rt")


def measure_service(home: Path) -> list[Measurement]:
    """Numbers of a `tunix-rt up` in a process of its own; leaves the built dataset `DATASET` in `home`."""
    lines = _lines(TRACES, digits=3)
    with serving(home) as client:
        import_s = seconds(lambda: client.traces.upload(iter(lines), trace_format="native", source=DATASET))
        build_s = seconds(lambda: build(client, DATASET))
        client.traces.upload(iter(_lines(TINY_TRACES, digits=2)), source=TINY_DATASET)
        accepted = [_timed_build(client) for _ in range(TINY_BUILDS)]
    to_claim_ms = claim_delays_ms(home, {dataset_id: at for dataset_id, at, _ in accepted})
    insert_s, commit_ms = insert_seconds(home / "floor.db", lines), 1e3 * commit_seconds(home / "floor.db")
    return [
        Measurement("import over HTTP", "rows/s", TRACES / import_s, TRACES / insert_s, "raw SQLite"),
        Measurement("dataset build", "rows/s", TRACES / build_s),
        Measurement(
            "POST to 202, median", "ms", 1e3 * median(wait_s for *_, wait_s in accepted), commit_ms, "raw commit"
        ),
        Measurement("202 to claimed, median", "ms", median(to_claim_ms), commit_ms, "raw commit"),
        Measurement("202 to claimed, 99 %", "ms", quantiles(to_claim_ms, n=100)[98]),
    ]


@contextmanager
def serving(home: Path) -> Iterator[Client]:
    """A client of a server over `home` that lives as long as the block."""
    environment = os.environ | {"TUNIX_RT_HOME": str(home)}
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen([COMMAND, "up", "--port", "0"], env=environment, stdout=log, stderr=log)
    try:
        with Client(_address(home)) as client:
            yield client
    finally:
        server.terminate()
        server.wait()


def claim_delays_ms(home: Path, accepted: dict[str, datetime]) -> list[float]:
    """Milliseconds from each answer to the claim of its job, by the database's clock, which counts whole ones.

    Below zero where the worker was faster than the answer's way to us.
    """
    database = open_database(f"sqlite:///{home}/tunix-rt.db")
    wanted = select(JobRecord.dataset_id, AttemptRecord.started_at).join(
        AttemptRecord, AttemptRecord.job_id == JobRecord.id
    )
    with database.reading() as session:
        claimed: dict[UUID | None, datetime] = dict(session.execute(wanted).tuples().all())
    database.close()
    return [1e3 * (claimed[UUID(dataset_id)] - at).total_seconds() for dataset_id, at in accepted.items()]


def _timed_build(client: Client) -> tuple[str, datetime, float]:
    """Build a tiny dataset while nothing else is to do; its id, when the 202 came, and after how many seconds."""
    spec = DatasetSpec(name=TINY_DATASET, filters={"source": TINY_DATASET})
    started_s = time.perf_counter()
    dataset_id = client.datasets.build(spec).dataset_id
    answered_at, wait_s = datetime.now(UTC), time.perf_counter() - started_s
    client.datasets.wait(dataset_id, interval_s=POLL_S)
    return dataset_id, answered_at, wait_s


def build(client: Client, name: str) -> None:
    """Have a dataset built of the traces of the source of its name."""
    spec = DatasetSpec(name=name, filters={"source": name}, validation_fraction=0.01, test_fraction=0.015)
    built = client.datasets.wait(client.datasets.build(spec).dataset_id, interval_s=POLL_S)
    if built.failure:
        raise RuntimeError(f"dataset {name} was not built: {built.failure}")


def _lines(count: int, digits: int) -> list[bytes]:
    return [json.dumps(record).encode() + b"\n" for record in arithmetic_traces(count, seed=7, digits=digits)]


def _address(home: Path) -> str:
    deadline_s = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline_s:
        if url := running_server(home):
            return url
        time.sleep(POLL_S)
    words = (home / "server.log").read_text("utf-8", "replace")
    raise RuntimeError(f"tunix-rt up was not ready after {START_PATIENCE_S:g} s; it said: {words}")
