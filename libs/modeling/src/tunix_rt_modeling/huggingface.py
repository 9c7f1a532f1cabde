"""Model directories in the Hugging Face layout, in and out. Weights are safetensors; pickles are never opened."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.tree_util import DictKey
from pydantic import ValidationError
from safetensors.numpy import save_file

from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.safetensors_header import Tensors, check_safetensors, check_shapes
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.config_json import read_config_json, write_config_json
from tunix_rt_modeling.directory import inside, read_float32, read_json
from tunix_rt_modeling.tokenizer import Tokenizer, load_tokenizer
from tunix_rt_modeling.transformer import Params, init_params

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_GENERATION = "generation_config.json"
_HEAD = "lm_head.weight"
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


Put = Callable[[Params], Params]
"""What becomes of weights in host memory: a tree of the same leaves, or of what stands for them, on the devices."""


@dataclass(frozen=True)
class LoadedModel:
    """A model directory in memory; params are float32."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer


def load(directory: Path) -> LoadedModel:
    """Read config, tokenizer and weights.

    Raises:
        UnusableModel: a file is missing, malformed, unsupported, or does not fit the others.
    """
    config, tokenizer = load_description(directory)
    return LoadedModel(config, load_params(directory, config), tokenizer)


def load_description(directory: Path) -> tuple[ModelConfig, Tokenizer]:
    """Read all but the weights.

    Raises:
        UnusableModel: a file is missing, malformed, unsupported, or does not fit the others.
    """
    config = read_config(directory)
    tokenizer = load_tokenizer(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise UnusableModel(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, the embedding only {config.vocab_size} rows: "
            "take the tokenizer that the model was trained with"
        )
    return config, tokenizer


def read_config(directory: Path) -> ModelConfig:
    """Read config.json, and the end tokens from generation_config.json where that names some, as transformers does.

    Raises:
        UnusableModel: a file is missing or malformed, or a field is wrong or unsupported; it is named.
    """
    config = read_config_json(read_json(directory, "config.json"))
    ends = read_json(directory, _GENERATION).get("eos_token_id") if (directory / _GENERATION).exists() else None
    return config if ends is None else _with_end_tokens(config, ends)


def _with_end_tokens(config: ModelConfig, ends: object) -> ModelConfig:
    ids = tuple(ends) if isinstance(ends, list) else (ends,)
    try:
        return ModelConfig.model_validate(config.model_dump() | {"eos_token_ids": ids})
    except ValidationError as error:
        raise UnusableModel(
            f"{_GENERATION}: eos_token_id {ends!r} is not an id below vocab_size {config.vocab_size}, or a list of "
            "such: correct the file, or remove the field"
        ) from error


def on_device(part: Params) -> Params:
    """The weights on JAX's first device."""
    put: Params = jax.tree.map(jnp.asarray, part)
    return put


def load_params(directory: Path, config: ModelConfig, put: Put = on_device) -> Params:
    """Read the weights, from one file or from shards, as float32, a leaf at a time.

    Each leaf goes through `put` as soon as it is read, alone in a tree of its own; what that returns takes its place.

    Raises:
        UnusableModel: a tensor is missing, unexpected, misshapen or not finite, or a file is not what it claims.
    """
    shards = _shards(directory)
    found: Tensors = {}
    for path, tensors in shards.items():
        if doubled := sorted(set(found) & set(tensors)):
            raise UnusableModel(f"{path.name} repeats {doubled[0]} of another shard: save the model again")
        found |= tensors
    slots = _slots(config)
    ignored = {name for name in found if name not in slots and _is_derived(name, config)}
    kept = {name: entry for name, entry in found.items() if name not in ignored}
    check_shapes(directory.name or str(directory), kept, {name: slot.shape for name, slot in slots.items()})
    loaded: dict[tuple[str, ...], Any] = {}
    for leaf_path, leaf in _read_leaves(shards, slots, config):
        if leaf_path[0] == "embed_tokens" and config.tie_embeddings:
            _check_tied([path for path, tensors in shards.items() if _HEAD in tensors], leaf)
        loaded |= flatten_dict(put(unflatten_dict({leaf_path: leaf})))
    params: Params = unflatten_dict(loaded)
    return params


def save(directory: Path, config: ModelConfig, params: Params, tokenizer: Tokenizer) -> None:
    """Write a directory that `load` and transformers read: float32, one file, the same bytes for the same model."""
    save_model(directory, config, params)
    for name, content in tokenizer.files().items():
        (directory / name).write_bytes(content)


def save_model(directory: Path, config: ModelConfig, params: Params) -> None:
    """Write configuration and weights alone."""
    directory.mkdir(parents=True, exist_ok=True)
    document = write_config_json(config)
    _write_json(directory / "config.json", document)
    special = {name: document[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(directory / _GENERATION, special)
    leaves = flatten_dict(jax.device_get(params))
    tensors = {name: np.ascontiguousarray(slot.of(leaves[slot.path])) for name, slot in _slots(config).items()}
    save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt"})


@dataclass(frozen=True)
class _Slot:
    """Where a checkpoint's tensor lives in our params: a leaf, a layer of it if stacked, turned if a kernel."""

    path: tuple[str, ...]
    layer: int | None
    shape: tuple[int, ...]

    def of(self, leaf: np.ndarray) -> np.ndarray:
        """The tensor in its leaf, as the checkpoint has it: a view."""
        view: np.ndarray = leaf if self.layer is None else leaf[self.layer]
        return view.T if self.path[-1] == "kernel" else view


def _slots(config: ModelConfig) -> dict[str, _Slot]:
    """Return every tensor of the checkpoint by its Hugging Face name, in the checkpoint's shape."""
    return dict(_walk(config))


def _walk(config: ModelConfig) -> Iterator[tuple[str, _Slot]]:
    for keys, leaf in jax.tree.leaves_with_path(_abstract(config)):
        path = tuple(key.key for key in keys if isinstance(key, DictKey))
        stacked = path[0] == "layers"
        shape = leaf.shape[1:] if stacked else leaf.shape
        shape = shape[::-1] if path[-1] == "kernel" else shape
        for layer in range(config.num_layers) if stacked else (None,):
            names = ["layers", str(layer), *path[1:-1]] if stacked else list(path[:-1])
            prefix = "" if path[0] == "lm_head" else "model."
            yield f"{prefix}{'.'.join(names)}.{_LEAVES[path[-1]]}", _Slot(path, layer, shape)


@cache
def _abstract(config: ModelConfig) -> Any:
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def _is_derived(name: str, config: ModelConfig) -> bool:
    """Say whether a tensor only repeats what we compute: old rotary buffers, the head of tied embeddings."""
    return name.endswith("rotary_emb.inv_freq") or (config.tie_embeddings and name == _HEAD)


def _read_leaves(
    shards: Mapping[Path, Tensors], slots: Mapping[str, _Slot], config: ModelConfig
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yield each leaf with its path, put together from the tensors of its layers."""
    shapes = flatten_dict(_abstract(config))
    for path, shape in shapes.items():
        leaf, wanted = np.empty(shape.shape, np.float32), {name for name, slot in slots.items() if slot.path == path}
        for file, tensors in shards.items():
            for name, tensor in read_float32(file, [name for name in tensors if name in wanted]):
                slots[name].of(leaf)[...] = tensor
        yield path, leaf


def _check_tied(files: Iterable[Path], embedding: np.ndarray) -> None:
    for path in files:
        [(name, head)] = read_float32(path, [_HEAD])
        if not np.array_equal(head, embedding):
            raise UnusableModel(
                f"{path.name}: {name} differs from the embedding, but config.json ties them: "
                "set tie_word_embeddings to false"
            )


def _shards(directory: Path) -> dict[Path, Tensors]:
    """Return the checked header of each weight file."""
    if (directory / _WEIGHTS).exists() or not (directory / _INDEX).exists():
        path = inside(directory, _WEIGHTS)
        return {path: check_safetensors(path)}
    weight_map = read_json(directory, _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UnusableModel(f"{_INDEX} has no weight_map from tensor to file: copy the file again")
    shards = {name: inside(directory, name) for name in sorted(set(weight_map.values()))}
    headers = {path: check_safetensors(path) for path in shards.values()}
    for tensor, shard in weight_map.items():
        if tensor not in headers[shards[shard]]:
            raise UnusableModel(f"{_INDEX} places {tensor} in {shard}, which lacks it: copy both files again")
    return headers


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
