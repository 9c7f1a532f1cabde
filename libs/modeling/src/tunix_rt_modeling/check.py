"""`python -m tunix_rt_modeling.check DIR [--json]`: does this machine compute what transformers computed?

DIR is a model or a PEFT adapter (its base lies beside it) with a reference.npz of any of: logits of `input_ids` under
`attention_mask`; `greedy` continuation; losses and gradient norms of AdamW steps on `train_ids`, set up as
reference.json says. Exit status 0: within tolerance, 1: beyond it, 2: the directory cannot be used.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tunix_rt_common.errors import UnusableModel
from tunix_rt_modeling.batchplan import Request
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.decoding import Drawing
from tunix_rt_modeling.directory import inside, read_json
from tunix_rt_modeling.drawing import GREEDY
from tunix_rt_modeling.huggingface import load_params, read_config
from tunix_rt_modeling.lanes import Lanes
from tunix_rt_modeling.lora import read_peft, scale
from tunix_rt_modeling.transformer import Params, logits

LOGIT_TOLERANCE = 1e-4
TRAINING_TOLERANCE = 1e-3
_GREEDY_PROMPT_TOKENS = 10
_LOGITS = {"input_ids", "logits"}
_TRAINING = {"train_ids", "train_losses", "train_grad_norms"}


@dataclass(frozen=True)
class Finding:
    """One comparison; `error` is the largest one seen, None when the reference holds nothing to compare with."""

    name: str
    error: float | None
    tolerance: float

    @property
    def passed(self) -> bool:
        """An absent reference is no failure; NaN is."""
        return self.error is None or self.error <= self.tolerance


@dataclass(frozen=True)
class _Subject:
    """What is checked: a model, with an adapter or without, and its reference."""

    config: ModelConfig
    params: Params
    lora: Params | None
    lora_scale: float
    reference: Mapping[str, np.ndarray]
    training: Mapping[str, Any]


def check(directory: Path) -> list[Finding]:
    """Compare a directory with its reference, matrix products in full float32.

    Raises:
        UnusableModel: the directory, its base or its reference is missing or malformed.
    """
    with jax.default_matmul_precision("highest"):
        subject = _read(directory)
        return [_check_logits(subject), _check_greedy(subject), *_check_training(subject)]


def _read(directory: Path) -> _Subject:
    reference = _read_reference(directory)
    lora, lora_scale, base = None, 0.0, directory
    if (directory / "adapter_config.json").exists():
        base = _base_of(directory)
    config = read_config(base)
    if base != directory:
        lora, spec = read_peft(directory, config)
        lora_scale = scale(spec)
    _check_reference(config, reference)
    training = read_json(directory, "reference.json").get("train", {}) if "train_ids" in reference else {}
    return _Subject(config, load_params(base, config), lora, lora_scale, reference, training)


def _read_reference(directory: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(inside(directory, "reference.npz"), allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UnusableModel(f"reference.npz cannot be read ({error}): copy the file again") from error


def _check_reference(config: ModelConfig, reference: Mapping[str, np.ndarray]) -> None:
    if not set(reference) >= _LOGITS and "greedy" not in reference and not set(reference) >= _TRAINING:
        raise UnusableModel("reference.npz holds nothing to compare with: it needs logits, greedy or train_losses")
    for name in ("input_ids", "greedy", "train_ids"):
        ids = reference.get(name, np.zeros((1, 1), np.int32))
        if ids.dtype.kind != "i" or not ids.size or ids.min() < 0 or ids.max() >= config.vocab_size:
            raise UnusableModel(
                f"reference.npz: {name} are not token ids of this model: take the model's own reference"
            )
    steps = len(reference.get("train_ids", ()))
    shapes = {"train_losses": (steps,), "train_grad_norms": (steps,)}
    if "input_ids" in reference:
        batch = reference["input_ids"].shape
        shapes |= {"attention_mask": batch, "logits": (*batch, config.vocab_size)}
    for name, shape in shapes.items():
        if name in reference and reference[name].shape != shape:
            raise UnusableModel(f"reference.npz: {name} has shape {reference[name].shape}, not {shape}: copy it again")


def _base_of(adapter: Path) -> Path:
    name = read_json(adapter, "adapter_config.json").get("base_model_name_or_path")
    base = (adapter / str(name)).resolve()
    if not isinstance(name, str) or base.parent != adapter.resolve().parent or not base.is_dir():
        raise UnusableModel(f"the adapter's base {name!r} is not a directory beside it: put the base model there")
    return base


def _check_logits(subject: _Subject) -> Finding:
    reference = subject.reference
    if not set(reference) >= _LOGITS:
        return Finding("logits, largest error", None, LOGIT_TOLERANCE)
    token_ids = reference["input_ids"]
    mask = reference.get("attention_mask", np.ones_like(token_ids)).astype(bool)
    ours = jax.jit(partial(logits, subject.config))(
        subject.params, token_ids, attention_mask=mask, lora=subject.lora, lora_scale=subject.lora_scale
    )
    error = np.abs(np.asarray(ours) - reference["logits"])[mask].max()
    return Finding("logits, largest error", float(error), LOGIT_TOLERANCE)


def _check_greedy(subject: _Subject) -> Finding:
    """Count the tokens that differ from the reference's, drawn through the cache."""
    if "greedy" not in subject.reference or subject.lora is not None:
        return Finding("greedy, tokens that differ", None, 0)
    expected = subject.reference["greedy"][0]
    prompt, continuation = expected[:_GREEDY_PROMPT_TOKENS], expected[_GREEDY_PROMPT_TOKENS:]
    request = Request(tuple(prompt.tolist()), 0, len(continuation))
    lanes = Lanes(subject.config, subject.params, [request], rows=1, how=Drawing(GREEDY, ()), seed=0)
    drawn = [token for finished in lanes.run(None) for row in finished for token in row.token_ids]
    return Finding("greedy, tokens that differ", int((drawn != continuation).sum()), 0)


