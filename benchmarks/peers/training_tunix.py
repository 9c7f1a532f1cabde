"""google-tunix's PeftTrainer, all weights. It does not pack, so it is given rows that are full already."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rounds
from flax import nnx
from tunix.models.llama3.model import Llama3, ModelConfig
from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig, TrainingInput
from tunix.sft.utils import build_positions_from_mask, make_causal_attn_mask

work, steps = Path(sys.argv[2]), int(sys.argv[3])
token_ids = np.load(work / "packed.npz")["token_ids"]
config = ModelConfig(
    num_layers=4,
    vocab_size=6400,
    embed_dim=256,
    hidden_dim=1024,
    num_heads=4,
    head_dim=64,
    num_kv_heads=2,
    rope_theta=10_000,
    norm_eps=1e-5,
    weight_tying=True,
)
model = Llama3(config, rngs=nnx.Rngs(0))


def model_input(batch: TrainingInput) -> dict[str, jax.Array]:
    """What the default loss asks for."""
    mask = jnp.asarray(batch.input_mask)
    return {
        "input_tokens": batch.input_tokens,
        "input_mask": mask,
        "positions": build_positions_from_mask(mask),
        "attention_mask": make_causal_attn_mask(mask),
    }


def batches() -> Iterator[TrainingInput]:
    """Batches without end; a round is over when its last step has left the device."""
    step = 0
    rounds.next_round()
    count = rounds.WARM_UP_STEPS
    while True:
        started_s = time.perf_counter()
        for _ in range(count):
            batch = token_ids[step % len(token_ids)]
            yield TrainingInput(input_tokens=batch, input_mask=np.ones(batch.shape, bool))
            step += 1
        jax.block_until_ready(nnx.state(model))
        rounds.answer(tokens=count * token_ids[0].size, seconds=time.perf_counter() - started_s)
        rounds.next_round()
        count = steps


trainer = PeftTrainer(model, optax.adamw(1e-3), TrainingConfig(eval_every_n_steps=10**9))
trainer = trainer.with_gen_model_input_fn(model_input)
trainer.train(batches())
