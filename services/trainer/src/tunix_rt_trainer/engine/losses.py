"""Training losses, by the name of the method.

Each returns a sum and the count to divide it by, so that micro-batches of unequal token counts add up to exactly the
loss of the whole batch.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Loss = Callable[
    [Float[Array, "batch tokens vocab"], Int[Array, "batch tokens"], Bool[Array, "batch tokens"]],
    tuple[Float[Array, ""], Int[Array, ""]],
]


def next_token_loss(
    logits: Float[Array, "batch tokens vocab"],
    token_ids: Int[Array, "batch tokens"],
    loss_mask: Bool[Array, "batch tokens"],
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Sum of -log p(token t | tokens before t), in nats, over the tokens t that `loss_mask` marks, and their number.

    The first token of a row has nothing before it and is never counted.
    """
    targets = jnp.roll(token_ids, -1, axis=1)
    counted = jnp.roll(loss_mask, -1, axis=1).at[:, -1].set(False)
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    nll = -jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(nll, where=counted), jnp.sum(counted)


LOSSES: Mapping[str, Loss] = MappingProxyType({"sft": next_token_loss})
