"""Many waiting jobs, and a collector that hangs."""

import pytest
from sqlalchemy import insert
from tests.faults.proxy import FaultProxy
from tests.faults.suite.scene import Scene
from tests.servers.fresh import fresh_database
from tests.servers.processes import LOOPBACK, free_port

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import JobRecord, utc_now
from tunix_rt_common.db.session import open_database
from tunix_rt_common.ids import new_id

WAITING, SMALL = 10_000, 20


@pytest.mark.fault("F33")
def test_collector_that_swallows_everything_delays_no_run(scene: Scene) -> None:
    with FaultProxy(LOOPBACK, free_port()) as collector:
        collector.black_hole()
        for trainer in scene.cluster.trainers:
            trainer.stop()
            trainer.start(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{LOOPBACK}:{collector.port}")
        runs = [scene.start() for _ in range(2)]
        scene.fault_is_over()
        scene.wait_for_end(*runs)
        assert collector.counts["accepted"], "nobody tried to send spans"
    for trainer in scene.cluster.trainers:
        trainer.stop()
        trainer.start()


@pytest.mark.long
@pytest.mark.fault("F35")
def test_ten_thousand_waiting_jobs_starve_no_small_project(scene: Scene) -> None:
    with fresh_database(scene.cluster.postgres.url) as url:
        database = open_database(url)
        database.migrate()
        now = utc_now()
        fields = {"kind": "build_dataset", "payload": {}, "state": "queued", "not_before": now, "rung_at": now}
        projects = ["huge"] * WAITING + ["small"] * SMALL
        with database.transaction() as session:
            session.execute(insert(JobRecord), [{"id": new_id(), "project": p, **fields} for p in projects])
        served = []
        for _ in range(2 * SMALL):
            with database.transaction() as session:
                claim = pipeline.claim_next(session, ["build_dataset"], "worker", 60.0)
            assert claim
            with database.transaction() as session:
                served.append(pipeline.hold(session, claim).project)
        database.close()
    assert served.count("small") == SMALL, "the small project waits behind the huge one"
