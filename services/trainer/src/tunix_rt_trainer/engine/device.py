"""How this process' devices compute a model: what the spec says, and where it leaves the choice, what suits them."""

import jax

from tunix_rt_common.specs import TrainSpec
from tunix_rt_modeling.config import ModelConfig


def on_device(config: ModelConfig, spec: TrainSpec) -> ModelConfig:
    """The config with the spec's precision and rematerialisation; the model that it describes is the same."""
    suits = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    dtype = suits if spec.precision == "auto" else spec.precision
    return config.model_copy(update={"compute_dtype": dtype, "remat": spec.remat})
