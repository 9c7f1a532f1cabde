"""Which device holds which part of an array: a mesh of three axes, and rules from the names of axes to it.

    data     copies of the weights, each with its share of the batch
    fsdp     a share of the batch and of every weight; weights are gathered layer by layer (ZeRO 3, arXiv:1910.02054)
    tensor   a share of heads, of the MLP and of the vocabulary (Megatron, arXiv:1909.08053)

Code names the axes of its arrays ("batch", "hidden", "heads" …) and never a device: `RULES` translate. Without a mesh
in use, which is how a single device is, nothing of this leaves a trace in the program.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey
from jaxtyping import Array, PyTree

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import MeshSpec
from tunix_rt_modeling.config import ModelConfig

Axes = tuple[str | None, ...]

RULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "batch": ("data", "fsdp"),
        "hidden": ("fsdp",),
        "heads": ("tensor",),
        "kv_heads": ("tensor",),
        "mlp": ("tensor",),
        "vocab": ("tensor",),
    }
)
"""The name of an array's axis, to the axes of the mesh that cut it."""
_KERNELS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "q_proj": ("hidden", "heads"),
        "k_proj": ("hidden", "kv_heads"),
        "v_proj": ("hidden", "kv_heads"),
        "o_proj": ("heads", "hidden"),
        "gate_proj": ("hidden", "mlp"),
        "up_proj": ("hidden", "mlp"),
        "down_proj": ("mlp", "hidden"),
        "lm_head": ("hidden", "vocab"),
        "embed_tokens": ("vocab", "hidden"),
    }
)
"""The axes of each matrix, [in, out]."""


def make_mesh(spec: MeshSpec, devices: Sequence[jax.Device]) -> Mesh:
    """Lay out all `devices`.

    Raises:
        InvalidInput: the axes do not multiply to the number of devices.
    """
    count, given = len(devices), spec.data * spec.tensor
    fsdp = spec.fsdp or max(1, count // given)
    if given * fsdp != count:
        raise InvalidInput(
            f"mesh {spec.data} x {fsdp} x {spec.tensor} (data, fsdp, tensor) makes {given * fsdp} devices, and there "
            f"are {count}: choose axes that multiply to {count}, or leave fsdp out",
            field="train.mesh",
        )
    shape = (spec.data, fsdp, spec.tensor)
    return Mesh(np.asarray(devices).reshape(shape), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def use(mesh: Mesh) -> AbstractContextManager[Any]:
    """Let the block's computations see the mesh, unless it is a single device."""
    return nullcontext() if mesh.size == 1 else jax.set_mesh(mesh)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is cut."""
    return int(mesh.shape["data"] * mesh.shape["fsdp"])


def constrain(x: Array, *axes: str | None) -> Array:
    """`x`, cut as the rules say for axes of these names; None leaves an axis whole."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return _constrained(x, _partition(mesh.shape, axes, x.shape))


def constrain_tree(config: ModelConfig, tree: PyTree[Array]) -> PyTree[Array]:
    """Weights, adapters or moments, each leaf cut as `place` would."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    return jax.tree.map_with_path(lambda path, leaf: _constrained(leaf, _place(mesh.shape, config, path, leaf)), tree)


def per_device(function: Callable[..., Array], arguments: Sequence[tuple[Array, Axes]], out: Axes) -> Array:
    """`function` of the arguments, each device on its own parts: for what XLA would not cut well by itself.

    Each argument comes with the names of its axes. `function` must treat the parts along named axes independently.
    """
    mesh = jax.sharding.get_abstract_mesh()
    arrays = [array for array, _ in arguments]
    if mesh.empty:
        return function(*arrays)
    shape = jax.eval_shape(function, *arrays).shape
    mapped = jax.shard_map(
        function,
        in_specs=tuple(_partition(mesh.shape, axes, array.shape) for array, axes in arguments),
        out_specs=_partition(mesh.shape, out, shape),
        check_vma=False,
    )
    return mapped(*arrays)


def divides(axis: str, size: int) -> bool:
    """Whether the mesh in use, if any, cuts an axis of this name and size into equal parts."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or size % _parts(mesh.shape, axis) == 0


def place(mesh: Mesh, config: ModelConfig, tree: PyTree[Array]) -> PyTree[Array]:
    """Put weights, adapters, or an optimizer's moments of them, where the rules say; as they are on one device."""
    if mesh.size == 1:
        return tree
    return jax.tree.map(_put, tree, shardings(mesh, config, tree))


def shardings(mesh: Mesh, config: ModelConfig, tree: PyTree[Any]) -> PyTree[NamedSharding]:
    """For each leaf its place, told by the names on its path; what has no name of ours is on every device."""
    return jax.tree.map_with_path(lambda path, leaf: NamedSharding(mesh, _place(mesh.shape, config, path, leaf)), tree)


def place_batch(mesh: Mesh, tree: PyTree[np.ndarray], batch_axis: int) -> PyTree[Array]:
    """Put host arrays, the same in every process, on the devices, cut along their batch axis."""
    if mesh.size == 1:
        return tree
    sharding = batch_sharding(mesh, batch_axis)

    def put(array: np.ndarray) -> Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def batch_sharding(mesh: Mesh, batch_axis: int) -> NamedSharding:
    """The place of an array that is cut along its batch axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, RULES["batch"]))  # type: ignore[no-untyped-call]


def _put(leaf: Array, sharding: NamedSharding) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.device_put(jax.random.key_data(leaf), sharding)
        key: Array = jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return key
    placed: Array = jax.device_put(leaf, sharding)
    return placed


def _place(mesh_shape: Mapping[str, int], config: ModelConfig, path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
    """Where a leaf belongs by the names on its path; heads are cut whole or not at all."""
    names = [key.key for key in path if isinstance(key, DictKey)]
    counts = {"heads": config.num_heads, "kv_heads": config.num_kv_heads}
    uneven = {axis for axis, count in counts.items() if count % _parts(mesh_shape, axis)}
    axes = [None if axis in uneven else axis for axis in _axes_of(names, len(leaf.shape))]
    return _partition(mesh_shape, axes, leaf.shape)


def _axes_of(names: Sequence[str], rank: int) -> Axes:
    """The names of a leaf's last axes by its path: that of a kernel, of its bias, of an adapter's A or B, or of NF4's
    codes and scales, whose blocks are cut wherever they lie.
    """
    kernel = next((_KERNELS[name] for name in names if name in _KERNELS), None)
    if kernel is None or rank == 0:
        return (None,) * rank
    inputs, outputs = kernel
    known: dict[str, Axes] = {
        "bias": (outputs,),
        "a": (inputs, None),
        "b": (None, outputs),
        "codes": ("hidden", None),
        "scales": ("hidden",),
    }
    last = known.get(names[-1], (inputs, outputs))
    return (*(None,) * (rank - len(last)), *last)


def _partition(mesh_shape: Mapping[str, int], axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
    """Where an array's axes are cut; one that its mesh axes do not divide stays whole."""
    cuts = [
        RULES[axis] if axis is not None and size % _parts(mesh_shape, axis) == 0 else None
        for axis, size in zip(axes, shape, strict=True)
    ]
    return PartitionSpec(*cuts)  # type: ignore[no-untyped-call]


def _constrained(x: Array, partition: PartitionSpec) -> Array:
    constrained: Array = jax.lax.with_sharding_constraint(x, partition)  # type: ignore[no-untyped-call]
    return constrained


def _parts(mesh_shape: Mapping[str, int], axis: str) -> int:
    """Into how many parts the rules cut an axis of this name."""
    return math.prod(mesh_shape[along] for along in RULES[axis])
