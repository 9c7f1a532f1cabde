"""A Postgres that is restarted, silent, locked, read-only, an hour ahead, or replaced by one that knows less."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, create_engine, text
from tests.faults.proxy import COMMIT
from tests.faults.suite.cluster import Cluster
from tests.faults.suite.scene import LONG, Run, Scene, in_long_form

ANSWERED_WITHIN_S = 45.0
STUCK = "FROM pg_stat_activity WHERE state = 'idle in transaction' AND state_change < now() - interval '10 s'"


def execute(cluster: Cluster, *statements: str) -> None:
    """Run statements past the proxy, each for itself."""
    engine = create_engine(cluster.postgres.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def assert_refused_for_now(scene: Scene) -> None:
    """The API says 503 and when to come back, in time."""
    answer = scene.cluster.ask("POST", "/api/v1/runs", scene.spec(), patience_s=ANSWERED_WITHIN_S)
    assert answer is not None
    assert answer.problem(503)
    assert answer.headers["retry-after"]


def assert_nobody_was_taken_for_dead(scene: Scene) -> None:
    assert not [event.message for run in scene.runs for event in scene.story(run) if "fell silent" in event.message]


@pytest.mark.fault("F15")
@pytest.mark.parametrize("how", [in_long_form("fast"), "killed"])
def test_restarted_postgres_costs_no_lease_and_no_half_run(scene, how):
    runs = [scene.start(LONG, judged=True) for _ in range(2)]
    scene.wait_for_checkpoint(runs[0])
    postgres = scene.cluster.postgres
    postgres.stop() if how == "fast" else postgres.kill()
    assert_refused_for_now(scene)
    postgres.start()
    scene.fault_is_over()
    scene.wait_for_end()
    assert_nobody_was_taken_for_dead(scene)


@pytest.mark.fault("F15")
def test_outage_longer_than_the_lease_expires_nobody(scene):
    run = scene.start(LONG * 3)
    scene.wait_until_running(run)
    scene.cluster.postgres.freeze()
    time.sleep(6)
    scene.cluster.postgres.thaw()
    scene.fault_is_over()
    scene.wait_for_end()
    assert_nobody_was_taken_for_dead(scene)


@pytest.mark.fault("F15")
def test_connections_to_postgres_reset_again_and_again(scene):
    for _ in range(2):
        scene.start(LONG, judged=True)
    for _ in range(8):
        scene.cluster.postgres_proxy.reset_all()
        time.sleep(0.7)
    scene.fault_is_over()
    scene.wait_for_end()


@pytest.mark.fault("F17")
def test_run_whose_commit_was_never_answered_is_there_once(scene):
    key, spec = uuid4().hex, scene.spec()
    scene.cluster.postgres_proxy.cut_after(COMMIT, times=12)
    scene.start_spec(spec, key=key)
    again = scene.cluster.ask("POST", "/api/v1/runs", spec, key=key)
    assert again is not None
    assert again.json["run_id"] == scene.runs[0].run_id
    scene.fault_is_over()
    scene.wait_for_end()
    seeds = [run.spec["train"]["seed"] for run in scene.cluster.rows(type(scene.cluster.run(scene.runs[0].run_id)))]
    assert seeds.count(spec["train"]["seed"]) == 1


@pytest.mark.fault("F17")
def test_commits_of_workers_that_are_never_answered_double_nothing(scene):
    runs = [scene.start(judged=True) for _ in range(2)]
    for _ in range(10):
        scene.cluster.postgres_proxy.cut_after(COMMIT)
        time.sleep(0.8)
    scene.fault_is_over()
    scene.wait_for_end(*runs)


@pytest.mark.fault("F18")
def test_read_only_postgres_is_waited_for(scene):
    run = scene.start(LONG)
    scene.wait_for_checkpoint(run)
    with read_only(scene.cluster):
        assert_refused_for_now(scene)
    scene.fault_is_over()
    scene.wait_for_end()


@contextmanager
def read_only(cluster: Cluster) -> Iterator[None]:
    """As during a failover, or on a full disk."""
    execute(cluster, "ALTER DATABASE postgres SET default_transaction_read_only = on")
    cluster.postgres_proxy.reset_all()
    yield
    execute(cluster, "BEGIN READ WRITE; ALTER DATABASE postgres RESET default_transaction_read_only; COMMIT")
    cluster.postgres_proxy.reset_all()


@pytest.mark.fault("F18")
def test_lock_that_is_held_for_long_is_waited_for_and_leaves_no_open_transaction(scene):
    run = scene.start(LONG)
    scene.wait_for_checkpoint(run)
    engine = create_engine(scene.cluster.postgres.url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        assert_refused_for_now(scene)
    scene.fault_is_over()
    scene.wait_for_end()
    with engine.connect() as connection:
        assert connection.execute(text(f"SELECT count(*) {STUCK}")).scalar() == 0


@pytest.mark.fault("F29")
def test_cancel_at_any_moment_asked_twice_ends_a_run_once_and_registers_nothing(scene):
    for pause_s in (0.0, 0.5, 1.0, 2.0, 3.0):
        run = scene.start()
        time.sleep(pause_s)
        cancel(scene, run)
        cancel(scene, run)
    scene.fault_is_over()
    scene.wait_for_end()
    for run in scene.runs:
        run.state = scene.cluster.run(run.run_id).state
        assert run.state in {"cancelled", "succeeded"}


@pytest.mark.fault("F29")
def test_cancel_during_an_outage_is_refused_and_takes_effect_later(scene):
    run = scene.start(LONG * 5)
    run.state = "cancelled"
    scene.wait_until_running(run)
    scene.cluster.postgres.kill()
    answer = scene.cluster.ask("POST", f"/api/v1/runs/{run.run_id}/cancel", patience_s=ANSWERED_WITHIN_S)
    assert answer is not None
    answer.problem(503)
    scene.cluster.postgres.start()
    scene.fault_is_over()
    cancel(scene, run)
    scene.wait_for_end()


def cancel(scene: Scene, run: Run) -> None:
    """Ask until the API has heard it."""

    def heard() -> bool:
        answer = scene.cluster.ask("POST", f"/api/v1/runs/{run.run_id}/cancel")
        return answer is not None and answer.status == 202

    scene.cluster.wait(heard, "an API that hears of a cancel")
