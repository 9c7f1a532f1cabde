"""What a collector that swallows everything costs a run: the same run on two sets of services, in turn.

`PYTHONPATH=. python benchmarks/telemetry_cost.py` from the repository's root, after `make servers`; about eight
minutes. Replaces its own lines in results.json.
"""

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from measurement import Measurement, record, show
from tests.e2e.bars.cluster import running_cluster
from tests.e2e.bars.server import build_sums, small_run, wait_for_end
from tests.servers.fresh import fresh_prefix
from tests.servers.otlp import OtlpReceiver
from tests.servers.processes import Minio, Postgres, Redis
from tests.servers.provide import s3_credentials

from tunix_rt.client import Client

PAIRS = 8
STEPS = 300
RESAMPLES = 10_000


def main() -> None:
    """Measure, show, write."""
    with s3_credentials(), OtlpReceiver() as collector, services() as silent:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
        with services() as exporting:
            collector.freeze()
            pairs = [timed_pair(silent, exporting, exporting_first=bool(pair % 2)) for pair in range(PAIRS + 1)][1:]
    low, middle, high = interval([100 * (beside / alone - 1) for alone, beside in pairs])
    words = f"without an endpoint; {middle:+.2f} % [{low:+.2f}, {high:+.2f}], median of {PAIRS} pairs"
    alone_s, beside_s = (median(took) for took in zip(*pairs, strict=True))
    measured = [Measurement("run with a black-holed collector", "s", beside_s, alone_s, words)]
    record(measured)
    show(measured)


@contextmanager
def services() -> Iterator[Client]:
    """Four services on servers of their own, with a dataset."""
    with (
        Postgres() as postgres,
        Redis() as redis,
        Minio() as minio,
        tempfile.TemporaryDirectory() as folder,
        running_cluster(Path(folder), postgres.url, redis.url, fresh_prefix(minio.url)) as cluster,
        cluster.client() as client,
    ):
        build_sums(client)
        yield client


def timed_pair(silent: Client, exporting: Client, *, exporting_first: bool) -> tuple[float, float]:
    """Seconds of a run without and with export, whichever is first."""
    if exporting_first:
        beside_s = run_seconds(exporting)
        return run_seconds(silent), beside_s
    return run_seconds(silent), run_seconds(exporting)


def run_seconds(client: Client) -> float:
    """A run from its first job's start to its end, by the database's clock."""
    run = wait_for_end(client, client.runs.create(small_run(STEPS, checkpoint_every=100)).run_id)
    assert run.state == "succeeded"
    assert run.started_at
    assert run.finished_at
    return (run.finished_at - run.started_at).total_seconds()


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median with its bootstrapped 95 % interval."""
    draw = random.Random(7)
    medians = sorted(median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], median(values), medians[int(0.975 * RESAMPLES)]


if __name__ == "__main__":
    main()
