import pytest

from tunix_rt_common.errors import UnusableModel
from tunix_rt_modeling.config import PRESETS, Llama3Rope, ModelConfig

HF = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_survives_its_hugging_face_form(preset: str) -> None:
    assert ModelConfig.from_hf(PRESETS[preset].to_hf()) == PRESETS[preset]


def test_silence_means_what_llama_derives() -> None:
    config = ModelConfig.from_hf(HF)
    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (4, 16, 10_000.0)
    assert not config.tie_embeddings


def test_old_and_new_rope_fields_read_alike() -> None:
    old = ModelConfig.from_hf(HF | {"rope_theta": 5e5, "rope_scaling": LLAMA3})
    new = ModelConfig.from_hf(HF | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}})
    expected = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=128)
    assert old == new
    assert (old.rope_theta, old.rope_scaling) == (5e5, expected)


def test_fields_without_effect_are_ignored() -> None:
    harmless = {"use_cache": True, "transformers_version": "5.23.0", "initializer_range": 0.02, "dtype": "bfloat16"}
    assert ModelConfig.from_hf(HF | harmless) == ModelConfig.from_hf(HF)


def test_one_or_several_end_tokens_are_read() -> None:
    assert ModelConfig.from_hf(HF | {"eos_token_id": 2}).eos_token_ids == (2,)
    several = ModelConfig.from_hf(HF | {"eos_token_id": [2, 7]})
    assert several.eos_token_ids == (2, 7)
    assert ModelConfig.from_hf(several.to_hf()) == several


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "qwen3"}, "model_type 'qwen3'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"pretraining_tp": 2}, "pretraining_tp 2"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type 'yarn'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 5e5}, "rope_theta 500000.0 contradicts"),
        ({"rope_parameters": [1]}, "rope_parameters must be an object"),
        ({"rope_parameters": LLAMA3 | {"factor": -1.0}}, "rope_parameters.factor is -1.0"),
        ({"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}}, "high_freq_factor must be above"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"intermediate_size": -1}, "intermediate_size is -1"),
        ({"hidden_size": 66}, "hidden_size 66 is not divisible by num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not divisible by num_key_value_heads 3"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"eos_token_id": [1, 512]}, "eos_token_id 512 is not below vocab_size 512"),
        ({"eos_token_id": {"a": 1}}, "eos_token_id.0 is"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(UnusableModel) as refusal:
        ModelConfig.from_hf(HF | change)
    assert named in str(refusal.value)
