"""A model's config.json, in and out, as transformers 4 and 5 write it.

Reading refuses what it does not know: a field that nobody here has a meaning for may change the arithmetic, and a
model that computes something else than its makers meant is worse than none.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

from pydantic import ValidationError

from tunix_rt_common.errors import UnusableModel
from tunix_rt_modeling.config import ModelConfig, Rope
from tunix_rt_modeling.families import FAMILIES, Family

Document = Mapping[str, Any]

_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_positions": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "mlp_bias": "mlp_bias",
    "attention_softcap": "attn_logit_softcapping",
    "logit_softcap": "final_logit_softcapping",
    "bos_token_id": "bos_token_id",
    "pad_token_id": "pad_token_id",
}
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_LAYER_TYPES = {"full_attention": False, "sliding_attention": True}
_ROPE_FIELDS = {"original_max_positions": "original_max_position_embeddings"}
_READ = frozenset(
    {"model_type", "architectures", "eos_token_id", "hidden_act"}
    | {"rope_parameters", "rope_scaling", "rope_theta", "layer_types"}
    | set(_NAMES.values()) - {"mlp_bias", "attn_logit_softcapping", "final_logit_softcapping"}
)
_OF_FILES = """
    transformers_version torch_dtype dtype use_cache cache_implementation return_dict torchscript use_bfloat16
    output_attentions output_hidden_states model_name name_or_path tokenizer_class hybrid_cache is_decoder
    """
_OF_TRAINING = "initializer_range attention_dropout hidden_dropout resid_pdrop embd_pdrop problem_type"
_OF_OTHER_HEADS = """
    id2label label2id num_labels finetuning_task task_specific_params sep_token_id decoder_start_token_id
    """
_OF_DRAWING = """
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens
    begin_suppress_tokens exponential_decay_length_penalty chunk_size_feed_forward prefix
    """
_WITHOUT_EFFECT = frozenset(" ".join((_OF_FILES, _OF_TRAINING, _OF_OTHER_HEADS, _OF_DRAWING)).split())
_WITHOUT_EFFECT_BY_PREFIX = ("_", "unsloth_")
_NULL_MEANS_NONE = frozenset({"sliding_window", "attn_logit_softcapping", "final_logit_softcapping"})
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {"pretraining_tp": (1,), "partial_rotary_factor": (1,)}
"""Values of fields that have no effect then."""


def read_config_json(document: Document) -> ModelConfig:
    """The configuration that a config.json describes.

    Raises:
        UnusableModel: a field is missing, wrong, unknown, or asks for arithmetic that is not implemented; it is named.
    """
    family = _family(document)
    _refuse_unknown(document, family)
    said = {**family.defaults, **{name: value for name, value in document.items() if _says(name, value)}}
    fields = {ours: said[theirs] for ours, theirs in _NAMES.items() if said.get(theirs) is not None}
    fields |= {"family": said["model_type"]} | _implied(said) | _attention(said, family) | _ropes(document, family)
    eos = said.get("eos_token_id")
    if eos is not None:
        fields["eos_token_ids"] = tuple(eos) if isinstance(eos, list) else (eos,)
    try:
        return ModelConfig(**{**fields, **family.traits})
    except ValidationError as error:
        raise UnusableModel(_explain(error)) from error


def _says(name: str, value: object) -> bool:
    """Null means what the class assumes, but for caps and windows, which it takes away."""
    return value is not None or name in _NULL_MEANS_NONE


def _family(document: Document) -> Family:
    if document.get("auto_map") is not None:
        raise UnusableModel(
            "config.json: auto_map asks for code from the model's directory, which is never run: use a plain checkpoint"
        )
    model_type = document.get("model_type")
    if model_type == "gemma3":
        raise UnusableModel(
            "config.json: model_type 'gemma3' is a model of text and images: save its text part alone, with "
            "transformers' Gemma3ForCausalLM.from_pretrained(…).save_pretrained(…)"
        )
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None  # type: ignore[call-overload]
    if family is None:
        raise UnusableModel(
            f"config.json: model_type {model_type!r} is not supported: this runtime has {', '.join(FAMILIES)}"
        )
    architectures = document.get("architectures")
    if architectures not in (None, [family.architecture]):
        raise UnusableModel(
            f"config.json: architectures {architectures!r} is not supported: this runtime needs "
            f"[{family.architecture!r}]"
        )
    return family  # type: ignore[no-any-return]


def _refuse_unknown(document: Document, family: Family) -> None:
    """Fields that are off (null, false, empty) change nothing, whatever they would do."""
    for name, value in document.items():
        known = name in _READ or name in _WITHOUT_EFFECT or name in family.own
        if known or name.startswith(_WITHOUT_EFFECT_BY_PREFIX) or value in (None, False, "", [], {}):
            continue
        if value not in _NEUTRAL.get(name, ()):
            raise UnusableModel(
                f"config.json: {name} {value!r} is not supported: it may change what the model computes. Remove the "
                "field if it does not"
            )


def _implied(said: Document) -> dict[str, Any]:
    """What the classes in transformers derive from other fields."""
    heads, hidden, implied = said.get("num_attention_heads"), said.get("hidden_size"), {}
    if said.get("num_key_value_heads") is None and heads is not None:
        implied["num_kv_heads"] = heads
    derives = said["model_type"] in ("llama", "mistral", "qwen2")
    if said.get("head_dim") is None and derives and _is_size(heads) and isinstance(hidden, int):
        if hidden % heads:
            raise UnusableModel(
                f"config.json: hidden_size {hidden} is not divisible by num_attention_heads {heads}: give head_dim"
            )
        implied["head_dim"] = hidden // heads
    return implied


def _attention(said: Document, family: Family) -> dict[str, Any]:
    activation = said[family.activation_name]
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise UnusableModel(
            f"config.json: {family.activation_name} {activation!r} is not supported: this runtime has "
            f"{', '.join(_ACTIVATIONS)}"
        )
    fields = {"activation": _ACTIVATIONS[activation]} | _sliding(said, family)
    if "attention_bias" in family.own:
        fields |= {"qkv_bias": said["attention_bias"], "output_bias": said["attention_bias"]}
    if (scalar := said.get("query_pre_attn_scalar")) is not None:
        if type(scalar) not in (int, float) or not scalar > 0:
            raise UnusableModel(f"config.json: query_pre_attn_scalar is {scalar!r}: it must be a positive number")
        fields["query_scale"] = float(scalar) ** -0.5
    return fields


def _sliding(said: Document, family: Family) -> dict[str, Any]:
    """Which layers slide: those that `layer_types` names, or else those that the family lets slide."""
    layers, types = said.get("num_hidden_layers"), said.get("layer_types")
    if not _is_size(layers):
        return {}
    for name, least in (("sliding_window_pattern", 1), ("max_window_layers", 0)):
        value = said.get(name, least)
        if type(value) is not int or value < least:
            raise UnusableModel(f"config.json: {name} is {value!r}: give a whole number from {least}")
    slides = tuple(bool(family.sliding(said)(layer)) for layer in range(layers))
    if types is not None:
        named = _named_layers(types)
        if "layer_types" not in family.own and named != slides:
            raise UnusableModel(
                f"config.json: layer_types {types!r} is not supported: {said['model_type']} has all layers alike"
            )
        if any(named) and said.get("use_sliding_window", True) is not True:
            raise UnusableModel(
                "config.json: layer_types has sliding layers, and use_sliding_window is off: set it to true, or list "
                "full_attention alone"
            )
        slides = named
    if any(slides):
        return {"sliding_window": said.get("sliding_window"), "sliding_layers": slides}
    return {} if len(slides) == layers else {"sliding_layers": slides}


def _named_layers(types: object) -> tuple[bool, ...]:
    if not isinstance(types, list) or any(kind not in list(_LAYER_TYPES) for kind in types):
        raise UnusableModel(f"config.json: layer_types {types!r} is not supported: list {' and '.join(_LAYER_TYPES)}")
    return tuple(_LAYER_TYPES[kind] for kind in types)


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _ropes(document: Document, family: Family) -> dict[str, Any]:
    """The rotary positions of all layers, and of sliding ones where the family has others for them."""
    by_kind, scaling = document.get("rope_parameters") or {}, document.get("rope_scaling") or {}
    if "rope_local_base_freq" not in family.own:
        return {"rope": _rope(document, family, "rope_theta", scaling, by_kind)}
    if not isinstance(by_kind, dict) or not set(by_kind) <= set(_LAYER_TYPES):
        raise UnusableModel(
            f"config.json: rope_parameters {by_kind!r} is not supported: give an object for each of "
            f"{' and '.join(_LAYER_TYPES)}"
        )
    full, sliding = (by_kind.get(kind) or {} for kind in _LAYER_TYPES)
    return {
        "rope": _rope(document, family, "rope_theta", scaling, full),
        "sliding_rope": _rope(document, family, "rope_local_base_freq", {}, sliding),
    }


def _rope(document: Document, family: Family, theta_name: str, scaling: object, newer: object) -> dict[str, Any]:
    """Merge the newer `rope_parameters` with the older fields; null means not given."""
    rope = _given(scaling)
    for name, value in _given(newer).items():
        if rope.setdefault(name, value) != value:
            raise UnusableModel(
                f"config.json: {name} {rope[name]!r} in rope_scaling contradicts rope_parameters: keep one of them"
            )
    theta = document.get(theta_name)
    if theta is not None and rope.setdefault("rope_theta", theta) != theta:
        raise UnusableModel(f"config.json: {theta_name} {theta!r} contradicts rope_parameters: keep one of them")
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    if rope.get("partial_rotary_factor") == 1:
        del rope["partial_rotary_factor"]
    return {"theta": rope.pop("rope_theta", family.defaults[theta_name]), "scaling": _scaling(kind, rope)}


def _given(part: object) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise UnusableModel(f"config.json: rope_parameters must be an object, not {part!r}")
    return {name: value for name, value in part.items() if value is not None}


def _scaling(kind: object, rest: dict[str, Any]) -> dict[str, Any] | None:
    if kind in ("llama3", "linear"):
        ours = {theirs: ours for ours, theirs in _ROPE_FIELDS.items()}
        return {"kind": kind, **{ours.get(name, name): value for name, value in rest.items()}}
    if kind != "default" or rest:
        what = f"rope_type {kind!r}" if kind != "default" else f"{sorted(rest)} in rope_parameters"
        raise UnusableModel(f"config.json: {what} is not supported: use rope_type 'default', 'linear' or 'llama3'")
    return None


def _explain(error: ValidationError) -> str:
    """Name every wrong field as config.json spells it."""
    names = _NAMES | {"eos_token_ids": "eos_token_id", "rope": "rope_parameters", "sliding_rope": "rope_parameters"}
    names |= {"qkv_bias": "attention_bias", "output_bias": "attention_bias", "theta": "rope_theta"}
    skipped = {"scaling", "linear", "llama3"}
    parts = []
    for problem in error.errors():
        where = ".".join(names.get(str(part), str(part)) for part in problem["loc"] if part not in skipped)
        if problem["type"] == "missing":
            parts.append(f"{where} is missing")
        elif problem["type"] == "value_error":
            parts.append(f"{where} {problem['msg'].removeprefix('Value error, ')}".strip())
        else:
            parts.append(f"{where} is {problem['input']!r}: {problem['msg']}")
    return f"config.json: {'; '.join(dict.fromkeys(parts))}. Correct the file or take it from the original model."


def write_config_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a float32 model; `read_config_json` reads it back unchanged.

    The rotary fields are written twice, as transformers 5 and as older readers expect them.
    """
    family = FAMILIES[config.family]
    told = set(family.defaults) | family.own | _READ
    document = {theirs: getattr(config, ours) for ours, theirs in _NAMES.items() if theirs in told} | {
        "architectures": [family.architecture],
        "attention_dropout": 0.0,
        "dtype": "float32",
        "eos_token_id": _one_or_several(config.eos_token_ids),
        family.activation_name: {ours: theirs for theirs, ours in _ACTIVATIONS.items()}[config.activation],
        "model_type": config.family,
    }
    if "attention_bias" in family.defaults:
        document["attention_bias"] = config.qkv_bias
    if "query_pre_attn_scalar" in family.own:
        scale = config.query_scale or config.head_dim**-0.5
        document["query_pre_attn_scalar"] = _whole(scale**-2)
    return document | _written_windows(config, family) | _written_ropes(config)


