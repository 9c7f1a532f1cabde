import pytest

from tunix_rt_common.errors import UnusableModel
from tunix_rt_modeling.config import PRESETS, LinearRope, Llama3Rope, Rope
from tunix_rt_modeling.config_json import read_config_json, write_config_json

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
    assert read_config_json(write_config_json(PRESETS[preset])) == PRESETS[preset]


def test_silence_means_what_llama_derives() -> None:
    config = read_config_json(HF)
    assert (config.num_kv_heads, config.head_dim, config.rope) == (4, 16, Rope(theta=10_000.0))
    assert not config.tie_embeddings


def test_old_and_new_rope_fields_read_alike() -> None:
    old = read_config_json(HF | {"rope_theta": 5e5, "rope_scaling": LLAMA3})
    new = read_config_json(HF | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}})
    expected = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=128)
    assert old == new
    assert old.rope == Rope(theta=5e5, scaling=expected)


def test_fields_without_effect_are_ignored() -> None:
    harmless = {"use_cache": True, "transformers_version": "5.23.0", "initializer_range": 0.02, "dtype": "bfloat16"}
    assert read_config_json(HF | harmless) == read_config_json(HF)


def test_one_or_several_end_tokens_are_read() -> None:
    assert read_config_json(HF | {"eos_token_id": 2}).eos_token_ids == (2,)
    several = read_config_json(HF | {"eos_token_id": [2, 7]})
    assert several.eos_token_ids == (2, 7)
    assert read_config_json(write_config_json(several)) == several


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral'"),
        ({"model_type": ["llama"]}, "model_type ['llama']"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "architectures ['Qwen3ForCausalLM']"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0"),
        ({"logits_scaling": 8.0}, "logits_scaling 8.0"),
        ({"sliding_window": 16}, "sliding_window 16"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types ['sliding_attention',"),
        ({"layer_types": ["chunked_attention"] * 3}, "layer_types ['chunked_attention',"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"pretraining_tp": 2}, "pretraining_tp 2"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "linear", "factor": 0.0}}, "rope_parameters.factor is 0.0"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
        ({"rope_scaling": [1]}, "rope_parameters must be an object"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type 'yarn'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 5e5}, "rope_theta 500000.0 contradicts"),
        ({"rope_parameters": [1]}, "rope_parameters must be an object"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"type": "linear", "factor": 4.0}},
            "factor 2.0 in rope_scaling contradicts rope_parameters",
        ),
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
        read_config_json(HF | change)
    assert named in str(refusal.value)


def test_positions_divided_by_a_factor_are_read() -> None:
    config = read_config_json(HF | {"rope_scaling": {"type": "linear", "factor": 2.0}})
    assert config.rope.scaling == LinearRope(factor=2.0)
    assert read_config_json(write_config_json(config)) == config


SIZES = HF | {"num_hidden_layers": 8, "num_key_value_heads": 2, "head_dim": 16, "architectures": None}
MISTRAL = SIZES | {"model_type": "mistral", "sliding_window": 32}
QWEN2 = SIZES | {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 64, "max_window_layers": 4}
QWEN3 = QWEN2 | {"model_type": "qwen3", "tie_word_embeddings": True, "attention_bias": False}
GEMMA2 = SIZES | {"model_type": "gemma2", "query_pre_attn_scalar": 24, "sliding_window": 32}
GEMMA3 = SIZES | {"model_type": "gemma3_text", "sliding_window": 32, "sliding_window_pattern": 3}
SEVERAL = ["sliding_attention", "full_attention"] * 4
MEMBERS = [MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3]


@pytest.mark.parametrize("document", MEMBERS, ids=lambda document: str(document["model_type"]))
def test_member_of_each_family_survives_being_written(document: dict[str, object]) -> None:
    config = read_config_json(document)
    assert config.family == document["model_type"]
    assert read_config_json(write_config_json(config)) == config


@pytest.mark.parametrize(
    ("document", "slides"),
    [
        (MISTRAL, [True] * 8),
        (MISTRAL | {"sliding_window": None}, []),
        (QWEN2, []),
        (QWEN2 | {"use_sliding_window": True}, [False] * 4 + [True] * 4),
        (QWEN2 | {"use_sliding_window": True, "sliding_window": None}, []),
        (QWEN3 | {"use_sliding_window": True, "layer_types": SEVERAL}, [True, False] * 4),
        (GEMMA2, [True, False] * 4),
        (GEMMA3, [True, True, False] * 2 + [True, True]),
        (GEMMA3 | {"layer_types": SEVERAL}, [True, False] * 4),
    ],
)
def test_layers_slide_as_the_family_says_or_as_they_are_listed(document: dict[str, object], slides: list[bool]) -> None:
    config = read_config_json(document)
    assert config.sliding_layers == tuple(slides)
    assert config.sliding_window == (document["sliding_window"] if slides else None)


