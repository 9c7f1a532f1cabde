from pathlib import Path

import jax
import numpy as np
import pytest

from tunix_rt_modeling import huggingface
from tunix_rt_modeling.check import check
from tunix_rt_modeling.config_json import read_config_json
from tunix_rt_modeling.directory import read_json

FAMILIES = ("mistral", "qwen2", "qwen3", "gemma2", "gemma3", "llama-odd", "gemma3-odd")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_cache_and_training_are_those_of_transformers(parity_data: Path, family: str) -> None:
    findings = check(parity_data / family)
    assert [finding.error is not None for finding in findings] == [True] * 4
    assert all(finding.passed for finding in findings), findings


@pytest.mark.parametrize("family", FAMILIES)
def test_model_is_written_as_it_was_read(parity_data: Path, family: str, tmp_path: Path) -> None:
    config = huggingface.read_config(parity_data / family)
    params = huggingface.load_params(parity_data / family, config)
    huggingface.save_model(tmp_path, config, params)
    again = huggingface.read_config(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, huggingface.load_params(tmp_path, again), params)
    written = read_json(tmp_path, "config.json")
    kept = {name: value for name, value in read_json(parity_data / family, "config.json").items() if name in written}
    assert read_config_json(written | kept) == config
