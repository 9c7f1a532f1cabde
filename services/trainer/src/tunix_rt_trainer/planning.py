"""`python -m tunix_rt_trainer.planning`: a plan, made in a process of its own that never touches an accelerator.

A model is known by its description here: its weights are not fetched.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from tunix_rt_common import telemetry
from tunix_rt_common.child import Child, run_child
from tunix_rt_common.specs import PlanSpec
from tunix_rt_trainer.devices import device_of, flops_per_s
from tunix_rt_trainer.encoding import encode_splits
from tunix_rt_trainer.engine.plan import make_plan
from tunix_rt_trainer.pinnedinputs import describe_pinned
from tunix_rt_trainer.preflight import subject_of
from tunix_rt_trainer.tokencache import TokenCache


def plan_run(child: Child) -> dict[str, Any]:
    """Plan the claimed job's run; the plan."""
    spec, pins = PlanSpec.model_validate(child.claim.payload["spec"]), child.claim.payload["pins"]
    device = device_of(spec)
    _simulate(device.count)

    def tell(words: str) -> None:
        child.progress(0)
        child.story("planning", words)

    child.settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=child.settings.scratch_dir, prefix="plan-") as scratch, telemetry.span("data"):
        described = describe_pinned(child.store, spec.train, pins, Path(scratch))
        data = encode_splits(child, described, TokenCache(child.settings.tokens_dir))
    subject = subject_of(described, data, on_cpu=device.is_host)
    with telemetry.span("plan"):
        speed = flops_per_s(device, subject.config.compute_dtype)
        return make_plan(subject, device, speed, tell).model_dump(mode="json")


def _simulate(devices: int) -> None:
    """Let the CPU stand for so many devices, and let nothing else be claimed."""
    jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    jax.config.update("jax_num_cpu_devices", devices)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    sys.exit(run_child(plan_run))
