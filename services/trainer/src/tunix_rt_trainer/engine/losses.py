"""Training losses, by the name of the method.

Each returns a sum and the count to divide it by, so that micro-batches of unequal token counts add up to exactly the
loss of the whole batch.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.cross_entropy import token_losses
from tunix_rt_modeling.transformer import Params, head_of

Loss = Callable[
    [
        ModelConfig,
        Params,
        Float[Array, "batch tokens hidden"],
        Int[Array, "batch tokens"],
        Bool[Array, "batch tokens"],
    ],
    tuple[Float[Array, ""], Int[Array, ""]],
]


def next_token_loss(
    config: ModelConfig,
    params: Params,
    hidden: Float[Array, "batch tokens hidden"],
    token_ids: Int[Array, "batch tokens"],
    loss_mask: Bool[Array, "batch tokens"],
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Sum of -log p(token t | tokens before t), in nats, over the tokens t that `loss_mask` marks, and their number.

    The first token of a row has nothing before it and is never counted.
    """
    targets = jnp.roll(token_ids, -1, axis=1).reshape(-1)
    counted = jnp.roll(loss_mask, -1, axis=1).at[:, -1].set(False).reshape(-1)
    flat = hidden.reshape(-1, hidden.shape[-1])
    losses = token_losses(flat, head_of(config, params), targets, softcap=config.logit_softcap)
    return jnp.sum(losses, where=counted), jnp.sum(counted)


LOSSES: Mapping[str, Loss] = MappingProxyType({"sft": next_token_loss})