def _one_or_several(ids: tuple[int, ...]) -> int | list[int] | None:
    return list(ids) if len(ids) > 1 else next(iter(ids), None)


def _whole(value: float) -> float:
    """A number that is whole up to rounding as an integer."""
    return round(value) if abs(value - round(value)) < 1e-9 * value else value


def _written_windows(config: ModelConfig, family: Family) -> dict[str, Any]:
    slides = config.sliding_layers or (False,) * config.num_layers
    windows: dict[str, Any] = {}
    if "sliding_window" in family.own:
        windows["sliding_window"] = config.sliding_window
    if "use_sliding_window" in family.own:
        windows |= {"use_sliding_window": any(slides), "max_window_layers": config.num_layers}
    if "layer_types" in family.own:
        # The classes of these families refuse to run without a window, even if no layer uses it.
        windows["sliding_window"] = config.sliding_window or family.defaults["sliding_window"]
        kinds = {slides: kind for kind, slides in _LAYER_TYPES.items()}
        windows["layer_types"] = [kinds[each] for each in slides]
    return windows


def _written_ropes(config: ModelConfig) -> dict[str, Any]:
    scaling = _written_scaling(config.rope)
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope.theta} | (scaling or {})
    old = {"rope_scaling": scaling, "rope_theta": config.rope.theta}
    if config.family != "gemma3_text":
        return old | {"rope_parameters": parameters}
    local = config.sliding_rope or config.rope
    sliding = {"rope_type": "default", "rope_theta": local.theta} | (_written_scaling(local) or {})
    by_kind = {"full_attention": parameters, "sliding_attention": sliding}
    return old | {"rope_local_base_freq": local.theta, "rope_parameters": by_kind}


def _written_scaling(rope: Rope) -> dict[str, Any] | None:
    if rope.scaling is None:
        return None
    fields = rope.scaling.model_dump()
    return {"rope_type": fields.pop("kind"), **{_ROPE_FIELDS.get(name, name): fields[name] for name in fields}}
