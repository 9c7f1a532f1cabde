"""Small runs on many devices: `topology.py FOLDER [PROCESS PORT]` writes what each came to into FOLDER.

Alone it has eight devices; as one of two processes, which share FOLDER, each has four of the eight.
"""

import json
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

ALONE = len(sys.argv) == 2
if __name__ == "__main__":  # before JAX looks; a test that imports this has its one device already
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={8 if ALONE else 4}"

import jax  # noqa: E402
import numpy as np  # noqa: E402

from tunix_rt_common.specs import MeshSpec  # noqa: E402
from tunix_rt_trainer.engine import checkpoints, loop  # noqa: E402

small = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("smallrun.py"))))
STEPS = 3
MESHES = {
    "fsdp": MeshSpec(),
    "fsdp and tensor": MeshSpec(tensor=2),
    "all three": MeshSpec(data=2, tensor=2),
}
RUNS = [("full", "fsdp"), ("full", "fsdp and tensor"), ("full", "all three"), ("dpo-lora", "fsdp"), ("distill", "fsdp")]
TOGETHER = [("full", "fsdp and tensor")]


def spec_of(kind, mesh=None):
    """The small run with batches that eight devices can share."""
    changes = {"batch_size": 16, "accumulation": 2, "max_steps": STEPS, "checkpoint_every": STEPS}
    return small.SPECS[kind].model_copy(update=changes | {"mesh": mesh or MeshSpec()})


def trained(kind, mesh, save=lambda *_: None):
    """Loss and gradient norm of each step."""
    spec = spec_of(kind, mesh)
    data = loop.TrainingData(small.data_for(spec, 24))
    infos, _ = small.finish(spec, small.fresh_state(spec), data, save)
    return [(info.loss, info.gradient_norm) for info in infos]


def run_all(folder, runs):
    """Each run, its last checkpoint kept."""
    found = {}
    for kind, mesh in runs:
        name = f"{kind} on {mesh}"

        def save(info, state, name=name, kind=kind):
            spec = spec_of(kind)
            checkpoints.save(checkpoints.snapshot(state), folder / name, seed=spec.seed, inputs=small.inputs(spec))

        found[name] = trained(kind, MESHES[mesh], save)
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if ALONE:
        (folder / "alone.json").write_text(json.dumps(run_all(folder, RUNS)))
        spec = spec_of("full", MESHES["all three"])
        restored = checkpoints.load(
            folder / "full on fsdp", small.fresh_state(spec), inputs=small.inputs(spec_of("full"))
        )
        np.savez(folder / "moved.npz", **small.as_arrays(restored))
    else:
        process, port = int(sys.argv[2]), sys.argv[3]
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
        found = run_all(folder, TOGETHER)
        (folder / f"process-{process}.json").write_text(json.dumps(found))
