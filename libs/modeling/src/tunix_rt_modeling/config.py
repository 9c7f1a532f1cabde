"""The numbers that fix a decoder's arithmetic, read from and written to a Hugging Face config.json."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunix_rt_common.errors import UnusableModel

_Size = Annotated[int, Field(ge=1, le=2**24)]
_TokenId = Annotated[int, Field(ge=0, lt=2**24)]
_Positive = Annotated[float, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), strict=True)


class Llama3Rope(_Frozen):
    """Llama 3.1's stretching of the rotary wavelengths; lengths are in positions."""

    factor: _Positive
    low_freq_factor: _Positive
    high_freq_factor: _Positive
    original_max_positions: _Size

    @model_validator(mode="after")
    def _band_is_not_empty(self) -> "Llama3Rope":
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must be above low_freq_factor")
        return self


class ModelConfig(_Frozen):
    """A decoder of the Llama architecture.

    `compute_dtype` is what matrix products run in; weights are kept in float32 whatever the file stores.
    """

    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_layers: Annotated[int, Field(ge=1, le=1024)]
    num_heads: _Size
    num_kv_heads: _Size
    head_dim: Annotated[int, Field(ge=2, le=2**16, multiple_of=2)]
    max_positions: _Size
    rope_theta: _Positive = 10_000.0
    rope_scaling: Llama3Rope | None = None
    rms_norm_eps: _Positive = 1e-5
    tie_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    bos_token_id: _TokenId | None = None
    eos_token_ids: tuple[_TokenId, ...] = ()
    pad_token_id: _TokenId | None = None
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _heads_are_shared_evenly(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_heads} is not divisible by num_key_value_heads {self.num_kv_heads}"
            )
        return self

    @model_validator(mode="after")
    def _special_tokens_have_embeddings(self) -> "ModelConfig":
        single = {"bos_token_id": self.bos_token_id, "pad_token_id": self.pad_token_id}
        named = [(name, token) for name, token in single.items() if token is not None]
        for name, token in [*named, *(("eos_token_id", token) for token in self.eos_token_ids)]:
            if token >= self.vocab_size:
                raise ValueError(f"{name} {token} is not below vocab_size {self.vocab_size}")
        return self

    @classmethod
    def from_hf(cls, document: Mapping[str, Any]) -> "ModelConfig":
        """Read a config.json of transformers 4 or 5.

        Fields that do not change the arithmetic are ignored.

        Raises:
            UnusableModel: a field is missing, wrong, or asks for arithmetic that is not implemented; it is named.
        """
        _refuse_unsupported(document)
        fields = {ours: document[theirs] for ours, theirs in _HF_NAMES.items() if document.get(theirs) is not None}
        fields |= _implied(document) | _rope(document)
        eos = document.get("eos_token_id")
        if eos is not None:
            fields["eos_token_ids"] = tuple(eos) if isinstance(eos, list) else (eos,)
        try:
            return cls(**fields)
        except ValidationError as error:
            raise UnusableModel(_explain(error)) from error

    def to_hf(self) -> dict[str, Any]:
        """Return the config.json of a float32 LlamaForCausalLM; `from_hf` reads it back unchanged.

        The rotary fields are written twice, as transformers 5 and as older readers expect them.
        """
        scaling: dict[str, Any] | None = None
        if self.rope_scaling is not None:
            fields = self.rope_scaling.model_dump()
            scaling = {"rope_type": "llama3", **{_ROPE_NAMES.get(name, name): fields[name] for name in fields}}
        return {theirs: getattr(self, ours) for ours, theirs in _HF_NAMES.items()} | {
            "architectures": ["LlamaForCausalLM"],
            "attention_dropout": 0.0,
            "dtype": "float32",
            "eos_token_id": list(self.eos_token_ids) if len(self.eos_token_ids) != 1 else self.eos_token_ids[0],
            "hidden_act": "silu",
            "model_type": "llama",
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta} | (scaling or {}),
            "rope_scaling": scaling,
            "rope_theta": self.rope_theta,
        }


_HF_NAMES = {
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
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
    "bos_token_id": "bos_token_id",
    "pad_token_id": "pad_token_id",
}
_ROPE_NAMES = {"original_max_positions": "original_max_position_embeddings"}
_EXPECTED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu", None),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
    "compression_config": (None,),
    "partial_rotary_factor": (1, None),
}


