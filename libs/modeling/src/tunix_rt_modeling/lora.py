"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), in memory and in PEFT's directory format.

An adapter mirrors the params: layers / self_attn / q_proj / {a: [layers, in, rank], b: [layers, rank, out]}. PEFT
stores A and B transposed, one pair per layer.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from safetensors.numpy import save_file

from tunix_rt_common.peft import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Kernels,
    adapter_config,
    check_adapter,
    check_rank,
    read_adapter_config,
)
from tunix_rt_common.safetensors_header import check_safetensors
from tunix_rt_common.specs import LoraSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.directory import inside, read_float32, read_json
from tunix_rt_modeling.nf4 import dequantize
from tunix_rt_modeling.transformer import Params


def init_lora(config: ModelConfig, spec: LoraSpec, key: Array) -> Params:
    """Draw an adapter that changes nothing yet: A uniform in ±1/sqrt(in), B zero, as PEFT does by default.

    Raises:
        UnusableModel: the rank exceeds a dimension of a target's kernel.
    """
    check_rank(spec, _kernels(config))
    lora: Params = {}
    for target, target_key in zip(spec.targets, jax.random.split(key, len(spec.targets)), strict=True):
        module, inputs, outputs = _kernel(config, target)
        shape = (config.num_layers, inputs, spec.rank)
        a = jax.random.uniform(target_key, shape, minval=-(inputs**-0.5), maxval=inputs**-0.5)
        b = jnp.zeros((config.num_layers, spec.rank, outputs))
        lora.setdefault("layers", {}).setdefault(module, {})[target] = {"a": a, "b": b}
    return lora


def scale(spec: LoraSpec) -> float:
    """Return the factor of A B: alpha / rank, or with rsLoRA alpha / sqrt(rank)."""
    return spec.alpha / (math.sqrt(spec.rank) if spec.rslora else spec.rank)


def merge(config: ModelConfig, params: Params, lora: Params, scale: float) -> Params:
    """Return params with `scale` * A B added to each adapted kernel; neither argument changes.

    Kernels that were kept as NF4 come back in float32.
    """
    layers = {name: dict(parts) for name, parts in params["layers"].items()}
    for target in LoraSpec().targets:
        module, inputs, outputs = _kernel(config, target)
        part = layers[module][target]
        kernel = dequantize(part["nf4"], inputs, outputs) if "nf4" in part else part["kernel"]
        if adapter := lora["layers"].get(module, {}).get(target):
            kernel += scale * jnp.einsum("LIR,LRO->LIO", adapter["a"], adapter["b"], precision="highest")
        layers[module][target] = {name: leaf for name, leaf in part.items() if name != "nf4"} | {"kernel": kernel}
    return params | {"layers": layers}


def read_peft(directory: Path, config: ModelConfig) -> tuple[Params, LoraSpec]:
    """Read a PEFT LoRA adapter for a base of this config; return it with what its configuration says.

    Raises:
        UnusableModel: the adapter is malformed, uses a variant of LoRA that is not supported, or does not fit.
    """
    spec = read_adapter_config(read_json(directory, ADAPTER_CONFIG))
    path = inside(directory, ADAPTER_WEIGHTS)
    found = check_safetensors(path)
    check_adapter(found, spec, _kernels(config))
    places = dict(_places(config, spec))
    lora = _empty(config, spec)
    for name, tensor in read_float32(path, list(found)):
        module, target, leaf, layer = places[name]
        lora["layers"][module][target][leaf][layer] = tensor.T
    loaded: Params = jax.tree.map(jnp.asarray, lora)
    return loaded, spec


def write_peft(directory: Path, config: ModelConfig, lora: Params, spec: LoraSpec, base_name: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors as PEFT reads them; `base_name` names the base model."""
    directory.mkdir(parents=True, exist_ok=True)
    document = json.dumps(adapter_config(spec, base_name), indent=2, sort_keys=True)
    (directory / ADAPTER_CONFIG).write_text(document + "\n", encoding="utf-8")
    host = jax.device_get(lora)["layers"]
    tensors = {
        name: np.ascontiguousarray(host[module][target][leaf][layer].T)
        for name, (module, target, leaf, layer) in _places(config, spec)
    }
    save_file(tensors, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _kernel(config: ModelConfig, target: str) -> tuple[str, int, int]:
    """Return the module that holds a projection, and the projection's inputs and outputs."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "q_proj": ("self_attn", hidden, heads),
        "k_proj": ("self_attn", hidden, kv_heads),
        "v_proj": ("self_attn", hidden, kv_heads),
        "o_proj": ("self_attn", heads, hidden),
        "gate_proj": ("mlp", hidden, mlp),
        "up_proj": ("mlp", hidden, mlp),
        "down_proj": ("mlp", mlp, hidden),
    }[target]


def _kernels(config: ModelConfig) -> Kernels:
    """Return inputs and outputs of every projection, by its path in Hugging Face's names."""
    kernels = {}
    for target in LoraSpec().targets:
        module, inputs, outputs = _kernel(config, target)
        for layer in range(config.num_layers):
            kernels[f"model.layers.{layer}.{module}.{target}"] = (inputs, outputs)
    return kernels


_Place = tuple[str, str, str, int]


def _places(config: ModelConfig, spec: LoraSpec) -> Iterator[tuple[str, _Place]]:
    """Yield each PEFT tensor's name with its module, target, leaf and layer."""
    for target in spec.targets:
        module, *_ = _kernel(config, target)
        for layer in range(config.num_layers):
            prefix = f"base_model.model.model.layers.{layer}.{module}.{target}"
            yield f"{prefix}.lora_A.weight", (module, target, "a", layer)
            yield f"{prefix}.lora_B.weight", (module, target, "b", layer)


def _empty(config: ModelConfig, spec: LoraSpec) -> Params:
    layers: Params = {}
    for target in spec.targets:
        module, inputs, outputs = _kernel(config, target)
        a = np.empty((config.num_layers, inputs, spec.rank), np.float32)
        b = np.empty((config.num_layers, spec.rank, outputs), np.float32)
        layers.setdefault(module, {})[target] = {"a": a, "b": b}
    return {"layers": layers}
