import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.specs import LoraSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.lora import init_lora, merge, read_peft, scale, write_peft
from tunix_rt_modeling.transformer import Params, init_params, logits

CONFIG = ModelConfig(
    vocab_size=16,
    hidden_size=8,
    intermediate_size=12,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    max_positions=32,
)
SPEC = LoraSpec(rank=3, alpha=12, targets=("q_proj", "v_proj", "down_proj"))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    write_peft(tmp_path, CONFIG, moved(init_lora(CONFIG, SPEC, jax.random.key(0))), SPEC, "base")
    return tmp_path


def moved(lora: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), lora)


def change_config(adapter: Path, **fields: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_fresh_adapter_changes_nothing_and_has_pefts_spread() -> None:
    lora = init_lora(CONFIG, SPEC, jax.random.key(0))
    for module in lora["layers"].values():
        for pair in module.values():
            bound = pair["a"].shape[1] ** -0.5
            assert not pair["b"].any()
            assert bound * 0.7 < np.abs(pair["a"]).max() <= bound
    assert set(lora["layers"]["self_attn"]) | set(lora["layers"]["mlp"]) == set(SPEC.targets)


def test_adapter_and_merged_weights_score_alike() -> None:
    params, lora = init_params(CONFIG, jax.random.key(2)), moved(init_lora(CONFIG, SPEC, jax.random.key(0)))
    token_ids = np.arange(12).reshape(2, 6)
    score = jax.jit(partial(logits, CONFIG))
    beside = score(params, token_ids, lora=lora, lora_scale=scale(SPEC))
    merged = score(merge(CONFIG, params, lora, scale(SPEC)), token_ids)
    np.testing.assert_allclose(beside, merged, atol=1e-5)
    assert np.abs(np.asarray(merged) - np.asarray(score(params, token_ids))).max() > 1e-3


def test_adapter_survives_pefts_format(adapter: Path) -> None:
    lora, spec = read_peft(adapter, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, lora, moved(init_lora(CONFIG, SPEC, jax.random.key(0))))
    assert spec.model_dump(exclude={"targets"}) == SPEC.model_dump(exclude={"targets"})
    assert set(spec.targets) == set(SPEC.targets)
    assert scale(spec) == 4.0
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


def test_rank_stabilised_adapter_is_written_and_read_as_one(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"rslora": True})
    write_peft(tmp_path, CONFIG, init_lora(CONFIG, spec, jax.random.key(0)), spec, "base")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["use_rslora"] is True
    _, read = read_peft(tmp_path, CONFIG)
    assert scale(read) == pytest.approx(12 / 3**0.5)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_dora": True}, "use_dora True"),
        ({"use_rslora": "yes"}, "use_rslora 'yes'"),
        ({"bias": "all"}, "bias 'all'"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"a_later_variant": {"on": 1}}, "a_later_variant"),
        ({"r": 0}, "r is 0"),
        ({"lora_alpha": 1e6}, "alpha is beyond what this runtime takes"),
        ({"target_modules": ["q_proj", "q_proj"]}, "each once"),
        ({"r": 5}, "rank 5 exceeds v_proj, which is 8 x 4: use at most 4"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"target_modules": "all-linear"}, "target_modules is 'all-linear'"),
        ({"target_modules": ["q_proj", "lm_head"]}, "unknown target 'lm_head'"),
        ({"target_modules": ["q_proj", "v_proj"]}, "unexpected .*down_proj"),
        ({"target_modules": ["q_proj", "v_proj", "down_proj", "up_proj"]}, "lacks .*up_proj"),
        ({"r": 2}, r"has shape \(3, 12\), the config makes it \(2, 12\)"),
    ],
)
def test_adapter_that_means_something_else_is_refused(adapter: Path, fields: dict[str, object], fault: str) -> None:
    change_config(adapter, **fields)
    with pytest.raises(UnusableModel, match=fault):
        read_peft(adapter, CONFIG)


def test_adapter_with_nan_is_refused(adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = next(iter(tensors))
    tensors[name][0, 0] = np.nan
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(UnusableModel, match=f"{name} holds NaN"):
        read_peft(adapter, CONFIG)


def test_rank_above_the_weights_dimensions_is_refused() -> None:
    with pytest.raises(UnusableModel, match="rank 9 exceeds q_proj, which is 8 x 8"):
        init_lora(CONFIG, LoraSpec(rank=9, targets=("q_proj",)), jax.random.key(0))
