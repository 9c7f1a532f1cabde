"""TRL's SFTTrainer with packing, on the device that torch finds, in bfloat16 where it is an accelerator."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl_rounds import train

data_folder, work, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
train(
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(work)),
    work / "rows.jsonl",
    data_folder / "tokenizers" / "minimind-6400",
    steps,
    packing=True,
    **json.loads((work / "batch.json").read_text()),
    bf16=torch.cuda.is_available(),
    use_cpu=not torch.cuda.is_available(),
)
