"""What sets the model families apart: in the decoder's arithmetic, and in what config.json leaves unsaid."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tunix_rt_modeling.config import FamilyName

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A family by its class in transformers.

    `traits` are fields of `ModelConfig` that hold for all its members. `defaults` is what its class assumes when
    config.json is silent. `sliding` says for a document with defaults which of its layers slide when it names none.
    `own` are further fields that it has a meaning for.
    """

    architecture: str
    defaults: Document
    own: frozenset[str]
    sliding: Callable[[Document], Callable[[int], bool]]
    traits: Document = field(default_factory=dict)

    @property
    def activation_name(self) -> str:
        """The field that names the MLP's activation."""
        return "hidden_activation" if "hidden_activation" in self.defaults else "hidden_act"


def _nothing_slides(_: Document) -> Callable[[int], bool]:
    return lambda _: False


def _all_slides(document: Document) -> Callable[[int], bool]:
    return lambda _: document["sliding_window"] is not None


def _upper_layers_slide(document: Document) -> Callable[[int], bool]:
    slides = document["use_sliding_window"] is True and document["sliding_window"] is not None
    return lambda layer: slides and layer >= document["max_window_layers"]


def _most_layers_slide(document: Document) -> Callable[[int], bool]:
    return lambda layer: (layer + 1) % document["sliding_window_pattern"] != 0


_DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu", "rope_theta": 10_000.0}
_QWEN_DEFAULTS = _DEFAULTS | {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
_GEMMA_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_QWEN_OWN = frozenset({"layer_types", "sliding_window", "use_sliding_window", "max_window_layers"})
_GEMMA_OWN = frozenset(
    {"layer_types", "sliding_window", "sliding_window_pattern", "hidden_activation", "query_pre_attn_scalar"}
    | {"attn_logit_softcapping", "final_logit_softcapping", "attention_bias"}
)
_GEMMA_TRAITS = {"normed_branches": True, "offset_norms": True, "scaled_embeddings": True}

FAMILIES: Mapping[FamilyName, Family] = MappingProxyType(
    {
        "llama": Family(
            "LlamaForCausalLM",
            defaults=_DEFAULTS | {"attention_bias": False, "mlp_bias": False},
            own=frozenset({"attention_bias", "mlp_bias"}),
            sliding=_nothing_slides,
        ),
        "mistral": Family(
            "MistralForCausalLM",
            defaults=_DEFAULTS | {"sliding_window": 4096},
            own=frozenset({"sliding_window"}),
            sliding=_all_slides,
        ),
        "qwen2": Family(
            "Qwen2ForCausalLM",
            defaults=_QWEN_DEFAULTS,
            own=_QWEN_OWN,
            sliding=_upper_layers_slide,
            traits={"qkv_bias": True},
        ),
        "qwen3": Family(
            "Qwen3ForCausalLM",
            defaults=_QWEN_DEFAULTS | {"attention_bias": False},
            own=_QWEN_OWN | {"attention_bias"},
            sliding=_upper_layers_slide,
            traits={"normed_queries": True},
        ),
        "gemma2": Family(
            "Gemma2ForCausalLM",
            defaults=_GEMMA_DEFAULTS
            | {"rope_theta": 10_000.0, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
            | {"sliding_window_pattern": 2},
            own=_GEMMA_OWN,
            sliding=_most_layers_slide,
            traits=_GEMMA_TRAITS,
        ),
        "gemma3_text": Family(
            "Gemma3ForCausalLM",
            defaults=_GEMMA_DEFAULTS
            | {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6},
            own=_GEMMA_OWN | {"rope_local_base_freq"},
            sliding=_most_layers_slide,
            # Its class in transformers reads a cap on attention, and does not apply it.
            traits=_GEMMA_TRAITS | {"normed_queries": True, "attention_softcap": None},
        ),
    }
)
