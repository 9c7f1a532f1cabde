from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from tunix_rt_modeling.check import check
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.huggingface import load_params, read_config
from tunix_rt_modeling.transformer import Params, logits


@pytest.fixture(scope="module")
def llama(parity_data: Path) -> tuple[ModelConfig, Params, dict[str, np.ndarray]]:
    config = read_config(parity_data / "llama")
    with np.load(parity_data / "llama" / "reference.npz") as archive:
        return config, load_params(parity_data / "llama", config), dict(archive)


def test_logits_cache_and_training_are_those_of_transformers(parity_data: Path) -> None:
    findings = check(parity_data / "llama")
    assert [finding.error is not None for finding in findings] == [True] * 4
    assert all(finding.passed for finding in findings), findings


def test_padding_at_the_left_gives_the_logits_of_padding_at_the_right(
    llama: tuple[ModelConfig, Params, dict[str, np.ndarray]],
) -> None:
    config, params, reference = llama
    mask = reference["attention_mask"].astype(bool)
    rolled = [np.roll(ids, -valid.sum()) for ids, valid in zip(reference["input_ids"], mask, strict=True)]
    left = jax.jit(partial(logits, config))(params, np.stack(rolled), attention_mask=mask[:, ::-1])
    for row, valid in enumerate(mask):
        ours = np.asarray(left)[row, mask[row, ::-1]]
        np.testing.assert_allclose(ours, reference["logits"][row, valid], atol=1e-4)


def test_outputs_on_padding_are_finite(llama: tuple[ModelConfig, Params, dict[str, np.ndarray]]) -> None:
    config, params, reference = llama
    nothing = np.zeros_like(reference["input_ids"], dtype=bool)
    scores = jax.jit(partial(logits, config))(params, reference["input_ids"], attention_mask=nothing)
    assert np.isfinite(scores).all()


def test_bfloat16_computation_stays_near_float32(llama: tuple[ModelConfig, Params, dict[str, np.ndarray]]) -> None:
    config, params, reference = llama
    mask = reference["attention_mask"].astype(bool)
    half = config.model_copy(update={"compute_dtype": "bfloat16"})
    scores = np.asarray(jax.jit(partial(logits, half))(params, reference["input_ids"], attention_mask=mask))
    assert scores.dtype == np.float32
    error = np.abs(scores - reference["logits"])[mask]
    assert 1e-4 < error.max() < 0.5
