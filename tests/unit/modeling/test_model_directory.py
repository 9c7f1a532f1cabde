import json
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tunix_rt_common.errors import UnusableModel
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.nf4 import quantize_kernels
from tunix_rt_modeling.tokenizer import byte_tokenizer
from tunix_rt_modeling.transformer import init_params

CONFIG = ModelConfig(
    vocab_size=263,
    hidden_size=8,
    intermediate_size=12,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    max_positions=32,
    tie_embeddings=True,
)
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def params() -> dict[str, object]:
    return init_params(CONFIG, jax.random.key(0))


@pytest.fixture
def directory(tmp_path: Path, params: dict[str, object]) -> Path:
    huggingface.save(tmp_path / "model", CONFIG, params, byte_tokenizer())
    return tmp_path / "model"


def rewrite(directory: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def shard(directory: Path) -> dict[str, str]:
    """Split the weights over two files and return the weight map."""
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    (directory / "model.safetensors").unlink()
    weight_map = {name: file for file, part in parts.items() for name in part}
    write_index(directory, weight_map)
    return weight_map


def write_index(directory: Path, weight_map: object) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_load_as_the_single_file_does(directory: Path, params: dict[str, object]) -> None:
    shard(directory)
    jax.tree.map(np.testing.assert_array_equal, huggingface.load(directory).params, params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_load_as_float32(
    directory: Path, params: dict[str, object], dtype: type[np.generic]
) -> None:
    rewrite(directory, lambda tensors: tensors.update({name: t.astype(dtype) for name, t in tensors.items()}))
    loaded = huggingface.load(directory).params
    jax.tree.map(
        lambda ours, original: np.testing.assert_array_equal(ours, np.asarray(original).astype(dtype).astype("f4")),
        loaded,
        params,
    )


def test_leftovers_that_change_nothing_are_accepted(directory: Path, params: dict[str, object]) -> None:
    def add(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)

    rewrite(directory, add)
    jax.tree.map(np.testing.assert_array_equal, huggingface.load(directory).params, params)


def test_leaves_are_put_where_they_go_one_by_one(directory: Path, params: dict[str, object]) -> None:
    config = huggingface.read_config(directory)
    seen = []

    def put(part: dict[str, object]) -> dict[str, object]:
        seen.extend(jax.tree.leaves_with_path(part))
        return quantize_kernels(part)

    loaded = huggingface.load_params(directory, config, put)
    assert all(isinstance(leaf, np.ndarray) for _, leaf in seen)
    assert [path for path, _ in sorted(seen, key=str)] == [
        path for path, _ in sorted(jax.tree.leaves_with_path(params), key=str)
    ]
    jax.tree.map(np.testing.assert_array_equal, loaded, quantize_kernels(params))


NORM, DOWN = "model.norm.weight", "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t.pop(DOWN), f"lacks {DOWN}"),
        (lambda t: t.update(surplus=t[NORM]), "unexpected surplus"),
        (lambda t: t.update({DOWN: t[DOWN].T.copy()}), rf"{DOWN} has shape \(12, 8\), the config makes it \(8, 12\)"),
        (lambda t: t.update({DOWN: t[DOWN].astype("f8")}), f"{DOWN} has dtype F64"),
        (lambda t: t.update({DOWN: t[DOWN].astype("i4")}), f"{DOWN} has dtype I32"),
        (lambda t: t[DOWN].__setitem__((0, 0), np.nan), f"{DOWN} holds NaN or infinity"),
        (lambda t: t[NORM].__setitem__(0, np.inf), f"{NORM} holds NaN or infinity"),
        (lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}), "lm_head.weight differs"),
    ],
)
def test_weights_that_do_not_fit_are_named(directory: Path, change: Callable[[Tensors], object], fault: str) -> None:
    rewrite(directory, change)
    with pytest.raises(UnusableModel, match=fault):
        huggingface.load(directory)


def test_truncated_weights_are_refused(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UnusableModel, match=r"model\.safetensors describes \d+ bytes of tensors but holds"):
        huggingface.load(directory)


