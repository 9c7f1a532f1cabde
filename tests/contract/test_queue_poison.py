"""Messages on Redis that nobody of us wrote: each is dropped, told once and counted, and the worker takes the next.

One worker for all of them: whatever one message breaks in it, the next shows.
"""

import base64
import hashlib
import hmac
import json
import pickle
from pathlib import Path

import pytest
from redis import Redis
from tests.contract.queue_process import SECRET, QueueProcess, eventually
from tests.contract.queue_recorder import Recorder

from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import EvaluateJob, TrainJob
from tunix_rt_common.queue import open_queue

LARGE_BYTES = 50 * 1024 * 1024
PREFIX = "tunix-rt:"


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, crater):
        self._crater = crater

    def __reduce__(self):
        return Path.mkdir, (self._crater,)


class Worker:
    """A running worker of the queue `train`, and the hands of somebody who may write to its Redis."""

    def __init__(self, url, folder):
        self._redis = Redis.from_url(url)
        self._queue = open_queue(url, SECRET)
        self.recorder = Recorder(folder / "heard")
        self.process = QueueProcess(url, "train", self.recorder)

    def close(self):
        assert self.process.stop() == 0
        self._redis.close()

    def envelope(self):
        """What is published for a message, as it lies in Redis."""
        self._queue.publish(EvaluateJob(job_id=new_id()))
        return json.loads(self._redis.rpop(PREFIX + "evaluate"))

    def push(self, raw):
        self._redis.lpush(PREFIX + "train", raw)

    def hear_next(self):
        """What is noted of the next good message."""
        message = TrainJob(job_id=new_id())
        self._queue.publish(message)
        assert eventually(lambda: str(message.job_id) in self.recorder.heard("done")), self.process.log()
        return self.recorder.lines()[-1]

    def is_empty_handed(self):
        return eventually(lambda: not self._redis.exists(PREFIX + "train", PREFIX + "unacked"))


@pytest.fixture(scope="module")
def worker(redis_server, tmp_path_factory):
    with Redis.from_url(redis_server.url) as redis:
        redis.flushdb()
    worker = Worker(redis_server.url, tmp_path_factory.mktemp("poison"))
    worker.hear_next()
    yield worker
    worker.close()


def sealed(content):
    return base64.b64encode(json.dumps(content).encode()).decode()


def signed(body, secret=SECRET):
    signature = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    return [[], {"body": body, "signature": signature}, {}]


def assert_dropped(worker, raw, reason="unsigned"):
    before, said = worker.hear_next(), worker.process.log().count("dropped an")
    worker.push(raw)
    after = worker.hear_next()
    assert after["pid"] == before["pid"], "the pool process has been replaced"
    assert worker.process.is_running()
    assert after["dropped"] == before["dropped"] | {reason: before["dropped"].get(reason, 0) + 1}
    assert worker.process.log().count("dropped an") == said + 1
    assert worker.is_empty_handed()


def assert_rings(worker, envelope):
    before = worker.hear_next()
    worker.push(json.dumps(envelope))
    after = worker.hear_next()
    *_, heard, _, _ = worker.recorder.lines()
    assert heard["kind"] == "evaluate"
    assert after["pid"] == before["pid"], "the pool process has been replaced"
    assert worker.process.is_running()
    assert after["dropped"] == before["dropped"]
    assert worker.is_empty_handed()


NO_ENVELOPES = {
    "empty": b"",
    "text": b"not json",
    "bytes": b"\xff\xfe",
    "number": b"12",
    "null": b"null",
    "list": b"[]",
    "object": b"{}",
    "deep": b"[" * 50_000,
    "deeper": b"[" * 10_000 + b"]" * 10_000,
    "typed": b'{"__type__": "uuid", "__value__": 5}',
    "surrogate": rb'{"body": "\ud800"}',
    "pickle": pickle.dumps({"task": "tunix_rt.ring"}),
}


@pytest.mark.parametrize("raw", NO_ENVELOPES.values(), ids=NO_ENVELOPES)
def test_what_is_no_envelope_is_dropped(worker, raw):
    assert_dropped(worker, raw)


