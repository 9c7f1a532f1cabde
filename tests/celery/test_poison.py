"""Messages that nobody should send, to a plain worker that accepts JSON: what it drops, and what it dies of."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection
from tests.celery.lab import QUEUE, Lab, Worker, pins, until

JSON_ONLY = "accept_content=['json']: pickle is refused at the worker, because unpickling runs code"
POISON = "queue/envelope.py: this a plain worker drops by itself, and lives"
GUARD = "queue/envelope.py: a plain worker needs it, since it puts such a message back and dies of it again"
ENVELOPE = "queue/envelope.py: what is no envelope at all ends a plain worker, once per message"
LARGE_BYTES = 50 * 1024 * 1024


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self._crater = crater

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self._crater,)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Worker]]:
    """One worker for all poison: whatever one message breaks in it, the next would show."""
    with Lab(tmp_path_factory.mktemp("standing") / "lab", visibility_timeout=600) as lab:
        yield lab, lab.worker("plain", "--concurrency=1")


def test_pickled_message_is_refused_and_not_executed(standing: tuple[Lab, Worker], tmp_path: Path) -> None:
    with pins("R30", revisit=JSON_ONLY):
        lab, worker = standing
        bomb = Bomb(tmp_path / "crater")
        lab.app.send_task("probe.mark", [bomb], queue=QUEUE, serializer="pickle")
        assert_still_working(lab, worker, "Refusing to deserialize")
        assert not (tmp_path / "crater").exists()
    pickle.loads(pickle.dumps(bomb))
    assert (tmp_path / "crater").exists(), "the bomb was none: unpickling it does nothing"


@pins("F26", revisit=POISON)
def test_unknown_task_is_dropped(standing: tuple[Lab, Worker]) -> None:
    lab, worker = standing
    lab.send("nobody_wrote_this", "x")
    assert_still_working(lab, worker, "Received unregistered task of type 'probe.nobody_wrote_this'")


@pins("F26", revisit=POISON)
@pytest.mark.parametrize(("body", "complaint"), [(b"{not json", "JSONDecodeError"), (b"\xff", "UnicodeDecodeError")])
def test_body_that_is_not_json_is_dropped(standing: tuple[Lab, Worker], body: bytes, complaint: str) -> None:
    lab, worker = standing
    publish_body(lab, body)
    assert_still_working(lab, worker, complaint)


@pins("F26", revisit=POISON)
def test_message_of_50_megabytes_leaves_the_worker_alive(standing: tuple[Lab, Worker]) -> None:
    lab, worker = standing
    lab.send("measure", "x" * LARGE_BYTES)
    assert_still_working(lab, worker, "probe.measure")
    assert lab.notes("measured", str(LARGE_BYTES))


@pins("F26", revisit=GUARD)
@pytest.mark.parametrize("body", [b"12", b"[[], {}]"])
def test_body_of_another_shape_is_put_back_and_ends_one_worker_after_the_other(lab: Lab, body: bytes) -> None:
    publish_body(lab, body)
    for name in ("first", "second"):
        assert lab.start(name, "--concurrency=1").wait() != 0
        assert lab.broker.waiting() == 1


@pins("F26", revisit=ENVELOPE)
@pytest.mark.parametrize("raw", [b"not json", b"[]"])
def test_what_is_no_envelope_ends_the_worker_and_not_the_next_one(lab: Lab, raw: bytes) -> None:
    first = lab.worker("first", "--concurrency=1")
    lab.broker.client.lpush(QUEUE, raw)
    assert first.wait() != 0
    lab.worker("second", "--concurrency=1")
    lab.send("mark", "next")
    lab.wait_for("mark", "next")


def publish_body(lab: Lab, body: bytes) -> None:
    """Publish a message for `mark` of which all but the body is right."""
    headers = {"task": "probe.mark", "id": str(uuid4()), "lang": "py"}
    with Connection(lab.broker.url) as connection:
        producer = connection.Producer(routing_key=QUEUE)
        producer.publish(body, headers=headers, content_type="application/json", content_encoding="utf-8")


def assert_still_working(lab: Lab, worker: Worker, complaint: str) -> None:
    """The same worker has said what is wrong, has done the next message, and holds none back."""
    name = json.dumps(complaint)
    lab.send("mark", name)
    lab.wait_for("mark", name)
    assert worker.is_alive()
    worker.wait_until_it_says(complaint)
    until(lambda: not lab.broker.unacknowledged(), "every message to be acknowledged")