def test_biases_norms_and_caps_are_those_of_the_family() -> None:
    qwen2, qwen3, gemma2, gemma3 = (read_config_json(document) for document in (QWEN2, QWEN3, GEMMA2, GEMMA3))
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.normed_queries) == (True, False, False)
    assert (qwen3.qkv_bias, qwen3.normed_queries, qwen3.tie_embeddings) == (False, True, True)
    assert (gemma2.attention_softcap, gemma2.logit_softcap, gemma2.query_scale) == (50.0, 30.0, 24**-0.5)
    assert (gemma3.attention_softcap, gemma3.logit_softcap, gemma3.normed_queries) == (None, None, True)
    assert gemma2.tie_embeddings, "as transformers has it when config.json is silent"
    assert gemma2.offset_norms
    assert gemma2.normed_branches
    assert gemma2.scaled_embeddings


def test_gemma3_has_no_cap_on_attention_though_its_config_may_name_one() -> None:
    config = read_config_json(GEMMA3 | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0})
    assert (config.attention_softcap, config.logit_softcap) == (None, 30.0)


@pytest.mark.parametrize("document", [GEMMA2, GEMMA3], ids=["gemma2", "gemma3"])
def test_gemma_whose_layers_are_all_full_is_written_with_a_window_for_transformers(document: dict[str, object]) -> None:
    config = read_config_json(document | {"layer_types": ["full_attention"] * 8})
    written = write_config_json(config)
    assert type(written["sliding_window"]) is int
    assert read_config_json(written) == config


def test_no_end_token_is_written_as_null() -> None:
    assert write_config_json(read_config_json(HF))["eos_token_id"] is None


def test_null_takes_a_cap_away() -> None:
    config = read_config_json(GEMMA2 | {"attn_logit_softcapping": None, "final_logit_softcapping": None})
    assert (config.attention_softcap, config.logit_softcap) == (None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            }
        },
    ],
)
def test_gemma3s_two_kinds_of_positions_are_read_old_and_new(fields: dict[str, object]) -> None:
    config = read_config_json(GEMMA3 | fields)
    assert config.rope == Rope(theta=5e5, scaling=LinearRope(factor=8.0))
    assert config.sliding_rope == Rope(theta=2e4)
    assert read_config_json(write_config_json(config)) == config


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (GEMMA3 | {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
        (GEMMA2 | {"hidden_activation": "gelu"}, "hidden_activation 'gelu'"),
        (GEMMA2 | {"hidden_activation": ["gelu"]}, "hidden_activation ['gelu']"),
        (GEMMA2 | {"layer_types": [["full_attention"]] * 8}, "layer_types [["),
        (GEMMA2 | {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        (GEMMA2 | {"sliding_window": None}, "sliding_window is missing"),
        (GEMMA3 | {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        (GEMMA3 | {"layer_types": SEVERAL[1:]}, "layer_types has 7 entries for 8 layers"),
        (GEMMA3 | {"head_dim": None}, "head_dim is missing"),
        (GEMMA3 | {"rope_parameters": {"rope_type": "linear", "factor": 8.0}}, "rope_parameters"),
        ({"model_type": "gemma3", "text_config": GEMMA3, "vision_config": {}}, "Gemma3ForCausalLM"),
        (QWEN2 | {"layer_types": SEVERAL}, "layer_types has sliding layers, and use_sliding_window is off"),
        (QWEN2 | {"attention_bias": True}, "attention_bias True"),
        (QWEN3 | {"num_experts": 8}, "num_experts 8"),
        (QWEN2 | {"max_window_layers": "four", "use_sliding_window": True}, "max_window_layers is 'four'"),
        (MISTRAL | {"layer_types": ["full_attention"] * 8}, "mistral has all layers alike"),
        (MISTRAL | {"sliding_window": -1}, "sliding_window is -1"),
    ],
)
def test_what_a_family_cannot_compute_is_refused_by_name(document: dict[str, object], named: str) -> None:
    with pytest.raises(UnusableModel) as refusal:
        read_config_json(document)
    assert named in str(refusal.value)
