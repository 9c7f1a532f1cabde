"""Ten steps of the engine against ten steps of PyTorch's AdamW on the same Llama (see tests/data/hf-parity)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tunix_rt_common.specs import OptimizerSpec, ScheduleSpec, SftSpec
from tunix_rt_modeling import huggingface
from tunix_rt_trainer.engine import state
from tunix_rt_trainer.engine.batches import Batch
from tunix_rt_trainer.engine.step import train_step

LLAMA = Path(__file__).parents[2] / "data" / "hf-parity" / "llama"


def test_ten_steps_have_the_losses_and_gradient_norms_that_pytorch_had():
    how, reference = json.loads((LLAMA / "reference.json").read_text())["train"], np.load(LLAMA / "reference.npz")
    optimizer = OptimizerSpec(
        learning_rate=how["lr"],
        beta1=how["betas"][0],
        beta2=how["betas"][1],
        epsilon=how["eps"],
        weight_decay=how["weight_decay"],
        clip_norm=how["clip_global_norm"],
        schedule=ScheduleSpec(kind="constant"),
    )
    spec = SftSpec(batch_size=4, optimizer=optimizer)
    config = huggingface.read_config(LLAMA)
    current = state.init(config, spec, jax.tree.map(jnp.asarray, huggingface.load_params(LLAMA, config)))
    found = []
    for token_ids in reference["train_ids"]:
        trained = np.broadcast_to(np.arange(32) >= how["prompt_tokens_masked"], token_ids.shape)
        batch = Batch(token_ids[None], trained[None], np.ones_like(trained)[None])
        current, metrics = train_step(config, spec, 10, current, batch)
        found.append((float(metrics.loss), float(metrics.gradient_norm)))
    losses, gradient_norms = np.transpose(found)
    np.testing.assert_allclose(losses, reference["train_losses"], rtol=1e-4)
    np.testing.assert_allclose(gradient_norms, reference["train_grad_norms"], rtol=1e-3)
