"""What every queue promises, run against each adapter; a new adapter is one more entry in WORLDS."""

import threading
import time

import pytest
from tests.contract.queue_process import PATIENCE_S, SECRET, QueueProcess, eventually
from tests.contract.queue_recorder import Recorder

from tunix_rt_common.errors import InvalidInput, Unavailable
from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import BuildDatasetJob, EvaluateJob, RegisterJob, TrainJob
from tunix_rt_common.queue import open_queue


class InlineWorld:
    """Servers are threads: this queue lives in one process."""

    def __init__(self, request):
        self.queue = open_queue("inline://")
        self._servers = []

    def serve(self, name, recorder):
        stop = threading.Event()
        thread = threading.Thread(target=self.queue.serve, args=(name, recorder, stop))
        thread.start()
        self._servers.append((thread, stop))
        return lambda: stop_thread(thread, stop)

    def close(self):
        for thread, stop in self._servers:
            stop_thread(thread, stop)


class CeleryWorld:
    """Servers are processes with a spawned pool, as in a deployment."""

    def __init__(self, request):
        self._url = request.getfixturevalue("redis_url")
        self.queue = open_queue(self._url, SECRET)
        self._servers = []

    def serve(self, name, recorder):
        server = QueueProcess(self._url, name, recorder)
        self._servers.append(server)
        return lambda: stop_processes([server])

    def close(self):
        stop_processes([server for server in self._servers if server.is_running()])


def stop_thread(thread, stop):
    stop.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def stop_processes(servers):
    for server in servers:
        server.tell()
    assert [server.wait() for server in servers] == [0] * len(servers)


WORLDS = {"inline": InlineWorld, "celery": CeleryWorld}


@pytest.fixture(params=WORLDS)
def world(request):
    world = WORLDS[request.param](request)
    yield world
    world.close()


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path / "heard")


def publish(world, kind, count):
    messages = [kind(job_id=new_id()) for _ in range(count)]
    for message in messages:
        world.queue.publish(message)
    return [str(message.job_id) for message in messages]


def test_messages_published_before_anybody_serves_wait_and_arrive_in_order(world, recorder):
    sent = publish(world, TrainJob, 20)
    world.serve("train", recorder)
    assert eventually(lambda: recorder.heard("done") == sent)


def test_each_queue_hears_its_own_kinds_and_no_others(world, tmp_path):
    recorders = {name: Recorder(tmp_path / name) for name in ("train", "evaluate", "registry")}
    for name, recorder in recorders.items():
        world.serve(name, recorder)
    for kind in (TrainJob, EvaluateJob, RegisterJob, BuildDatasetJob):
        publish(world, kind, 1)
    assert eventually(lambda: sum(len(recorder.heard("done")) for recorder in recorders.values()) == 4)
    kinds = {name: [line["kind"] for line in recorder.lines()] for name, recorder in recorders.items()}
    twice = {name: kinds[name][::2] for name in kinds}
    assert twice == {"train": ["train"], "evaluate": ["evaluate"], "registry": ["register", "build_dataset"]}


def test_one_server_handles_one_message_at_a_time(world, tmp_path):
    recorder = Recorder(tmp_path / "heard", busy_s=0.02)
    publish(world, TrainJob, 5)
    world.serve("train", recorder)
    assert eventually(lambda: len(recorder.heard("done")) == 5)
    assert [line["what"] for line in recorder.lines()] == ["begun", "done"] * 5


def test_two_servers_of_one_queue_share_its_messages(world, tmp_path):
    recorders = [Recorder(tmp_path / "one", busy_s=0.01), Recorder(tmp_path / "two", busy_s=0.01)]
    for recorder in recorders:
        world.serve("train", recorder)
    sent = publish(world, TrainJob, 40)
    assert eventually(lambda: sum(len(recorder.heard("done")) for recorder in recorders) == 40)
    assert sorted(recorders[0].heard() + recorders[1].heard()) == sorted(sent)


def test_server_told_to_stop_tells_its_message_to_leave_and_takes_no_other(world, tmp_path):
    recorder = Recorder(tmp_path / "heard", busy_s=PATIENCE_S)
    first, *_ = publish(world, TrainJob, 3)
    stop = world.serve("train", recorder)
    assert eventually(lambda: recorder.heard("begun") == [first])
    stop()
    assert recorder.heard("left") == [first]
    assert recorder.heard("begun") == [first]


@pytest.mark.parametrize("url", ["amqp://somewhere", "", "inline:"])
def test_queue_url_that_nobody_serves_is_refused_with_what_to_use(url):
    with pytest.raises(InvalidInput, match="use inline:// or redis://") as refused:
        open_queue(url)
    assert refused.value.field == "TUNIX_RT_QUEUE_URL"


def test_queue_on_redis_needs_a_secret_and_says_so():
    with pytest.raises(InvalidInput, match="TUNIX_RT_QUEUE_SECRET") as refused:
        open_queue("redis://127.0.0.1:1/0")
    assert refused.value.field == "TUNIX_RT_QUEUE_SECRET"


def test_broker_that_is_away_is_unavailable_and_soon(world):
    nowhere = open_queue("redis://127.0.0.1:1/0", SECRET)
    started = time.monotonic()
    with pytest.raises(Unavailable, match="Redis"):
        nowhere.publish(TrainJob(job_id=new_id()))
    assert time.monotonic() - started < 15