def test_index_that_leads_outside_is_refused(directory: Path) -> None:
    weight_map = shard(directory)
    (directory / "model-1.safetensors").rename(directory.parent / "model-1.safetensors")
    outside = {name: f"../{file}" if file == "model-1.safetensors" else file for name, file in weight_map.items()}
    write_index(directory, outside)
    with pytest.raises(UnusableModel, match=r"\.\./model-1\.safetensors leads out of the model directory"):
        huggingface.load(directory)


def test_symbolic_link_that_leads_outside_is_refused(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.rename(directory.parent / "elsewhere.safetensors")
    weights.symlink_to(directory.parent / "elsewhere.safetensors")
    with pytest.raises(UnusableModel, match=r"model\.safetensors leads out of the model directory"):
        huggingface.load(directory)


def test_missing_shard_is_named(directory: Path) -> None:
    shard(directory)
    (directory / "model-2.safetensors").unlink()
    with pytest.raises(UnusableModel, match=r"has no file model-2\.safetensors"):
        huggingface.load(directory)


def test_index_that_misplaces_a_tensor_is_refused(directory: Path) -> None:
    weight_map = shard(directory)
    write_index(directory, weight_map | {NORM: "model-1.safetensors", DOWN: "model-1.safetensors"})
    with pytest.raises(UnusableModel, match=r"index\.json places .* in model-1\.safetensors, which lacks it"):
        huggingface.load(directory)


def test_tensor_in_two_shards_is_refused(directory: Path) -> None:
    shard(directory)
    first = load_file(directory / "model-1.safetensors")
    second = load_file(directory / "model-2.safetensors")
    save_file(second | dict([next(iter(first.items()))]), directory / "model-2.safetensors")
    with pytest.raises(UnusableModel, match=r"model-2\.safetensors repeats"):
        huggingface.load(directory)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}])
def test_index_without_a_weight_map_is_refused(directory: Path, weight_map: object) -> None:
    shard(directory)
    write_index(directory, weight_map)
    with pytest.raises(UnusableModel, match="has no weight_map"):
        huggingface.load(directory)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_config_that_is_no_json_object_is_refused(directory: Path, content: bytes) -> None:
    (directory / "config.json").write_bytes(content)
    with pytest.raises(UnusableModel, match=r"config\.json"):
        huggingface.load(directory)


def test_tokenizer_with_more_ids_than_the_embedding_is_refused(directory: Path) -> None:
    document = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(document | {"vocab_size": 262}))
    with pytest.raises(UnusableModel, match="tokenizer has ids up to 262, the embedding only 262 rows"):
        huggingface.load(directory)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file_is_named_in_the_refusal(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(UnusableModel, match=f"has no file {name}"):
        huggingface.load(directory)


def rewrite_json(directory: Path, name: str, **fields: object) -> None:
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("ends", [[2, 7], 7])
def test_end_tokens_are_those_that_generation_config_names(directory: Path, ends: object) -> None:
    rewrite_json(directory, "config.json", eos_token_id=2)
    rewrite_json(directory, "generation_config.json", eos_token_id=ends)
    config = huggingface.load(directory).config
    assert config.eos_token_ids == ((2, 7) if isinstance(ends, list) else (7,))


def test_end_tokens_are_those_of_config_json_where_generation_config_is_silent(directory: Path) -> None:
    rewrite_json(directory, "config.json", eos_token_id=2)
    rewrite_json(directory, "generation_config.json", eos_token_id=None)
    assert huggingface.read_config(directory).eos_token_ids == (2,)
    (directory / "generation_config.json").unlink()
    assert huggingface.read_config(directory).eos_token_ids == (2,)


@pytest.mark.parametrize("ends", [263, [1, 9999], "two", {"a": 1}, [True]])
def test_end_token_that_generation_config_gets_wrong_is_named(directory: Path, ends: object) -> None:
    rewrite_json(directory, "generation_config.json", eos_token_id=ends)
    with pytest.raises(UnusableModel, match=r"generation_config\.json: eos_token_id"):
        huggingface.read_config(directory)


def test_tokenizer_of_sentencepiece_alone_is_refused_with_the_way_out(directory: Path) -> None:
    (directory / "tokenizer.json").rename(directory / "tokenizer.model")
    with pytest.raises(UnusableModel, match=r"tokenizer\.model.*AutoTokenizer.*save_pretrained"):
        huggingface.load(directory)
