"""What every queue promises, run against each adapter; a new adapter is one more entry in URLS."""

import threading
import time

import pytest

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import BuildDatasetJob, EvaluateJob, RegisterJob, TrainJob
from tunix_rt_common.queue import open_queue

URLS = {"inline": "inline://"}
PATIENCE_S = 10.0


@pytest.fixture(params=URLS)
def queue(request):
    return open_queue(URLS[request.param])


@pytest.fixture
def serving(queue):
    """Serves queues in threads until the test ends."""
    stop, threads = threading.Event(), []

    def serve(name, handle):
        threads.append(threading.Thread(target=queue.serve, args=(name, handle, stop)))
        threads[-1].start()
        return threads[-1], stop

    yield serve
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return met


def test_message_arrives_whole_and_messages_keep_their_order(queue, serving):
    sent, heard = [TrainJob(job_id=new_id()) for _ in range(20)], []
    serving("train", heard.append)
    for message in sent:
        queue.publish(message)
    assert eventually(lambda: len(heard) == len(sent))
    assert heard == sent


def test_message_published_before_anybody_serves_waits(queue, serving):
    message, heard = TrainJob(job_id=new_id()), []
    queue.publish(message)
    serving("train", heard.append)
    assert eventually(lambda: heard == [message])


def test_each_queue_hears_its_own_kinds_and_no_others(queue, serving):
    heard = {"train": [], "evaluate": [], "registry": []}
    for name, messages in heard.items():
        serving(name, messages.append)
    for kind in (TrainJob, EvaluateJob, RegisterJob, BuildDatasetJob):
        queue.publish(kind(job_id=new_id()))
    assert eventually(lambda: sum(map(len, heard.values())) == 4)
    kinds = {name: [message.kind for message in messages] for name, messages in heard.items()}
    assert kinds == {"train": ["train"], "evaluate": ["evaluate"], "registry": ["register", "build_dataset"]}


def test_one_server_handles_one_message_at_a_time(queue, serving):
    busy, overlaps, done = threading.Lock(), [], []

    def handle(message):
        overlaps.append(not busy.acquire(blocking=False))
        time.sleep(0.02)
        busy.release()
        done.append(message)

    for _ in range(5):
        queue.publish(TrainJob(job_id=new_id()))
    serving("train", handle)
    assert eventually(lambda: len(done) == 5)
    assert not any(overlaps)


def test_two_servers_of_one_queue_share_its_messages(queue, serving):
    heard = [[], []]
    for messages in heard:
        serving("train", messages.append)
    sent = {new_id() for _ in range(40)}
    for job_id in sent:
        queue.publish(TrainJob(job_id=job_id))
    assert eventually(lambda: len(heard[0]) + len(heard[1]) == 40)
    assert {message.job_id for messages in heard for message in messages} == sent


def test_server_told_to_stop_ends_its_message_and_takes_no_other(queue, serving):
    heard, go_on = [], threading.Event()

    def handle(message):
        heard.append(message)
        go_on.wait(PATIENCE_S)

    for _ in range(3):
        queue.publish(TrainJob(job_id=new_id()))
    thread, stop = serving("train", handle)
    assert eventually(lambda: heard)
    stop.set()
    go_on.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert len(heard) == 1


@pytest.mark.parametrize("url", ["amqp://somewhere", "", "inline:"])
def test_queue_url_that_nobody_serves_is_refused_with_what_to_use(url):
    with pytest.raises(InvalidInput, match="use inline://") as refused:
        open_queue(url)
    assert refused.value.field == "TUNIX_RT_QUEUE_URL"
