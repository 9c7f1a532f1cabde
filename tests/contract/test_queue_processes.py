"""How a worker's processes end: told to, at the worst moments, or killed; none outlives its main process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contract.queue_process import REPOSITORY, SECRET, QueueProcess, ends, eventually
from tests.contract.queue_recorder import Recorder
from tests.servers.processes import children_of, is_alive

from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import TrainJob
from tunix_rt_common.queue import open_queue

BUSY_S = 300.0
GRACE_S = 60.0
ORPHANED_S = 2.0
CHILDREN = REPOSITORY / "tests" / "faults" / "children"


@pytest.fixture
def queue(redis_url):
    return open_queue(redis_url, SECRET)


@pytest.fixture
def server(redis_url, tmp_path):
    with QueueProcess(redis_url, "train", Recorder(tmp_path / "heard", BUSY_S)) as server:
        yield server


def ring(queue, job_id=None):
    queue.publish(TrainJob(job_id=job_id or new_id()))


def keep_busy(queue, server):
    """The pool's process, once it handles a message."""
    ring(queue)
    assert eventually(server.recorder.heard), server.log()
    return server.recorder.lines()[0]["pid"]


def leaves(server):
    return ends([server.pid], GRACE_S) and server.wait() == 0


def heeds(server, number):
    """Whether it has set a handler of its own for a signal."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_told_to_leave_twice_while_it_handles_a_message_leaves_once(queue, server, number):
    pool = keep_busy(queue, server)
    server.tell(number)
    server.tell(number)
    assert leaves(server), server.log()
    assert [line["what"] for line in server.recorder.lines()] == ["begun", "left"]
    assert not is_alive(pool)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_whose_whole_group_is_told_to_leave_leaves_in_order(queue, server, number):
    keep_busy(queue, server)
    os.killpg(server.pid, number)
    assert leaves(server), server.log()
    assert [line["what"] for line in server.recorder.lines()] == ["begun", "left"]


def test_worker_told_to_leave_as_soon_as_it_heeds_signals_leaves_in_order(server):
    assert eventually(lambda: heeds(server, signal.SIGTERM))
    server.tell()
    assert leaves(server), server.log()


def test_worker_told_to_leave_while_its_pool_starts_leaves_in_order(server):
    assert eventually(lambda: children_of(server.pid))
    server.tell()
    assert leaves(server), server.log()


def test_pool_dies_with_a_main_process_that_is_killed_while_it_handles_a_message(queue, server):
    pool = keep_busy(queue, server)
    family = server.family()
    server.kill()
    assert pool in family
    assert ends(family, ORPHANED_S)


@pytest.mark.parametrize("children", [1, 2])
def test_pool_that_starts_does_not_come_up_when_its_main_process_is_killed(server, children):
    assert eventually(lambda: len(children_of(server.pid)) >= children)
    family = server.family()
    server.kill()
    assert ends(family, GRACE_S)


@pytest.fixture
def trainer(machine, redis_url, tmp_path):
    environment = machine.settings.child_environment() | {
        "TUNIX_RT_QUEUE_URL": redis_url,
        "TUNIX_RT_QUEUE_SECRET": SECRET,
        "PYTHONPATH": str(CHILDREN),
    }
    command = [sys.executable, "-m", "tests.contract.queue_worker"]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | environment, start_new_session=True)
    yield process
    process.kill()
    process.wait()


def begin(machine, queue, folder, way):
    """The process of a job's child, once it works."""
    ready = folder / "ready"
    ring(queue, machine.submit_run(payload={"way": way, "ready": str(ready)}))
    assert eventually(ready.exists), "the child has not begun"
    return int(ready.read_text())


@pytest.mark.parametrize("way", ["leave_when_told", "ignore_sigterm", "freeze"])
def test_training_child_dies_with_a_main_process_that_is_killed(machine, queue, trainer, tmp_path, way):
    child = begin(machine, queue, tmp_path, way)
    family = [*children_of(trainer.pid), child]
    trainer.kill()
    trainer.wait()
    assert ends(family, ORPHANED_S)


@pytest.mark.parametrize("way", ["leave_when_told", "ignore_sigterm", "freeze"])
def test_trainer_told_to_leave_twice_while_it_trains_leaves_in_order(machine, queue, trainer, tmp_path, way):
    child = begin(machine, queue, tmp_path, way)
    family = [*children_of(trainer.pid), child]
    trainer.terminate()
    trainer.terminate()
    assert ends([trainer.pid], GRACE_S)
    assert trainer.wait() == 0
    assert ends(family, ORPHANED_S)
