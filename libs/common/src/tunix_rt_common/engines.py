"""What the training engines beside our own need and can do: known at the door and to the trainer alike."""

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import MeshSpec, TrainSpec

TUNIX_RELEASE = "0.1.7"
TUNIX_MISSING = (
    f"engine 'tunix' is not installed: run `pip install google-tunix=={TUNIX_RELEASE}` in an environment of its own "
    "and set TUNIX_RT_TUNIX_PYTHON to that environment's python for API and trainer, or ask for engine 'jax'"
)


def check_tunix_spec(spec: TrainSpec) -> None:
    """Refuse what google-tunix does not do, or does otherwise than the spec says.

    Raises:
        InvalidInput: `field` is the field of the run.
    """
    unsupported = (
        ("method", spec.method != "sft", "train with method 'sft'"),
        ("packing", spec.packs_rows, "leave packing out"),
        ("lora", spec.lora is not None, "train all weights"),
        ("accumulation", spec.accumulation != 1, "set accumulation to 1, with a smaller batch_size for less memory"),
        ("precision", spec.precision == "bfloat16", "leave precision out, since it trains in float32"),
        ("remat", spec.remat == "dots", "set remat to full or none"),
        ("mesh", spec.mesh != MeshSpec(), "leave mesh out, since it trains on one device"),
    )
    for name, is_asked, remedy in unsupported:
        if is_asked:
            raise InvalidInput(f"engine 'tunix' does not do this: {remedy}, or use engine 'jax'", field=f"train.{name}")
