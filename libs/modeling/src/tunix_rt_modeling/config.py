"""The numbers and switches that fix a decoder's arithmetic. One decoder computes all families; this is what differs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_Size = Annotated[int, Field(ge=1, le=2**24)]
_TokenId = Annotated[int, Field(ge=0, lt=2**24)]
_Positive = Annotated[float, Field(gt=0)]
Remat = Literal["full", "dots", "none"]
FamilyName = Literal["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"]
"""As `model_type` in config.json."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), strict=True)


class LinearRope(_Frozen):
    """Positions divided by a factor (Chen et al. 2023, arXiv:2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: _Positive


class Llama3Rope(_Frozen):
    """Llama 3.1's stretching of the rotary wavelengths; lengths are in positions."""

    kind: Literal["llama3"] = "llama3"
    factor: _Positive
    low_freq_factor: _Positive
    high_freq_factor: _Positive
    original_max_positions: _Size

    @model_validator(mode="after")
    def _band_is_not_empty(self) -> "Llama3Rope":
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must be above low_freq_factor")
        return self


class Rope(_Frozen):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864)."""

    theta: _Positive = 10_000.0
    scaling: Annotated[LinearRope | Llama3Rope, Field(discriminator="kind")] | None = None


class ModelConfig(_Frozen):
    """A pre-norm decoder with rotary positions, grouped queries and a gated MLP.

    `compute_dtype` is what matrix products run in; weights are kept in float32 whatever the file stores. `remat` says
    what the backward pass computes again, to save memory: whole layers, all but their matrix products, or nothing.
    """

    family: FamilyName = "llama"
    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_layers: Annotated[int, Field(ge=1, le=1024)]
    num_heads: _Size
    num_kv_heads: _Size
    head_dim: Annotated[int, Field(ge=2, le=2**16, multiple_of=2)]
    max_positions: _Size
    rope: Rope = Rope()
    sliding_window: _Size | None = None
    """How many tokens a sliding layer looks back on, its own included."""
    sliding_layers: tuple[bool, ...] = ()
    """Which layers slide, one entry for each; empty when none does."""
    sliding_rope: Rope | None = None
    """The rotary positions of sliding layers, where they differ."""
    rms_norm_eps: _Positive = 1e-5
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    query_scale: _Positive | None = None
    """What scores are multiplied by; 1 / sqrt(head_dim) unless given."""
    attention_softcap: _Positive | None = None
    logit_softcap: _Positive | None = None
    normed_queries: bool = False
    """An RMSNorm over each head of queries and keys."""
    normed_branches: bool = False
    """Another RMSNorm after attention and after the MLP, each before it is added to the residual stream."""
    offset_norms: bool = False
    """Norms multiply by 1 + scale."""
    scaled_embeddings: bool = False
    """Embeddings are multiplied by sqrt(hidden_size)."""
    bos_token_id: _TokenId | None = None
    eos_token_ids: tuple[_TokenId, ...] = ()
    pad_token_id: _TokenId | None = None
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "full"

    @model_validator(mode="after")
    def _heads_are_shared_evenly(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_heads} is not divisible by num_key_value_heads {self.num_kv_heads}"
            )
        return self

    @model_validator(mode="after")
    def _sliding_layers_have_a_window(self) -> "ModelConfig":
        if self.sliding_layers and len(self.sliding_layers) != self.num_layers:
            raise ValueError(f"layer_types has {len(self.sliding_layers)} entries for {self.num_layers} layers")
        if any(self.sliding_layers) and self.sliding_window is None:
            raise ValueError("sliding_window is missing, and layer_types has sliding layers")
        return self

    @model_validator(mode="after")
    def _special_tokens_have_embeddings(self) -> "ModelConfig":
        single = {"bos_token_id": self.bos_token_id, "pad_token_id": self.pad_token_id}
        named = [(name, token) for name, token in single.items() if token is not None]
        for name, token in [*named, *(("eos_token_id", token) for token in self.eos_token_ids)]:
            if token >= self.vocab_size:
                raise ValueError(f"{name} {token} is not below vocab_size {self.vocab_size}")
        return self


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
