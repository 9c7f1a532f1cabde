import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tunix_rt_modeling import huggingface
from tunix_rt_modeling.config import Llama3Rope, ModelConfig, Rope
from tunix_rt_modeling.tokenizer import byte_tokenizer
from tunix_rt_modeling.transformer import Params, init_params, logits

TIED = ModelConfig(
    vocab_size=263,
    hidden_size=32,
    intermediate_size=40,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    max_positions=128,
    tie_embeddings=True,
    bos_token_id=257,
    eos_token_ids=(258,),
    pad_token_id=256,
)
ROPE = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=32)
BIASES = ("qkv_bias", "output_bias", "mlp_bias")
VARIANTS = {
    "tied": TIED,
    "biased": TIED.model_copy(update={"tie_embeddings": False} | dict.fromkeys(BIASES, True)),
    "llama3_rope": TIED.model_copy(update={"rope": Rope(theta=5e5, scaling=ROPE), "eos_token_ids": (258, 260)}),
}


@pytest.fixture(params=VARIANTS, scope="module")
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelConfig, Params, Path]:
    config = VARIANTS[request.param]
    params = init_params(config, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, moved)
    directory = tmp_path_factory.mktemp(request.param) / "model"
    huggingface.save(directory, config, params, byte_tokenizer())
    return config, params, directory


def test_saved_model_loads_bit_for_bit(saved: tuple[ModelConfig, Params, Path]) -> None:
    config, params, directory = saved
    loaded = huggingface.load(directory)
    assert loaded.config == config
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert loaded.tokenizer.files() == byte_tokenizer().files()


def test_same_model_is_saved_as_the_same_bytes(saved: tuple[ModelConfig, Params, Path], tmp_path: Path) -> None:
    config, params, directory = saved
    huggingface.save(tmp_path / "again", config, params, byte_tokenizer())
    for file in directory.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_saved_model_means_the_same_to_an_independent_reader(saved: tuple[ModelConfig, Params, Path]) -> None:
    config, params, directory = saved
    token_ids = np.random.default_rng(0).integers(0, 263, 90)
    theirs = _numpy_llama(directory, token_ids)
    ours = jax.jit(partial(logits, config))(params, token_ids[None])[0]
    np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=1e-4)


def _numpy_llama(directory: Path, token_ids: np.ndarray) -> np.ndarray:
    """One row through LlamaForCausalLM in float64, written from the checkpoint's names alone."""
    config = json.loads((directory / "config.json").read_text())
    weights = {name: value.astype(np.float64) for name, value in load_file(directory / "model.safetensors").items()}
    heads, kv_heads, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    angles = np.outer(np.arange(len(token_ids)), _frequencies(config["rope_parameters"], size))

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        return weights[f"{name}.weight"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"])

    def turn(x: np.ndarray) -> np.ndarray:
        turned = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag], axis=-1)

    def split(x: np.ndarray, count: int) -> np.ndarray:
        return np.repeat(x.reshape(len(x), count, size).transpose(1, 0, 2), heads // count, axis=0)

    x = weights["model.embed_tokens.weight"][token_ids]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        normed = norm(f"{prefix}.input_layernorm", x)
        q = turn(split(linear(f"{prefix}.self_attn.q_proj", normed), heads))
        k = turn(split(linear(f"{prefix}.self_attn.k_proj", normed), kv_heads))
        v = split(linear(f"{prefix}.self_attn.v_proj", normed), kv_heads)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(size)
        scores[:, np.triu_indices(len(x), 1)[0], np.triu_indices(len(x), 1)[1]] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + linear(f"{prefix}.self_attn.o_proj", mixed.transpose(1, 0, 2).reshape(len(x), -1))
        normed = norm(f"{prefix}.post_attention_layernorm", x)
        gate = linear(f"{prefix}.mlp.gate_proj", normed)
        x = x + linear(f"{prefix}.mlp.down_proj", gate / (1 + np.exp(-gate)) * linear(f"{prefix}.mlp.up_proj", normed))
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm("model.norm", x) @ head.T


def _frequencies(rope: dict[str, float], size: int) -> np.ndarray:
    """Rotary frequencies, Llama 3.1's three bands decided one frequency at a time."""
    frequencies = []
    for pair in range(size // 2):
        frequency = rope["rope_theta"] ** (-2 * pair / size)
        if rope["rope_type"] == "llama3":
            old, low, high = (
                rope[name] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
            )
            wavelength = 2 * np.pi / frequency
            if wavelength > old / low:
                frequency /= rope["factor"]
            elif wavelength > old / high:
                smooth = (old / wavelength - low) / (high - low)
                frequency *= (1 - smooth) / rope["factor"] + smooth
        frequencies.append(frequency)
    return np.array(frequencies)
