from functools import partial
from pathlib import Path

import jax
import numpy as np

from tunix_rt_modeling.check import check
from tunix_rt_modeling.huggingface import load_params, read_config
from tunix_rt_modeling.lora import merge, read_peft, scale
from tunix_rt_modeling.transformer import logits


def test_adapter_beside_its_base_gives_the_logits_of_peft(parity_data: Path) -> None:
    findings = check(parity_data / "llama-lora")
    assert findings[0].error is not None
    assert findings[0].passed, findings
    assert [finding.error for finding in findings[1:]] == [None] * 3


def test_merged_adapter_gives_the_logits_of_peft(parity_data: Path) -> None:
    config = read_config(parity_data / "llama")
    base = load_params(parity_data / "llama", config)
    lora, spec = read_peft(parity_data / "llama-lora", config)
    with np.load(parity_data / "llama-lora" / "reference.npz") as reference:
        token_ids, expected = reference["input_ids"], reference["logits"]
    ours = jax.jit(partial(logits, config))(merge(config, base, lora, scale(spec)), token_ids)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    plain = jax.jit(partial(logits, config))(base, token_ids)
    assert np.abs(np.asarray(plain) - expected).max() > 0.1
