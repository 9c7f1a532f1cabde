from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_rt_modeling.cross_entropy import Head
from tunix_rt_modeling.divergence import Scorer, token_divergences


@pytest.mark.parametrize("words", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("vocab", "chunk"), [(96, 32), (97, 32), (97, 96), (31, 64)])
@pytest.mark.parametrize(("temperature", "softcap"), [(1.0, None), (3.0, 5.0)])
def test_chunks_add_up_to_the_plain_divergence_and_its_gradient(
    temperature: float, vocab: int, chunk: int, softcap: float | None, words: tuple[int, int]
) -> None:
    keys = jax.random.split(jax.random.key(0), 5)
    hidden, head = jax.random.normal(keys[0], (20, 16)), jax.random.normal(keys[1], (vocab, 16))
    teacher_hidden, teacher_head = jax.random.normal(keys[2], (20, 24)), jax.random.normal(keys[3], (vocab, 24))
    weights = jax.random.uniform(keys[4], (20,))

    def plain(hidden: jax.Array, head: jax.Array) -> jax.Array:
        scores = hidden @ head.T
        scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
        ours = jax.nn.log_softmax(scores / temperature)
        theirs = jax.nn.log_softmax(teacher_hidden @ teacher_head.T / temperature)
        return jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=1) @ weights

    def turned(head: jax.Array, words: int) -> Head:
        return Head(head.T if words else head, words)

    def chunked(hidden: jax.Array, head: jax.Array) -> jax.Array:
        student = Scorer(hidden, turned(head, words[0]), softcap)
        teacher = Scorer(teacher_hidden, turned(teacher_head, words[1]))
        return token_divergences(student, teacher, temperature=temperature, chunk=chunk) @ weights

    with jax.default_matmul_precision("highest"):
        expected, ours = (jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, head) for loss in (plain, chunked))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), ours, expected)


def test_teacher_gets_no_gradient_and_a_student_like_it_has_no_distance() -> None:
    hidden, head = jax.random.normal(jax.random.key(0), (6, 8)), jax.random.normal(jax.random.key(1), (40, 8))

    def distance(teacher_hidden: jax.Array) -> jax.Array:
        alike = Scorer(hidden, Head(head, 0)), Scorer(teacher_hidden, Head(head, 0))
        return token_divergences(*alike, temperature=2.0, chunk=16).sum()

    value, slope = jax.value_and_grad(distance)(hidden)
    assert float(value) == pytest.approx(0, abs=1e-5)
    assert not slope.any()


def test_huge_scores_neither_overflow_nor_vanish() -> None:
    head = Head(jnp.array([[1.0], [0.5], [-1.0]]), 0)
    student, teacher = Scorer(jnp.array([[-1e3]]), head), Scorer(jnp.array([[1e3]]), head)
    np.testing.assert_allclose(token_divergences(student, teacher, temperature=1.0, chunk=2), [2e3])


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    def temporary_bytes(vocab: int) -> int:
        def loss(hidden: jax.Array, head: jax.Array, teacher_head: jax.Array) -> jax.Array:
            student, teacher = Scorer(hidden, Head(head, 0)), Scorer(hidden, Head(teacher_head, 0))
            return token_divergences(student, teacher, temperature=2.0, chunk=1024).sum()

        heads = [jax.ShapeDtypeStruct((vocab, 64), jnp.float32)] * 2
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(jax.ShapeDtypeStruct((512, 64), jnp.float32), *heads).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(2048), temporary_bytes(65_536)
    assert large < 1.25 * small + 65_536 * 64 * 4