BODIES = {
    "number": 12,
    "list": [],
    "null": None,
    "no base64": "§",
    "half base64": "QUJ",
    "content is a number": sealed(12),
    "content is short": sealed([[], {}]),
    "content without callbacks": sealed([[], {"body": "x", "signature": "x"}]),
    "arguments are a list": sealed([[], [], {}]),
    "arguments are numbers": sealed([[], {"body": 1, "signature": 2}, {}]),
    "arguments of another task": sealed([["x"], {"y": 1}, {}]),
    "earlier protocol": sealed({"task": "tunix_rt.ring", "id": "x", "args": [], "kwargs": {}}),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_body_of_another_shape_is_dropped(worker, body):
    assert_dropped(worker, json.dumps(worker.envelope() | {"body": body}))


@pytest.mark.parametrize("missing", ["headers", "body"])
def test_envelope_without_what_we_read_is_dropped(worker, missing):
    envelope = worker.envelope()
    del envelope[missing]
    assert_dropped(worker, json.dumps(envelope))


@pytest.mark.parametrize("headers", [None, 5, [], {}, {"task": {}}, {"task": "celery.backend_cleanup"}])
def test_envelope_that_names_no_task_of_ours_is_dropped(worker, headers):
    assert_dropped(worker, json.dumps(worker.envelope() | {"headers": headers}))


def test_pickle_is_dropped_and_not_executed(worker, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "crater"))
    pickled = {"content-type": "application/x-python-serialize", "content-encoding": "binary"}
    assert_dropped(worker, json.dumps(worker.envelope() | pickled | {"body": base64.b64encode(bomb).decode()}))
    assert not (tmp_path / "crater").exists()
    pickle.loads(bomb)
    assert (tmp_path / "crater").exists(), "the bomb was none: unpickling it does nothing"


def test_message_of_50_megabytes_is_dropped(worker):
    content = signed("x" * LARGE_BYTES)
    assert_dropped(worker, json.dumps(worker.envelope() | {"body": sealed(content)}))


@pytest.mark.parametrize("signature", ["", "0" * 64, "é" * 64, signed("", "another secret")[1]["signature"]])
def test_message_without_our_signature_is_dropped(worker, signature):
    body = TrainJob(job_id=new_id()).model_dump_json()
    content = [[], {"body": body, "signature": signature}, {}]
    assert_dropped(worker, json.dumps(worker.envelope() | {"body": sealed(content)}))


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "of another version", "job_id": str(new_id())},
        {"kind": "train", "job_id": str(new_id()), "schema_version": 2},
        {"kind": "train", "job_id": "not an id"},
        12,
    ],
)
def test_message_that_this_version_does_not_know_is_dropped_though_it_is_signed(worker, message):
    content = signed(json.dumps(message))
    assert_dropped(worker, json.dumps(worker.envelope() | {"body": sealed(content)}), "unknown")


HEADERS = {
    "id": [[], {}, None, 5],
    "stamped_headers": [5, ["x"]],
    "stamps": [5],
    "eta": ["9999-12-31T23:59:59+00:00", 5, "never"],
    "expires": ["2000-01-01T00:00:00+00:00", [], -1],
    "timelimit": [[0.001, 0.001], 5],
    "retries": ["x", 10**9],
    "compression": ["zlib", 5],
    "ignore_result": [{}],
    "group": [{}],
    "reply_to": [[]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in HEADERS.items() for value in values])
def test_what_headers_say_beside_the_task_changes_nothing(worker, name, value):
    envelope = worker.envelope()
    envelope["headers"] |= {name: value}
    assert_rings(worker, envelope)


def test_message_without_an_id_rings(worker):
    envelope = worker.envelope()
    del envelope["headers"]["id"]
    assert_rings(worker, envelope)


ODD_FIELDS = {
    "no properties": {"properties": None},
    "no delivery tag": {"properties": {}},
    "delivery tag": {"properties": {"delivery_tag": {}}},
    "body encoding": {"properties": {"body_encoding": "rot13", "delivery_tag": "x"}},
    "content encoding": {"content-encoding": "nonsense"},
    "content type": {"content-type": 5},
}


@pytest.mark.parametrize("fields", ODD_FIELDS.values(), ids=ODD_FIELDS)
def test_what_the_envelope_says_about_its_delivery_changes_nothing(worker, fields):
    assert_rings(worker, worker.envelope() | fields)


def test_callbacks_in_an_envelope_publish_nothing(worker):
    envelope = worker.envelope()
    args, texts, _ = json.loads(base64.b64decode(envelope["body"]))
    callback = {"task": "tunix_rt.ring", "args": [], "kwargs": texts, "options": {"queue": "train"}}
    envelope["body"] = sealed([args, texts, {"callbacks": [callback], "chain": [callback]}])
    assert_rings(worker, envelope)
