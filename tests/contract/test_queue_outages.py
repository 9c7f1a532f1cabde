"""The queue while Redis swallows everything, and a consumer that no longer consumes."""

import threading
import time

import pytest
from tests.contract.queue_process import SECRET, QueueProcess, ends, eventually
from tests.contract.queue_recorder import Recorder
from tests.faults.proxy import FaultProxy
from tests.servers import processes

from tunix_rt_common.errors import Unavailable
from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import TrainJob
from tunix_rt_common.queue import open_queue

RECOVERY_S = 60.0
PUBLISH_S = 15.0
GRACE_S = 60.0
LONG_HOLE_S = 25.0
"""Long enough for a consumer to drop its connection, and to meet the hole again with the next."""
DEAF = 3


@pytest.fixture(scope="module")
def redis():
    with processes.Redis() as redis:
        yield redis


@pytest.fixture
def proxy(redis):
    with FaultProxy(processes.LOOPBACK, redis.port) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy):
    return f"redis://{processes.LOOPBACK}:{proxy.port}/0"


def ring(queue):
    message = TrainJob(job_id=new_id())
    queue.publish(message)
    return str(message.job_id)


def serve(url, folder, module="tests.contract.queue_server", busy_s=0.0):
    return QueueProcess(url, "train", Recorder(folder / "heard", busy_s), module)


def hears(server, job_id, patience_s=RECOVERY_S):
    return eventually(lambda: job_id in server.recorder.heard("done"), patience_s)


def hears_again(server, queue):
    """Rings until it is heard, as the sweeper does: what Redis gives to a connection that just broke is lost."""
    rung, deadline = [], time.monotonic() + RECOVERY_S
    while not set(rung) & set(server.recorder.heard("done")) and time.monotonic() < deadline:
        rung.append(ring(queue))
        hears(server, rung[-1], patience_s=1.0)
    return set(rung) & set(server.recorder.heard("done"))


def recovers(server, queue):
    """It hears again; or, as Celery's consumers may stay deaf for ever, it ends in order to be started again."""
    return hears_again(server, queue) or server.wait() == DEAF


@pytest.mark.parametrize("connected", [True, False])
def test_publishing_into_a_black_hole_is_unavailable_and_soon(proxy, proxied, redis, connected):
    queue = open_queue(proxied, SECRET)
    if connected:
        ring(queue)
    proxy.black_hole()
    started = time.monotonic()
    with pytest.raises(Unavailable, match="they wait in the outbox"):
        ring(queue)
    assert time.monotonic() - started < PUBLISH_S
    proxy.reset_all()
    proxy.heal()
    assert ring(queue)


@pytest.mark.parametrize("hole_s", [1.0, pytest.param(LONG_HOLE_S, marks=pytest.mark.long)])
def test_worker_hears_again_after_a_black_hole_or_asks_for_a_new_start(proxy, proxied, redis, tmp_path, hole_s):
    queue = open_queue(redis.url, SECRET)
    with serve(proxied, tmp_path) as server:
        assert hears(server, ring(queue))
        proxy.black_hole()
        time.sleep(hole_s)
        proxy.reset_all()
        proxy.heal()
        assert recovers(server, queue), server.log()
        assert server.stop() in {0, DEAF}


def test_worker_whose_connections_are_reset_while_it_works_goes_on_working(proxy, proxied, redis, tmp_path):
    queue = open_queue(redis.url, SECRET)
    with serve(proxied, tmp_path, busy_s=2.0) as server:
        first = ring(queue)
        assert eventually(lambda: server.recorder.heard() == [first])
        proxy.reset_all()
        assert recovers(server, queue), server.log()
        assert server.recorder.heard("done")[0] == first


def test_worker_told_to_stop_in_a_black_hole_leaves_in_order(proxy, proxied, redis, tmp_path):
    with serve(proxied, tmp_path) as server:
        assert hears(server, ring(open_queue(redis.url, SECRET)))
        proxy.black_hole()
        server.tell()
        assert ends([server.pid], GRACE_S)
        assert server.wait() == 0


def test_consumer_that_takes_nothing_though_messages_wait_ends_its_process(redis, tmp_path):
    with serve(redis.url, tmp_path, "tests.contract.queue_deaf_server") as server:
        waiting = ring(open_queue(redis.url, SECRET))
        assert server.wait() == DEAF
        assert "to be started again" in server.log()
    with serve(redis.url, tmp_path) as successor:
        assert hears(successor, waiting)


def test_watchdog_leaves_a_worker_alone_that_works_or_has_nothing_to_do(redis, tmp_path):
    queue = open_queue(redis.url, SECRET)
    with serve(redis.url, tmp_path, "tests.contract.queue_hasty_server", busy_s=4.0) as server:
        first, second = ring(queue), ring(queue)
        assert hears(server, first)
        assert hears(server, second)
        assert not ends([server.pid], patience_s=4.0)
        assert server.stop() == 0


def test_watchdog_leaves_a_worker_alone_while_redis_is_away(proxy, proxied, redis, tmp_path):
    queue = open_queue(redis.url, SECRET)
    with serve(proxied, tmp_path, "tests.contract.queue_hasty_server") as server:
        assert hears(server, ring(queue))
        proxy.refuse()
        proxy.reset_all()
        waiting = ring(queue)
        assert not ends([server.pid], patience_s=4.0)
        proxy.heal()
        assert eventually(lambda: waiting in server.recorder.heard("done") or not server.is_running())


def test_threads_that_watch_do_not_outlive_what_they_watch(redis, tmp_path):
    before = threading.active_count()
    queue, stop = open_queue(redis.url, SECRET), threading.Event()
    stop.set()
    queue.serve("registry", Recorder(tmp_path / "heard"), stop)
    assert eventually(lambda: threading.active_count() <= before)
