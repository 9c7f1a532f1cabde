"""A Postgres whose place is taken by a copy that knows less, and one whose clock jumps."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, create_engine, text
from tests.faults.proxy import FaultProxy
from tests.faults.suite.cluster import Cluster
from tests.faults.suite.scene import LONG, Scene
from tests.faults.suite.standby import Standby
from tests.faults.suite.test_database_faults import execute
from tests.servers.processes import LOOPBACK, Postgres

REPLAYED, WRITTEN = "SELECT pg_last_wal_replay_lsn()", "SELECT pg_current_wal_lsn()"


def scalar(server: Postgres, statement: str) -> str:
    engine = create_engine(server.url, poolclass=NullPool)
    with engine.connect() as connection:
        return str(connection.execute(text(statement)).scalar())


def wait_until_it_knows_all(scene: Scene, standby: Standby) -> None:
    written = scalar(scene.cluster.postgres, WRITTEN)
    reached = f"SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
    scene.cluster.wait(lambda: scalar(standby, reached) == "True", "a standby that has replayed everything")


@pytest.mark.fault("F16")
def test_failover_that_loses_the_last_commits_loses_the_claim_and_never_the_run(scene):
    """What was accepted but not yet copied is gone with an asynchronous standby; asking again with its key helps."""
    cluster = scene.cluster
    for trainer in cluster.trainers:
        trainer.stop()
    known = scene.start(LONG)
    with FaultProxy(LOOPBACK, cluster.postgres.port) as replication, Standby(replication.port) as standby:
        wait_until_it_knows_all(scene, standby)
        replication.black_hole()
        for trainer in cluster.trainers:
            trainer.start()
        spec, key = scene.spec(), uuid4().hex
        forgotten = cluster.submit(spec, key=key)
        scene.wait_for_checkpoint(known)
        primary = cluster.postgres
        primary.kill()
        standby.take_over(primary.port)
        cluster.postgres = standby
        try:
            scene.fault_is_over()
            assert cluster.ask("GET", f"/api/v1/runs/{forgotten}").status == 404
            cluster.accepted.remove(forgotten)
            scene.start_spec(spec, key=key)
            scene.wait_for_end()
            assert len(scene.attempts(known)) == 1, [attempt.outcome for attempt in scene.attempts(known)]
        finally:
            give_back(cluster, standby, primary)


def give_back(cluster: Cluster, standby: Standby, primary: Postgres) -> None:
    """Let the first server go on with the data of the second one, so that the cluster outlives the scenario."""
    import shutil

    standby.stop()
    shutil.rmtree(primary.folder / "data")
    (standby.folder / "data").rename(primary.folder / "data")
    primary.start()
    cluster.postgres = primary


@pytest.mark.fault("F27")
def test_clock_of_the_database_that_jumps_an_hour_ahead_costs_at_most_one_attempt(scene):
    run = scene.start(LONG)
    waiting = [scene.start() for _ in range(3)]
    scene.wait_for_checkpoint(run)
    with an_hour_ahead(scene.cluster):
        scene.fault_is_over()
        scene.wait_for_end(run, *waiting)
    assert len(scene.attempts(run)) <= 2


@contextmanager
def an_hour_ahead(cluster: Cluster) -> Iterator[None]:
    """Every session finds our function before the built-in one."""
    execute(
        cluster,
        "CREATE SCHEMA shifted",
        "CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE "
        "AS $$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$",
        "ALTER DATABASE postgres SET search_path = shifted, public, pg_catalog",
    )
    renew_sessions(cluster)
    yield
    execute(cluster, "ALTER DATABASE postgres RESET search_path", "DROP SCHEMA shifted CASCADE")
    renew_sessions(cluster)


def renew_sessions(cluster: Cluster) -> None:
    cluster.postgres_proxy.reset_all()
    cluster.database.engine.dispose()
