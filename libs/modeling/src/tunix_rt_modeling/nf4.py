"""Frozen kernels in 4 bits: NormalFloat blocks of 64 weights, each block scaled by its largest magnitude.

QLoRA (Dettmers et al. 2023, arXiv:2305.14314) without the second quantisation of the scales: 4.5 bits for a weight.
A kernel is read row by row; the end of its last block is padding.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

BLOCK = 64
CODE_BOOK = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)
"""Quantiles of a normal distribution with an exact zero, scaled to [-1, 1]: appendix E of the paper."""

Nf4Kernel = dict[str, Array]
"""`codes`: UInt8[... blocks 32], two indices into the code book each, the first in the high bits; `scales`:
Float32[... blocks]."""


def quantize(kernel: Float[Array, "*layers inputs outputs"]) -> Nf4Kernel:
    """Return the nearest representable kernel."""
    layers, size = kernel.shape[:-2], kernel.shape[-2] * kernel.shape[-1]
    flat = jnp.pad(kernel.reshape(*layers, size), [(0, 0)] * len(layers) + [(0, -size % BLOCK)])
    blocks = flat.reshape(*layers, -1, BLOCK)
    scales = jnp.abs(blocks).max(axis=-1)
    shares = blocks / jnp.where(scales > 0, scales, 1.0)[..., None]
    middles = jnp.asarray((CODE_BOOK[1:] + CODE_BOOK[:-1]) / 2)
    indices = jnp.searchsorted(middles, shares).astype(jnp.uint8)
    return {"codes": (indices[..., ::2] << 4) | indices[..., 1::2], "scales": scales}


def dequantize(
    kernel: Nf4Kernel, inputs: int, outputs: int, dtype: DTypeLike = jnp.float32
) -> Float[Array, "*layers inputs outputs"]:
    """Return the kernel that `quantize` kept, calculated in float32."""
    codes: UInt8[Array, "*layers blocks 32"] = kernel["codes"]
    indices = jnp.stack([codes >> 4, codes & 15], axis=-1).reshape(*codes.shape[:-1], BLOCK)
    blocks = jnp.asarray(CODE_BOOK)[indices] * kernel["scales"][..., None]
    layers = codes.shape[:-2]
    return blocks.reshape(*layers, -1)[..., : inputs * outputs].reshape(*layers, inputs, outputs).astype(dtype)


def quantize_kernels(params: dict[str, Any]) -> dict[str, Any]:
    """Return a model, or a part of one, with the kernels of its layers as NF4.

    Embeddings, norms, biases and head stay as they are, and so does what is NF4 already.
    """
    layers = {
        module: {name: _quantized(part) for name, part in parts.items()} if "scale" not in parts else parts
        for module, parts in params.get("layers", {}).items()
    }
    return params | ({"layers": layers} if layers else {})


@jax.jit
def _quantize_layers(kernels: Float[Array, "layers inputs outputs"]) -> Nf4Kernel:
    """One layer after the other, so that what it takes on the way is that of one."""
    kept: Nf4Kernel = jax.lax.map(quantize, kernels)
    return kept


def _quantized(part: dict[str, Any]) -> dict[str, Any]:
    if "kernel" not in part:
        return part
    rest = {name: leaf for name, leaf in part.items() if name != "kernel"}
    return rest | {"nf4": _quantize_layers(part["kernel"])}
