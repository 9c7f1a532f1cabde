"""How far a student's next-token distributions are from a teacher's, in chunks of the vocabulary.

Neither model's scores of all words are ever there at once: forward keeps running maxima and sums of both, backward
computes each chunk's scores again. The teacher gets no gradient.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tunix_rt_modeling.cross_entropy import Head, chunk_columns, chunk_scores, chunk_width
from tunix_rt_modeling.sharding import constrain


class Scorer(NamedTuple):
    """What scores words: the states after the last norm, the head, and the soft cap of the scores."""

    hidden: Float[Array, "tokens hidden"]
    head: Head
    softcap: float | None = None


class _How(NamedTuple):
    """What the program is made for: the temperature, the words of a chunk, both heads' axes and soft caps."""

    temperature: float
    width: int
    words: tuple[int, int]
    softcaps: tuple[float | None, float | None]


class _Running(NamedTuple):
    """What the chunks so far come to, for scores divided by the temperature; sums are relative to the maxima.

    `gap` is the sum of exp(teacher score) (teacher score - student score).
    """

    student_maximum: Float[Array, " tokens"]
    student_total: Float[Array, " tokens"]
    teacher_maximum: Float[Array, " tokens"]
    teacher_total: Float[Array, " tokens"]
    gap: Float[Array, " tokens"]


def token_divergences(
    student: Scorer, teacher: Scorer, *, temperature: float, chunk: int | None = None
) -> Float[Array, " tokens"]:
    """KL(teacher || student) of each token's distributions over one vocabulary at a temperature, in nats, float32.

    Products run in the dtype of each `hidden`. At most `chunk` words are scored at a time; unless given, as many as
    make 64 MiB of scores of either model.
    """
    weights, teacher_weights = (constrain(scorer.head.weights, None, None) for scorer in (student, teacher))
    width = chunk_width(weights.shape[student.head.words], student.hidden.shape[0], chunk)
    how = _How(temperature, width, (student.head.words, teacher.head.words), (student.softcap, teacher.softcap))
    return _divergences(how, student.hidden, weights, *jax.lax.stop_gradient((teacher.hidden, teacher_weights)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _divergences(how: _How, hidden: Array, weights: Array, teacher_hidden: Array, teacher_weights: Array) -> Array:
    return _forward(how, hidden, weights, teacher_hidden, teacher_weights)[0]


def _forward(
    how: _How, hidden: Array, weights: Array, teacher_hidden: Array, teacher_weights: Array
) -> tuple[Array, tuple[Array, ...]]:
    vocab = weights.shape[how.words[0]]

    def add_chunk(running: _Running, number: Array) -> tuple[_Running, None]:
        start, is_new = chunk_columns(number, how.width, vocab)
        ours = _scaled(how, 0, hidden, weights, start)
        theirs = _scaled(how, 1, teacher_hidden, teacher_weights, start)
        student_maximum = jnp.maximum(running.student_maximum, ours.max(axis=1))
        teacher_maximum = jnp.maximum(running.teacher_maximum, theirs.max(axis=1))
        ours_new = jnp.where(is_new, jnp.exp(ours - student_maximum[:, None]), 0.0)
        theirs_new = jnp.where(is_new, jnp.exp(theirs - teacher_maximum[:, None]), 0.0)
        student_shrunk = jnp.exp(running.student_maximum - student_maximum)
        teacher_shrunk = jnp.exp(running.teacher_maximum - teacher_maximum)
        return _Running(
            student_maximum,
            running.student_total * student_shrunk + ours_new.sum(axis=1),
            teacher_maximum,
            running.teacher_total * teacher_shrunk + theirs_new.sum(axis=1),
            running.gap * teacher_shrunk + jnp.sum(theirs_new * (theirs - ours), axis=1),
        ), None

    zeros = jnp.zeros(hidden.shape[0], jnp.float32)
    started = _Running(zeros - jnp.inf, zeros, zeros - jnp.inf, zeros, zeros)
    running, _ = jax.lax.scan(add_chunk, started, jnp.arange(-(-vocab // how.width)))
    ours = running.student_maximum + jnp.log(running.student_total)
    theirs = running.teacher_maximum + jnp.log(running.teacher_total)
    divergences = running.gap / running.teacher_total - theirs + ours
    return divergences, (hidden, weights, teacher_hidden, teacher_weights, ours, theirs)


def _backward(how: _How, kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, None, None]:
    """By a student's score the divergence changes with its probability less the teacher's, over the temperature."""
    hidden, weights, teacher_hidden, teacher_weights, ours_total, theirs_total = kept
    vocab, words = weights.shape[how.words[0]], how.words[0]

    def add_chunk(gradients: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        by_hidden, by_weights = gradients
        start, is_new = chunk_columns(number, how.width, vocab)
        theirs = _scaled(how, 1, teacher_hidden, teacher_weights, start)
        part = jax.lax.dynamic_slice_in_dim(weights, start, how.width, words)
        scores, pull = jax.vjp(partial(chunk_scores, how.softcaps[0], words), hidden, part)
        student = jnp.exp(scores / how.temperature - ours_total[:, None])
        slope = (student - jnp.exp(theirs - theirs_total[:, None])) * (cotangent / how.temperature)[:, None]
        on_hidden, on_part = pull(jnp.where(is_new, slope, 0.0))
        on_part += jax.lax.dynamic_slice_in_dim(by_weights, start, how.width, words)
        by_weights = jax.lax.dynamic_update_slice_in_dim(by_weights, on_part, start, words)
        return (by_hidden + on_hidden.astype(jnp.float32), by_weights), None

    zeros = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros_like(weights)
    (by_hidden, by_weights), _ = jax.lax.scan(add_chunk, zeros, jnp.arange(-(-vocab // how.width)))
    return by_hidden.astype(hidden.dtype), by_weights, None, None


_divergences.defvjp(_forward, _backward)


def _scaled(how: _How, whose: int, hidden: Array, weights: Array, start: Array) -> Array:
    """A chunk of the scores of the student (0) or of the teacher (1), divided by the temperature."""
    part = jax.lax.dynamic_slice_in_dim(weights, start, how.width, how.words[whose])
    return chunk_scores(how.softcaps[whose], how.words[whose], hidden, part) / how.temperature