def _refuse_unsupported(document: Mapping[str, Any]) -> None:
    if document.get("auto_map") is not None:
        raise UnusableModel(
            "config.json: auto_map asks for code from the model's directory, which is never run: use a plain checkpoint"
        )
    for name, expected in _EXPECTED.items():
        if document.get(name) not in expected:
            raise UnusableModel(
                f"config.json: {name} {document.get(name)!r} is not supported: this runtime needs {expected[0]!r}"
            )
    architectures = document.get("architectures")
    if architectures is not None and architectures != ["LlamaForCausalLM"]:
        raise UnusableModel(
            f"config.json: architectures {architectures!r} is not supported: this runtime needs ['LlamaForCausalLM']"
        )


def _implied(document: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what LlamaForCausalLM derives when config.json is silent about it."""
    heads, hidden = document.get("num_attention_heads"), document.get("hidden_size")
    implied = {}
    if document.get("num_key_value_heads") is None and heads is not None:
        implied["num_kv_heads"] = heads
    if document.get("head_dim") is None and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        if hidden % heads:
            raise UnusableModel(
                f"config.json: hidden_size {hidden} is not divisible by num_attention_heads {heads}: give head_dim"
            )
        implied["head_dim"] = hidden // heads
    return implied


def _rope(document: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `rope_parameters` with the older `rope_theta` and `rope_scaling`; None means not given."""
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        part = document.get(name) or {}
        if not isinstance(part, dict):
            raise UnusableModel(f"config.json: {name} must be an object, not {part!r}")
        rope |= {key: value for key, value in part.items() if value is not None}
    theta = document.get("rope_theta")
    if theta is not None and rope.setdefault("rope_theta", theta) != theta:
        raise UnusableModel(f"config.json: rope_theta {theta!r} contradicts rope_parameters: keep one of them")
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    fields = {"rope_theta": rope.pop("rope_theta")} if "rope_theta" in rope else {}
    return fields | {"rope_scaling": _rope_scaling(kind, rope)}


def _rope_scaling(kind: object, rest: dict[str, Any]) -> dict[str, Any] | None:
    if rest.get("partial_rotary_factor") == 1:
        del rest["partial_rotary_factor"]
    if kind == "llama3":
        ours = {theirs: ours for ours, theirs in _ROPE_NAMES.items()}
        return {ours.get(name, name): value for name, value in rest.items()}
    if kind != "default" or rest:
        what = f"rope_type {kind!r}" if kind != "default" else f"{sorted(rest)} in rope_parameters"
        raise UnusableModel(f"config.json: {what} is not supported: use rope_type 'default' or 'llama3'")
    return None


def _explain(error: ValidationError) -> str:
    """Name every wrong field as config.json spells it."""
    names = _HF_NAMES | {"eos_token_ids": "eos_token_id", "rope_scaling": "rope_parameters"}
    parts = []
    for problem in error.errors():
        where = ".".join(names.get(str(part), str(part)) for part in problem["loc"])
        if problem["type"] == "missing":
            parts.append(f"{where} is missing")
        elif problem["type"] == "value_error":
            parts.append(f"{where} {problem['msg'].removeprefix('Value error, ')}".strip())
        else:
            parts.append(f"{where} is {problem['input']!r}: {problem['msg']}")
    return f"config.json: {'; '.join(parts)}. Correct the file or take it from the original model."


def _preset(**sizes: Any) -> ModelConfig:
    """Return a config for the byte tokenizer: 256 bytes and 7 special tokens, <|pad|> <|bos|> <|eos|> the first."""
    return ModelConfig(
        vocab_size=263, tie_embeddings=True, pad_token_id=256, bos_token_id=257, eos_token_ids=(258,), **sizes
    )


PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "tiny": _preset(
            hidden_size=128,
            intermediate_size=384,
            num_layers=4,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            max_positions=512,
        ),
        "small": _preset(
            hidden_size=256,
            intermediate_size=768,
            num_layers=6,
            num_heads=8,
            num_kv_heads=4,
            head_dim=32,
            max_positions=1024,
        ),
    }
)
"""Models to train from scratch: `tiny` has 0.8 M parameters, `small` 4.8 M."""
