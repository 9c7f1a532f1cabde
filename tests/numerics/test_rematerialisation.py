"""What the backward pass computes again changes memory, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_rt_modeling import transformer
from tunix_rt_modeling.config import PRESETS

CONFIG = PRESETS["tiny"]
TOKEN_IDS = np.arange(4 * 48, dtype=np.int32).reshape(4, 48) % CONFIG.vocab_size


def compiled(remat):
    config = CONFIG.model_copy(update={"remat": remat})
    loss = jax.jit(jax.value_and_grad(lambda params: jnp.mean(transformer.logits(config, params, TOKEN_IDS) ** 2)))
    return loss.lower(transformer.init_params(CONFIG, jax.random.key(0))).compile()


@pytest.fixture(scope="module")
def programs():
    return {remat: compiled(remat) for remat in ("full", "dots", "none")}


@pytest.mark.parametrize("remat", ["dots", "none"])
def test_loss_and_gradients_are_those_of_full_rematerialisation(programs, remat):
    params = transformer.init_params(CONFIG, jax.random.key(0))
    (loss, gradient), (other_loss, other_gradient) = programs["full"](params), programs[remat](params)
    assert float(loss) == pytest.approx(float(other_loss), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, other_gradient)


def test_the_less_is_computed_again_the_more_is_kept(programs):
    kept = [programs[remat].memory_analysis().temp_size_in_bytes for remat in ("full", "dots", "none")]
    assert kept == sorted(kept)
    assert kept[0] < kept[2]
