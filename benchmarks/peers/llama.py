"""The comparison's model as transformers builds it."""

import os

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(len(os.sched_getaffinity(0)))


def small_llama() -> LlamaForCausalLM:
    """Four layers of width 256 with random float32 weights, attention by torch's fused kernel."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=6400,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            attn_implementation="sdpa",
        )
    )