def _check_training(subject: _Subject) -> Iterator[Finding]:
    names = {"loss": "train_losses", "gradient norm": "train_grad_norms"}
    if not set(subject.reference) >= _TRAINING or subject.lora is not None:
        for name in names:
            yield Finding(f"{name}, largest relative error", None, TRAINING_TOLERANCE)
        return
    for name, ours in zip(names, _train(subject), strict=True):
        expected = subject.reference[names[name]]
        error = np.max(np.abs(ours - expected) / np.abs(expected))
        yield Finding(f"{name}, largest relative error", float(error), TRAINING_TOLERANCE)


@dataclass(frozen=True)
class _AdamW:
    """Loshchilov & Hutter 2019 (arXiv:1711.05101) after clipping by global norm; every parameter decays."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float

    def update(self, step: Array, params: Params, grads: Params, norm: Array, moments: Any) -> tuple[Params, Any]:
        """Return the parameters after step number `step` (from 1), and the new first and second moments."""
        grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, self.clip_norm / (norm + 1e-6)), grads)
        first = jax.tree.map(lambda m, g: self.beta1 * m + (1 - self.beta1) * g, moments[0], grads)
        second = jax.tree.map(lambda v, g: self.beta2 * v + (1 - self.beta2) * g * g, moments[1], grads)

        def move(p: Array, m: Array, v: Array) -> Array:
            direction = m / (1 - self.beta1**step) / (jnp.sqrt(v / (1 - self.beta2**step)) + self.epsilon)
            return p * (1 - self.learning_rate * self.weight_decay) - self.learning_rate * direction

        return jax.tree.map(move, params, first, second), (first, second)


def _train(subject: _Subject) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss and the norm of the unclipped gradient at every step."""
    try:
        recipe = subject.training
        beta1, beta2 = map(float, recipe["betas"])
        rest = [float(recipe[name]) for name in ("eps", "weight_decay", "clip_global_norm")]
        optimizer = _AdamW(float(recipe["lr"]), beta1, beta2, *rest)
        masked = int(recipe["prompt_tokens_masked"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableModel(f"reference.json does not describe the training ({error!r}): copy it again") from error

    def step(carry: Any, numbered: Any) -> Any:
        params, moments = carry
        number, token_ids = numbered
        loss, grads = jax.value_and_grad(partial(_loss, subject.config))(params, token_ids, masked)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
        return optimizer.update(number, params, grads, norm, moments), (loss, norm)

    batches = subject.reference["train_ids"]
    zeros = jax.tree.map(jnp.zeros_like, subject.params)
    numbers = jnp.arange(1, len(batches) + 1, dtype=jnp.float32)
    run = jax.jit(lambda params: jax.lax.scan(step, (params, (zeros, zeros)), (numbers, jnp.asarray(batches)))[1])
    losses, norms = run(subject.params)
    return np.asarray(losses), np.asarray(norms)


def _loss(config: ModelConfig, params: Params, token_ids: Int[Array, "batch tokens"], masked: int) -> Float[Array, ""]:
    """Mean next-token cross-entropy over the targets from position `masked` on."""
    scores = jax.nn.log_softmax(logits(config, params, token_ids[:, :-1]), axis=-1)
    losses = -jnp.take_along_axis(scores, token_ids[:, 1:, None], axis=-1)[..., 0]
    return losses[:, max(masked - 1, 0) :].mean()


def main(arguments: list[str] | None = None) -> int:
    """Print the findings and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tunix_rt_modeling.check", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    try:
        findings = check(options.directory)
    except UnusableModel as error:
        sys.stderr.write(f"{error}\n")
        return 2
    passed = all(finding.passed for finding in findings)
    if options.json:
        documents = [asdict(finding) | {"passed": finding.passed} for finding in findings]
        sys.stdout.write(json.dumps({"passed": passed, "findings": documents}) + "\n")
    else:
        sys.stdout.write("".join(_line(finding) for finding in findings))
    return 0 if passed else 1


def _line(finding: Finding) -> str:
    if finding.error is None:
        return f"{finding.name:38} not in the reference\n"
    verdict = "ok" if finding.passed else "BEYOND TOLERANCE"
    return f"{finding.name:38} {finding.error:.3g} (tolerance {finding.tolerance:g}) {verdict}\n"


if __name__ == "__main__":
    sys.exit(main())
