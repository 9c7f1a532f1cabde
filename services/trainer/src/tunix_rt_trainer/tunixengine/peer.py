"""Runs in google-tunix's environment, by the path of this file: train on the batches that come in, write the weights.

    python -I peer.py FOLDER REPORT_FD

FOLDER holds `request.json`, `rates.npy` (a learning rate for each step) and `base/` (a Hugging Face directory in
float32); it gets `trained.safetensors`, with the tensors of the base's file. Batches come through standard input, each
an npz file (token_ids, loss_weights, and `present`, which is false on padding) behind its length in 8 bytes, little
endian: first those of the validation split, then one for each step. What happens goes to REPORT_FD, a JSON object a
line.
"""

import ctypes
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

PR_SET_PDEATHSIG = 1
LENGTH_BYTES = 8
CLASSES = {"llama": "llama3", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Where a family's model is in `tunix.models`."""

Batch = dict[str, Any]
Tell = Callable[..., None]


def main(folder: Path, report_fd: int) -> None:
    """Train as the request says."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def tell(**said: object) -> None:
        os.write(report_fd, json.dumps(said).encode() + b"\n")

    try:
        from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig
    except ModuleNotFoundError as error:
        tell(missing=str(error))
        return
    tell(environment=_environment())
    request = json.loads((folder / "request.json").read_text())
    model, mapping = _load(folder / "base", request["model"])
    optimizer = _optimizer(request["optimizer"], np.load(folder / "rates.npy"))
    config = TrainingConfig(eval_every_n_steps=request["total_steps"] + 1)
    trainer = PeftTrainer(model, optimizer, config, metrics_logger=Reports(tell))
    trainer.train(_batches(model, request, tell))
    _write(model, mapping, folder / "base" / "model.safetensors", folder / "trained.safetensors")
    tell(done=True)


def _environment() -> dict[str, str]:
    """On what it trains."""
    import jax

    device, python = jax.devices()[0].device_kind, sys.version.split()[0]
    return {"google-tunix": version("google-tunix"), "jax": jax.__version__, "device": device, "python": python}


class Reports:
    """Stands where the trainer logs its metrics: the gradient's norm is the last that it logs of a step."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._loss = 0.0

    def log(self, _: str, name: str, value: Any, mode: object, step: int) -> None:  # noqa: ARG002
        """Take one number of a step."""
        if name == "loss":
            self._loss = float(value)
        elif name == "grad_norm":
            self._tell(step=int(step), loss=self._loss, gradient_norm=float(value))

    def close(self) -> None:
        """Nothing is open."""


def _load(folder: Path, wanted: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The model of a directory, and how its tensors' names map to the model's."""
    name = CLASSES[wanted["family"]]
    library: Any = import_module(f"tunix.models.{name}.model")
    params = import_module(f"tunix.models.{name}.params")
    fields = library.ModelConfig.__dataclass_fields__
    tied = "weight_tying" if "weight_tying" in fields else "use_tied_embedding"
    remat = library.RematConfig.DECODER if wanted["remat"] else library.RematConfig.NONE
    config = library.ModelConfig(**wanted["sizes"], **{tied: wanted["tied"]}, remat_config=remat)
    rope = getattr(library, "apply_rope", None)
    if rope and "rope_theta" in inspect.signature(rope).parameters:
        # Attention leaves the config's theta out of this call, and the default is used whatever the model says.
        library.apply_rope = partial(rope, rope_theta=config.rope_theta)
    mapping: Mapping[str, Any] = params._get_key_and_transform_mapping(config)
    return params.create_model_from_safe_tensors(str(folder), config), mapping


def _optimizer(wanted: Mapping[str, float], rates: np.ndarray) -> Any:
    """Clipping by global norm, then AdamW, with the rate of each step as it was sent."""
    import jax.numpy as jnp
    import optax

    schedule = jnp.asarray(rates)
    adamw = optax.adamw(
        lambda step: schedule[step],
        b1=wanted["beta1"],
        b2=wanted["beta2"],
        eps=wanted["epsilon"],
        weight_decay=wanted["weight_decay"],
    )
    return optax.chain(optax.clip_by_global_norm(wanted["clip_norm"]), adamw)


def _batches(model: Any, request: Mapping[str, Any], tell: Tell) -> Iterator[Batch]:
    """The batches of all steps; between them, where one is due, the validation loss of the model as it is then."""
    held_out = [_read_batch() for _ in range(request["validation_batches"])]
    total = request["total_steps"]

    def validate(step: int) -> None:
        if held_out:
            tell(step=step, validation_loss=_mean_loss(model, held_out))

    validate(0)
    for step in range(1, total + 1):
        yield _read_batch()
        if step % request["validate_every"] == 0 or step == total:
            validate(step)


def _read_batch() -> Batch:
    """What the default loss asks for: positions count from the row's beginning, attention sees no padding."""
    size_bytes = int.from_bytes(sys.stdin.buffer.read(LENGTH_BYTES), "little")
    arrays = np.load(BytesIO(sys.stdin.buffer.read(size_bytes)), allow_pickle=False)
    rows, length = arrays["token_ids"].shape
    return {
        "input_tokens": arrays["token_ids"],
        "input_mask": arrays["loss_weights"],
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "attention_mask": np.tril(np.ones((length, length), bool)) & arrays["present"][:, None, :],
    }


def _mean_loss(model: Any, batches: list[Batch]) -> float:
    """Mean loss in nats over all trained tokens of the batches."""
    import jax.numpy as jnp
    import optax
    from flax import nnx

    def totals(model: Any, batch: Batch) -> tuple[Any, Any]:
        logits, _ = model(batch["input_tokens"], batch["positions"], None, batch["attention_mask"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], batch["input_tokens"][:, 1:])
        weights = batch["input_mask"][:, 1:]
        return jnp.sum(losses * weights), jnp.sum(weights)

    compiled = nnx.jit(totals)
    found = [compiled(model, batch) for batch in batches]
    return sum(float(loss) for loss, _ in found) / sum(float(weight) for _, weight in found)


def _write(model: Any, mapping: Mapping[str, Any], base: Path, target: Path) -> None:
    """The model's weights under the names and in the shapes of the base's file."""
    import jax
    from flax import nnx
    from safetensors import safe_open
    from safetensors.numpy import save_file
    from tunix.models.safetensors_loader import path_to_key
    from tunix.utils.torch_utils import torch_key_to_jax_key

    leaves = jax.tree.leaves_with_path(nnx.state(model, nnx.Param).to_pure_dict())
    values = {path_to_key(path): np.asarray(leaf, np.float32) for path, leaf in leaves}
    tensors = {}
    with safe_open(base, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            key, change = torch_key_to_jax_key(mapping, name)
            tensors[name] = _turned_back(values[key], change[0] if change else None, file.get_slice(name).get_shape())
    save_file(tensors, target, metadata={"format": "pt"})


def _turned_back(value: np.ndarray, permuted: tuple[int, ...] | None, shape: list[int]) -> np.ndarray:
    if permuted is None:
        return value.reshape(shape)
    inverse = np.argsort(permuted)
    return np.ascontiguousarray(value.reshape([shape[axis] for axis in permuted]).transpose(inverse))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
