"""Crash points: named places in the product where a process of the cluster ends itself, once, when told to.

The product has no hooks for this. A process of the cluster wraps the functions of `POINTS` as their modules are
imported. A point is armed by a file of its name in the folder that `FOLDER_VARIABLE` names; the first process that
gets there takes the file away and sends itself the signal in it, so that a point strikes once however many processes
pass it. Nothing heavy is imported here: every process of the cluster starts with this module.
"""

import functools
import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

FOLDER_VARIABLE = "TUNIX_RT_TEST_CRASH_FOLDER"
CLAIM_VARIABLE = "TUNIX_RT_CLAIM"
When = Literal["before", "after"]


class Point(NamedTuple):
    """Before or after which call a process crashes: in a job's child, or in a service."""

    name: str
    module: str
    function: str
    when: When
    in_child: bool = False


COMMON, PUBLISHING = "tunix_rt_common", "tunix_rt_trainer.publishing"
POINTS = (
    Point("api: run written, not committed", "tunix_rt_api.runs.service", "accept_run", "after"),
    Point("api: run committed, not answered", f"{COMMON}.relay", "Relay.hear", "before"),
    Point("relay: doorbells taken, none published", f"{COMMON}.relay", "Relay._ring", "before"),
    Point("relay: doorbell published, not marked", f"{COMMON}.relay", "Relay._ring", "after"),
    Point("relay: doorbells marked", f"{COMMON}.relay", "Relay._note", "after"),
    Point("worker: job claimed, not committed", f"{COMMON}.pipeline", "claim", "after"),
    Point("worker: job claimed, no child yet", f"{COMMON}.supervisor", "Supervisor._work", "before"),
    Point("worker: child started, not listened to", f"{COMMON}.childprocess", "ChildProcess.__enter__", "before"),
    Point("worker: heartbeat written, not committed", f"{COMMON}.pipeline", "heartbeat", "after"),
    Point("worker: heartbeat committed", f"{COMMON}.leasekeeper", "LeaseKeeper.flush", "after"),
    Point("worker: child done, result not looked at", f"{COMMON}.supervisor", "Supervisor._close", "before"),
    Point("worker: logs archived, nothing written", f"{COMMON}.supervisor", "archive_logs", "after"),
    Point("trainer: next stage decided, nothing advanced", "tunix_rt_trainer.handlers", "after_training", "after"),
    Point("worker: result in hand, not advanced", f"{COMMON}.pipeline", "advance", "before"),
    Point("worker: advanced, not committed", f"{COMMON}.pipeline", "advance", "after"),
    Point("worker: advance committed", f"{COMMON}.supervisor", "Supervisor._publish", "after"),
    Point("evaluator: evaluation written, not committed", "tunix_rt_evaluator.handlers", "after_evaluation", "after"),
    Point("registry: about to register", "tunix_rt_registry.versions", "register", "before"),
    Point("registry: registered, not committed", "tunix_rt_registry.versions", "register", "after"),
    Point("child: before its first word", f"{COMMON}.child", "_ending", "before", in_child=True),
    Point("child: before a checkpoint", "tunix_rt_trainer.saving", "CheckpointSaver.save", "before", in_child=True),
    Point("child: checkpoint on disk", PUBLISHING, "CheckpointPublisher.store", "before", True),
    Point("child: files stored, no manifest", PUBLISHING, "put_folder", "after", in_child=True),
    Point("child: manifest stored, no row", PUBLISHING, "CheckpointPublisher.announce", "before", True),
    Point("child: row written, not committed", f"{COMMON}.pipeline", "tell", "after", in_child=True),
    Point("child: checkpoint committed", PUBLISHING, "CheckpointPublisher.announce", "after", True),
    Point("child: before a restore", PUBLISHING, "CheckpointPublisher.restore", "before", True),
    Point("child: after a restore", PUBLISHING, "CheckpointPublisher.restore", "after", True),
    Point("child: model stored, result not told", f"{COMMON}.child", "Child.result", "before", in_child=True),
    Point("child: result told, still alive", f"{COMMON}.child", "Child.result", "after", in_child=True),
    Point("sweeper: attempt ended, not committed", f"{COMMON}.pipeline", "expire", "after"),
    Point("sweeper: attempts of silent workers ended", f"{COMMON}.relay", "Relay.expire_leases", "after"),
    Point("sweeper: unheard doorbells written, not committed", f"{COMMON}.pipeline", "ring_unheard", "after"),
    Point("api: cancel written, not committed", f"{COMMON}.pipeline", "request_cancel", "after"),
    Point("worker: preemption decided, not written", f"{COMMON}.endings", "preempted", "after"),
)
BY_NAME = {point.name: point for point in POINTS}


def install() -> None:
    """Wrap the functions of this process's kind as they come in; nothing outside of the cluster."""
    if FOLDER_VARIABLE not in os.environ:
        return
    in_child = CLAIM_VARIABLE in os.environ
    sys.meta_path.insert(0, Wrapping([point for point in POINTS if point.in_child == in_child]))


def arm(folder: Path, name: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Let the next process that gets to the point send itself a signal."""
    file = _file(folder, BY_NAME[name])
    aside = file.with_suffix(".aside")
    aside.write_text(str(number.value))
    aside.rename(file)


def has_struck(folder: Path, name: str) -> bool:
    """Whether a process got there since the point was armed."""
    return not _file(folder, BY_NAME[name]).exists()


def disarm_all(folder: Path) -> None:
    """Leave no point armed."""
    for file in folder.iterdir():
        file.unlink()


class Wrapping:
    """A finder that lets the others find a module, and wraps its functions once it is executed."""

    def __init__(self, points: list[Point]) -> None:
        self._by_module: dict[str, list[Point]] = {}
        for point in points:
            self._by_module.setdefault(point.module, []).append(point)

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's own spec, whose loader also wraps."""
        points = self._by_module.pop(name, None)
        spec = importlib.util.find_spec(name) if points else None
        if points and spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_wrap(module: ModuleType) -> None:
                execute(module)
                for point in points:
                    _wrap(module, point)

            spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec


def _wrap(module: ModuleType, point: Point) -> None:
    owner: Any = module
    *path, name = point.function.split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, _crashing(getattr(owner, name), point))


def _crashing(function: Callable[..., Any], point: Point) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if point.when == "before":
            _strike(point)
        outcome = function(*args, **kwargs)
        if point.when == "after":
            _strike(point)
        return outcome

    return wrapped


def _strike(point: Point) -> None:
    file = _file(Path(os.environ[FOLDER_VARIABLE]), point)
    taken = file.with_suffix(f".{os.getpid()}")
    try:
        file.rename(taken)
    except FileNotFoundError:
        return
    os.kill(os.getpid(), int(taken.read_text()))


def _file(folder: Path, point: Point) -> Path:
    return folder / f"{POINTS.index(point):02}.armed"
