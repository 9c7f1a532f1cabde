"""A run small enough for a test; as a program (`smallrun.py KIND CHECKPOINT RESULT.npz`) its second life."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tunix_rt_common.specs import (
    PREFERENCE_METHODS,
    DistillSpec,
    DpoSpec,
    LoraSpec,
    OptimizerSpec,
    OrpoSpec,
    ScheduleSpec,
    SftSpec,
    TrainSpec,
)
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.transformer import Params, init_params
from tunix_rt_trainer.engine import checkpoints, loop, state
from tunix_rt_trainer.engine.examples import EncodedRows, EncodingReport
from tunix_rt_trainer.engine.packing import best_fit, one_each
from tunix_rt_trainer.engine.reference import with_reference

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
    tie_embeddings=True,
)
TEACHER = CONFIG.model_copy(update={"hidden_size": 48, "num_layers": 3, "tie_embeddings": False})
STEPS = 20
COMMON = {
    "batch_size": 4,
    "accumulation": 2,
    "epochs": 1000,
    "max_steps": STEPS,
    "max_tokens": 64,
    "checkpoint_every": 11,
    "validate_every": 7,
    "optimizer": OptimizerSpec(weight_decay=0.1, schedule=ScheduleSpec(warmup_steps=3)),
    "seed": 5,
}
SPEC = SftSpec(**COMMON)
SPECS: dict[str, TrainSpec] = {
    "full": SPEC,
    "lora": SftSpec(**COMMON, lora=LoraSpec(rank=4)),
    "qlora": SftSpec(**COMMON, lora=LoraSpec(rank=4, rslora=True, base="nf4")),
    "dpo": DpoSpec(method="dpo", **COMMON),
    "dpo-lora": DpoSpec(method="dpo", **COMMON, lora=LoraSpec(rank=4)),
    "orpo": OrpoSpec(method="orpo", **COMMON),
    "distill": DistillSpec(method="distill", teacher="large@1", **COMMON),
}


def make_rows(count: int, *, seed: int = 0, shortest: int = 6, longest: int = 30) -> EncodedRows:
    """Rows that count upwards modulo 50 from a random start, so that there is something to learn."""
    random = np.random.default_rng(seed)
    lengths = random.integers(shortest, longest + 1, size=count)
    token_ids = tuple(
        ((np.arange(n) + start) % 50).astype(np.int32)
        for n, start in zip(lengths, random.integers(0, 50, count), strict=True)
    )
    weights = tuple((np.arange(n) >= 3).astype(np.float32) for n in lengths)
    report = EncodingReport(count, count, (), int(lengths.sum()), int((lengths - 3).sum()), 1.0, int(lengths.max()))
    return EncodedRows(tuple(f"row-{number}" for number in range(count)), token_ids, weights, report, one_each(count))


def pack(rows: EncodedRows, capacity: int) -> EncodedRows:
    """The same rows, several to a sequence."""
    return replace(rows, packs=best_fit([len(token_ids) for token_ids in rows.token_ids], capacity))


def make_pairs(count: int, *, seed: int = 0) -> EncodedRows:
    """Pairs: the chosen side counts upwards, the rejected one, of another length, downwards from the same start."""
    chosen, rejected = (make_rows(count, seed=seed + side) for side in range(2))
    token_ids, weights = [], []
    for number in range(count):
        up, down = chosen.token_ids[number], rejected.token_ids[number]
        token_ids += [up, ((up[2] * 2 - np.arange(len(down)) - up[0]) % 50).astype(np.int32)]
        token_ids[-1][:3] = up[:3]
        weights += [chosen.loss_weights[number], rejected.loss_weights[number]]
    row_ids = tuple(row_id for row_id in chosen.row_ids for _ in range(2))
    return EncodedRows(row_ids, tuple(token_ids), tuple(weights), chosen.report, one_each(2 * count), paired=True)


def data_for(spec: TrainSpec, count: int, *, seed: int = 0) -> EncodedRows:
    """What a method learns from."""
    if spec.method not in PREFERENCE_METHODS:
        return make_rows(count, seed=seed)
    pairs = make_pairs(count, seed=seed)
    return with_reference(CONFIG, spec, fresh_state(spec).params, pairs) if spec.method == "dpo" else pairs


def fresh_state(spec: TrainSpec) -> state.TrainState:
    teacher = None
    if spec.method == "distill":
        teacher = state.Teacher(TEACHER, jax.tree.map(jnp.array, _drawn_params(TEACHER)))
    return state.init(CONFIG, spec, jax.tree.map(jnp.array, _drawn_params(CONFIG)), teacher=teacher)


@cache
def _drawn_params(config: ModelConfig) -> Params:
    return jax.device_get(init_params(config, jax.random.key(1)))


def inputs(spec: TrainSpec) -> checkpoints.Inputs:
    return checkpoints.Inputs(
        spec_sha256=checkpoints.spec_sha256(spec), dataset_sha256="d", tokenizer_sha256="t", base_model_sha256="b"
    )


def finish(spec: TrainSpec, start: state.TrainState, data: loop.TrainingData, save=lambda *_: None, hooks=()):
    """Train to the end; returns all infos and the last state."""
    infos, training = [], loop.train(CONFIG, spec, start, data, save, hooks)
    while True:
        try:
            infos.append(next(training))
        except StopIteration as end:
            return infos, end.value


def as_arrays(of: state.TrainState) -> dict[str, np.ndarray]:
    """All arrays of the state by their path, for comparing byte by byte."""
    plain = {"weights": state.trainable(of), "optimizer": of.optimizer, "key": jax.random.key_data(of.key)}
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(plain)}


def _resume(kind: str, checkpoint: str, result: str) -> None:
    spec = SPECS[kind]
    start = checkpoints.load(Path(checkpoint), fresh_state(spec), inputs=inputs(spec))
    _, last = finish(spec, start, loop.TrainingData(data_for(spec, 10)))
    np.savez(result, **as_arrays(last))


if __name__ == "__main__":
    _resume(*sys.argv[1:])
