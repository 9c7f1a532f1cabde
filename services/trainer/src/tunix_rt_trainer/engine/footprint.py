"""How much memory a training step needs, by part. Shapes go through the compiler; no array is ever made of them."""

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from tunix_rt_common.plans import Memory
from tunix_rt_modeling import sharding
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.transformer import Params, init_params
from tunix_rt_trainer.engine import state
from tunix_rt_trainer.engine.batches import Batch, bucket, training_batch
from tunix_rt_trainer.engine.device import mesh_of
from tunix_rt_trainer.engine.state import Teacher, TrainState, trainable
from tunix_rt_trainer.engine.step import compiled_step
from tunix_rt_trainer.engine.subject import Device, Subject


@lru_cache(maxsize=4)
def params_shapes(config: ModelConfig) -> Params:
    """A model's weights as they are read, as shapes."""
    shapes: Params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return shapes


def state_shapes(subject: Subject) -> TrainState:
    """The state of a run, as shapes."""
    teacher = Teacher(subject.teacher, params_shapes(subject.teacher)) if subject.teacher else None

    def made(params: Params, teacher: Teacher | None) -> TrainState:
        return state.init(subject.config, subject.spec, params, teacher=teacher)

    shapes: TrainState = jax.eval_shape(made, params_shapes(subject.config), teacher)
    return shapes


def batch_shapes(subject: Subject, tokens: int) -> Batch:
    """A training batch with sequences padded to `tokens`, as shapes."""
    spec = subject.spec
    single = training_batch(subject.rows, spec.model_copy(update={"batch_size": 1, "accumulation": 1}), 0)

    def widened(leaf: np.ndarray) -> jax.Array:
        sequences = leaf.shape[1] * spec.batch_size // spec.accumulation
        return jnp.zeros((spec.accumulation, sequences, *((tokens,) if leaf.ndim == 3 else ())), leaf.dtype)

    shapes: Batch = jax.eval_shape(lambda: jax.tree.map(widened, single))
    return shapes


def longest_padded(subject: Subject) -> int:
    """Tokens to which the longest sequence is padded."""
    rows = subject.data.train
    longest = max(sum(len(rows.token_ids[row]) for row in pack) for pack in rows.packs)
    return bucket(min(subject.spec.max_tokens, longest))


def step_memory(subject: Subject, device: Device) -> Memory:
    """What the largest step of a run needs on each device, as compiled for those of this process, whatever `device` is.

    The compiled program is kept: a run that trains on such a batch compiles nothing more for it.

    Raises:
        InvalidInput: the spec's mesh does not fit the devices or the batch.
    """
    known = resident_memory(subject, device)
    state, batch = _placed_state(subject), _placed_batch(subject)
    analysis = compiled_step(subject.config, subject.spec, subject.steps, state, batch).memory_analysis()
    if analysis is None:
        return known
    set_aside = analysis.temp_size_in_bytes + analysis.generated_code_size_in_bytes
    set_aside += analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    placed = known.weights_bytes + known.moments_bytes + known.gradients_bytes + known.batch_bytes
    return known.model_copy(update={"activations_bytes": max(0, set_aside - placed)})


def resident_memory(subject: Subject, device: Device) -> Memory:
    """What is known without compiling: everything but the activations."""
    state, read = _placed_state(subject), params_shapes(subject.config)
    moved, moments = size_bytes_each(trainable(state)), size_bytes_each(state.optimizer)
    weights = size_bytes_each((state.params, state.lora, state.teacher))
    return Memory(
        weights_bytes=weights,
        moments_bytes=moments,
        gradients_bytes=moved,
        batch_bytes=size_bytes_each(_placed_batch(subject)),
        activations_bytes=0,
        checkpoint_copy_bytes=moved + moments if device.is_host else 0,
        loading_bytes=weights + (_quantising_bytes(read) if size_bytes(state.params) < size_bytes(read) else 0),
    )


def _quantising_bytes(read: Params) -> int:
    """What it takes to make NF4 of one leaf after the other: the largest, and as much again for what is in between."""
    return 2 * max(map(size_bytes, jax.tree.leaves(read["layers"])))


def size_bytes(shapes: PyTree[Any]) -> int:
    """All arrays of a tree together."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def size_bytes_each(shapes: PyTree[Any]) -> int:
    """What of a tree's arrays lies on one device."""

    def size(leaf: Any) -> int:
        shape: tuple[int, ...] = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
        return math.prod(shape) * int(leaf.dtype.itemsize)

    return sum(map(size, jax.tree.leaves(shapes)))


def _placed_state(subject: Subject) -> TrainState:
    """The state's shapes, each with its place on the spec's mesh."""
    mesh, shapes = mesh_of(subject.spec), state_shapes(subject)
    if mesh.size == 1:
        return shapes
    own = replace(shapes, teacher=None)
    placed: TrainState = _put(own, sharding.shardings(mesh, subject.config, own))
    teacher = shapes.teacher and _put(shapes.teacher, sharding.shardings(mesh, shapes.teacher.config, shapes.teacher))
    return replace(placed, teacher=teacher)


def _placed_batch(subject: Subject) -> Batch:
    mesh, shapes = mesh_of(subject.spec), batch_shapes(subject, longest_padded(subject))
    if mesh.size == 1:
        return shapes
    place = sharding.batch_sharding(mesh, batch_axis=1)
    placed: Batch = _put(shapes, jax.tree.map(lambda _: place, shapes))
    return placed


def _put(shapes: PyTree[Any], places: PyTree[Any]) -> PyTree[Any]:
    return jax.tree.map(lambda leaf, place: leaf.update(sharding=place), shapes, places)
