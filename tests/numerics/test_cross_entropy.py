from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_rt_modeling.cross_entropy import Head, token_losses


@pytest.mark.parametrize("words", [0, 1])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(("vocab", "chunk"), [(96, 32), (97, 32), (97, 96), (31, 64), (64, 1)])
def test_chunks_add_up_to_the_plain_loss_and_its_gradient(
    softcap: float | None, vocab: int, chunk: int, words: int
) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (20, 16))
    head = jax.random.normal(keys[1], (vocab, 16))
    targets = jax.random.randint(keys[2], (20,), 0, vocab)
    weights = jax.random.uniform(keys[3], (20,))

    def plain(hidden: jax.Array, head: jax.Array) -> jax.Array:
        scores = hidden @ head.T
        scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(scores), targets[:, None], axis=1)[:, 0]
        return losses @ weights

    def chunked(hidden: jax.Array, head: jax.Array) -> jax.Array:
        return (
            token_losses(hidden, Head(head.T if words else head, words), targets, softcap=softcap, chunk=chunk)
            @ weights
        )

    with jax.default_matmul_precision("highest"):
        expected, ours = (jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, head) for loss in (plain, chunked))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), ours, expected)


def test_huge_scores_neither_overflow_nor_vanish() -> None:
    hidden, head = jnp.array([[1e4], [-1e4]]), Head(jnp.array([[1.0], [0.5], [-1.0]]), 0)
    losses = token_losses(hidden, head, jnp.array([0, 0]), chunk=2)
    np.testing.assert_allclose(losses, [0.0, 2e4])


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    def temporary_bytes(vocab: int) -> int:
        def loss(hidden: jax.Array, head: jax.Array) -> jax.Array:
            return token_losses(hidden, Head(head, 0), jnp.zeros(512, jnp.int32), chunk=1024).sum()

        shapes = jax.ShapeDtypeStruct((512, 64), jnp.float32), jax.ShapeDtypeStruct((vocab, 64), jnp.float32)
        memory = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
        return memory.temp_size_in_bytes

    small, large = temporary_bytes(2048), temporary_bytes(65_536)
    assert large < 1.25 * small + 65_536 * 64 * 4
