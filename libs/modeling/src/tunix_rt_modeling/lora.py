"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), in memory and in PEFT's directory format.

An adapter mirrors the params: layers / self_attn / q_proj / {a: [layers, in, rank], b: [layers, rank, out]}. PEFT
stores A and B transposed, one pair per layer.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from safetensors.numpy import save_file

from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.safetensors_header import check_safetensors
from tunix_rt_common.specs import LoraSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.directory import check_shapes, inside, read_float32, read_json
from tunix_rt_modeling.transformer import Params

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


def init_lora(config: ModelConfig, spec: LoraSpec, key: Array) -> Params:
    """Draw an adapter that changes nothing yet: A uniform in ±1/sqrt(in), B zero, as PEFT does by default.

    Raises:
        UnusableModel: the rank exceeds a dimension of a target's kernel.
    """
    _check_rank(config, spec.rank, spec.targets)
    lora: Params = {}
    for target, target_key in zip(spec.targets, jax.random.split(key, len(spec.targets)), strict=True):
        module, inputs, outputs = _kernel(config, target)
        shape = (config.num_layers, inputs, spec.rank)
        a = jax.random.uniform(target_key, shape, minval=-(inputs**-0.5), maxval=inputs**-0.5)
        b = jnp.zeros((config.num_layers, spec.rank, outputs))
        lora.setdefault("layers", {}).setdefault(module, {})[target] = {"a": a, "b": b}
    return lora


def scale(spec: LoraSpec) -> float:
    """Return the factor of A B: alpha / rank."""
    return spec.alpha / spec.rank


def merge(params: Params, lora: Params, scale: float) -> Params:
    """Return params with `scale` * A B added to each adapted kernel; neither argument changes."""
    layers = dict(params["layers"])
    for module, adapters in lora["layers"].items():
        layers[module] = dict(layers[module])
        for target, adapter in adapters.items():
            delta = scale * jnp.einsum("LIR,LRO->LIO", adapter["a"], adapter["b"], precision="highest")
            projection = layers[module][target]
            layers[module][target] = projection | {"kernel": projection["kernel"] + delta}
    return params | {"layers": layers}


def read_peft(directory: Path, config: ModelConfig) -> tuple[Params, float]:
    """Read a PEFT LoRA adapter for a base of this config; return it with its scale.

    Raises:
        UnusableModel: the adapter is malformed, uses a variant of LoRA that is not supported, or does not fit.
    """
    document = read_json(directory, _CONFIG)
    rank, alpha, targets = _read_adapter_config(document)
    _check_rank(config, rank, targets)
    path = inside(directory, _WEIGHTS)
    found = check_safetensors(path)
    places = dict(_places(config, rank, targets))
    check_shapes(path.name, found, {name: shape for name, (*_, shape) in places.items()})
    lora = _empty(config, rank, targets)
    for name, tensor in read_float32(path, list(found)):
        module, target, leaf, layer, _ = places[name]
        lora["layers"][module][target][leaf][layer] = tensor.T
    loaded: Params = jax.tree.map(jnp.asarray, lora)
    return loaded, alpha / rank


def write_peft(directory: Path, config: ModelConfig, lora: Params, spec: LoraSpec, base_name: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors as PEFT reads them; `base_name` names the base model."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": spec.rank,
        "target_modules": sorted(spec.targets),
        "task_type": "CAUSAL_LM",
    }
    (directory / _CONFIG).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    host = jax.device_get(lora)["layers"]
    tensors = {
        name: np.ascontiguousarray(host[module][target][leaf][layer].T)
        for name, (module, target, leaf, layer, _) in _places(config, spec.rank, spec.targets)
    }
    save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt"})


_TARGETS: tuple[str, ...] = LoraSpec().targets
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
_EXPECTED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "init_lora_weights": (True, False, "gaussian", None),
}
_READ = {"r", "lora_alpha", "target_modules"}


def _read_adapter_config(document: Mapping[str, Any]) -> tuple[int, float, tuple[str, ...]]:
    """Return rank, alpha and targets; whatever else is switched on would change the arithmetic, so it is refused."""
    for name, expected in _EXPECTED.items():
        if document.get(name) not in expected:
            raise _unsupported(name, document.get(name))
    for name in set(document) - _HARMLESS - _READ - set(_EXPECTED):
        if document[name]:
            raise _unsupported(name, document[name])
    rank, alpha, targets = document.get("r"), document.get("lora_alpha"), document.get("target_modules")
    if type(rank) is not int or rank < 1:
        raise UnusableModel(f"{_CONFIG}: r is {rank!r}, not a positive whole number: correct the file")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < float("inf"):
        raise UnusableModel(f"{_CONFIG}: lora_alpha is {alpha!r}, not a positive number: correct the file")
    if not isinstance(targets, list) or not targets:
        raise UnusableModel(f"{_CONFIG}: target_modules is {targets!r}: list the projections by name")
    if unknown := [target for target in targets if target not in _TARGETS]:
        raise UnusableModel(f"{_CONFIG}: unknown target {unknown[0]!r}: this runtime adapts {', '.join(_TARGETS)}")
    return rank, float(alpha), tuple(targets)


def _unsupported(name: str, value: object) -> UnusableModel:
    return UnusableModel(
        f"{_CONFIG}: {name} {value!r} is not supported: merge the adapter with PEFT and load the model"
    )


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


def _check_rank(config: ModelConfig, rank: int, targets: tuple[str, ...]) -> None:
    for target in targets:
        _, inputs, outputs = _kernel(config, target)
        if rank > min(inputs, outputs):
            raise UnusableModel(
                f"LoRA rank {rank} exceeds {target}, which is {inputs} x {outputs}: use at most {min(inputs, outputs)}"
            )


_Place = tuple[str, str, str, int, tuple[int, int]]


def _places(config: ModelConfig, rank: int, targets: tuple[str, ...]) -> Iterator[tuple[str, _Place]]:
    """Yield each PEFT tensor's name with its module, target, leaf, layer and stored shape."""
    for target in targets:
        module, inputs, outputs = _kernel(config, target)
        for layer in range(config.num_layers):
            prefix = f"base_model.model.model.layers.{layer}.{module}.{target}"
            yield f"{prefix}.lora_A.weight", (module, target, "a", layer, (rank, inputs))
            yield f"{prefix}.lora_B.weight", (module, target, "b", layer, (outputs, rank))


def _empty(config: ModelConfig, rank: int, targets: tuple[str, ...]) -> Params:
    layers: Params = {}
    for target in targets:
        module, inputs, outputs = _kernel(config, target)
        a = np.empty((config.num_layers, inputs, rank), np.float32)
        b = np.empty((config.num_layers, rank, outputs), np.float32)
        layers.setdefault(module, {})[target] = {"a": a, "b": b}
    return {"layers": layers}
