"""`python -m tests.faults.suite.lighttrain`: a training attempt without JAX, or a real one for runs that ask for it.

Child protocol, publishing, store and rows are the real ones. What is replaced is the engine below them. A run's
`model_name` says what it is: `real…` trains for real, `poison-…` misbehaves at `POISON_STEP`.
"""

import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.suite import lightengine

from tunix_rt_common.child import Child, run_child
from tunix_rt_common.db.models import RunRecord
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.specs import RunSpec
from tunix_rt_common.storage.bundle import put_folder

STEP_S = 0.03
POISON_STEP = 12
FOREVER_S = 3600.0


def train(child: Child) -> dict[str, Any]:
    """Train as the run's name says."""
    with child.database.reading() as session:
        run = session.get_one(RunRecord, child.claim.run_id)
        spec, name = RunSpec.model_validate(run.spec), run.pins["model_name"]
    if name.startswith("real"):
        from tunix_rt_trainer.job import train_run

        return train_run(child)
    scratch = _fresh_scratch(child)
    try:
        return _train(child, spec, POISONS.get(name), scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fresh_scratch(child: Child) -> Path:
    """As the real job makes it: after a failover, a fence may come a second time."""
    run = child.settings.scratch_dir / "runs" / str(child.claim.run_id)
    shutil.rmtree(run, ignore_errors=True)
    scratch = run / f"fence-{child.claim.fence}"
    scratch.mkdir(parents=True)
    return scratch


def _train(child: Child, spec: RunSpec, poison: Callable[[], None] | None, scratch: Path) -> dict[str, Any]:
    """The order of things is that of the real job and its loop."""
    publisher, saver, handover = _open_publishing(child, spec, scratch)
    total = spec.train.max_steps or 1
    start = lightengine.first_state(spec.train.seed)
    state = publisher.restore(start) or start
    child.progress(state.step, total)
    while state.step < total:
        time.sleep(STEP_S)
        state = lightengine.advance(state)
        if poison and state.step == POISON_STEP:
            poison()
        leaving = child.leaving.is_set()
        if leaving or state.step == total or state.step % spec.train.checkpoint_every == 0:
            handover.add(saver.save(lightengine.StepInfo(state.step), state))
        if leaving:
            handover.leave()
        child.progress(state.step, total, loss=state.loss)
        handover.poll()
    handover.drain()
    lightengine.export(state, scratch / "model")
    return {
        "manifest_sha256": child.store.put_document(put_folder(child.store, scratch / "model")),
        "parameters": 0,
        "environment": {"engine": "lightengine"},
        "metrics": {"steps": state.step, "train_loss": state.loss},
    }


def _open_publishing(child: Child, spec: RunSpec, scratch: Path) -> tuple[Any, Any, Any]:
    """The real publisher, saver and handover over the stand-in engine."""
    for part in ("checkpoints", "progress", "state"):
        sys.modules[f"tunix_rt_trainer.engine.{part}"] = lightengine
    from tunix_rt_trainer.handover import Handover
    from tunix_rt_trainer.publishing import CheckpointPublisher
    from tunix_rt_trainer.saving import CheckpointSaver

    sha256 = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
    inputs: Any = lightengine.Inputs(
        spec_sha256=sha256, dataset_sha256=sha256, tokenizer_sha256=sha256, base_model_sha256=sha256
    )
    publisher = CheckpointPublisher(child, scratch, inputs)
    return publisher, CheckpointSaver(child, scratch, spec.train.seed, inputs), Handover(child, publisher)


def _segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _exit_without_result() -> None:
    os._exit(0)


def _run_out_of_memory() -> None:
    raise MemoryError("RESOURCE_EXHAUSTED")


def _find_bad_data() -> None:
    raise UnusableData("the loss is not a number")


def _hang() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(FOREVER_S)


POISONS: dict[str, Callable[[], None]] = {
    "poison-segfault": _segfault,
    "poison-exit": _exit_without_result,
    "poison-memory": _run_out_of_memory,
    "poison-data": _find_bad_data,
    "poison-hang": _hang,
}


if __name__ == "__main__":
    sys.exit(run_child(train))
