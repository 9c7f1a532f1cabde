"""PEFT's adapter directories, as far as their files tell without JAX: the configuration, and which tensors fit a base.

A base is known by its kernels: the module path of each projection in Hugging Face's names, such as
model.layers.0.self_attn.q_proj, with its inputs and outputs.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.safetensors_header import Tensors, check_shapes
from tunix_rt_common.specs import LoraSpec

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
ADAPTER_FOLDER = "adapter"
"""Where the adapter lies in the directory of a model that it has been merged into."""

Kernels = Mapping[str, tuple[int, int]]

_TARGETS: tuple[str, ...] = LoraSpec().targets
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
_EXPECTED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "init_lora_weights": (True, False, "gaussian", None),
    "use_rslora": (True, False, None),
}
_READ = {"r", "lora_alpha", "target_modules"}


def read_adapter_config(document: Mapping[str, Any]) -> LoraSpec:
    """Return the adapter's rank, alpha, targets and scaling.

    Raises:
        UnusableModel: it is malformed, or something is switched on that would change the arithmetic.
    """
    for name, expected in _EXPECTED.items():
        if document.get(name) not in expected:
            raise _unsupported(name, document.get(name))
    for name in set(document) - _HARMLESS - _READ - set(_EXPECTED):
        if document[name]:
            raise _unsupported(name, document[name])
    rank, alpha, targets = document.get("r"), document.get("lora_alpha"), document.get("target_modules")
    if type(rank) is not int or rank < 1:
        raise UnusableModel(f"{ADAPTER_CONFIG}: r is {rank!r}, not a positive whole number: correct the file")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < float("inf"):
        raise UnusableModel(f"{ADAPTER_CONFIG}: lora_alpha is {alpha!r}, not a positive number: correct the file")
    if not isinstance(targets, list) or not targets:
        raise UnusableModel(f"{ADAPTER_CONFIG}: target_modules is {targets!r}: list the projections by name")
    if unknown := [target for target in targets if target not in _TARGETS]:
        raise UnusableModel(
            f"{ADAPTER_CONFIG}: unknown target {unknown[0]!r}: this runtime adapts {', '.join(_TARGETS)}"
        )
    return _spec(rank, float(alpha), tuple(targets), rslora=bool(document.get("use_rslora")))


def adapter_config(spec: LoraSpec, base_name: str) -> dict[str, Any]:
    """Return what adapter_config.json says of an adapter; `base_name` names the base model."""
    return {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": spec.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": spec.rank,
        "target_modules": sorted(spec.targets),
        "task_type": "CAUSAL_LM",
        "use_rslora": spec.rslora,
    }


def kernels_of(tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Return the projections of a model's weight files, by their headers alone; they are stored [outputs, inputs]."""
    shapes = {name.removesuffix(".weight"): shape for name, (_, shape) in tensors.items() if name.endswith(".weight")}
    return {path: (shape[1], shape[0]) for path, shape in shapes.items() if len(shape) == 2 and _target(path)}


def adapter_shapes(spec: LoraSpec, kernels: Kernels) -> dict[str, tuple[int, ...]]:
    """Return the tensors of an adapter for a base, by name: A is [rank, inputs], B is [outputs, rank]."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, (inputs, outputs) in kernels.items():
        if _target(path) in spec.targets:
            shapes[f"base_model.model.{path}.lora_A.weight"] = (spec.rank, inputs)
            shapes[f"base_model.model.{path}.lora_B.weight"] = (outputs, spec.rank)
    return shapes


def check_adapter(found: Tensors, spec: LoraSpec, kernels: Kernels) -> None:
    """Refuse an adapter whose tensors are not those that a base of these kernels needs."""
    check_rank(spec, kernels)
    check_shapes(ADAPTER_WEIGHTS, found, adapter_shapes(spec, kernels))


def check_rank(spec: LoraSpec, kernels: Kernels) -> None:
    """Refuse a rank above a dimension of a kernel that is adapted."""
    for path, (inputs, outputs) in kernels.items():
        if _target(path) in spec.targets and spec.rank > min(inputs, outputs):
            raise UnusableModel(
                f"LoRA rank {spec.rank} exceeds {_target(path)}, which is {inputs} x {outputs}: use at most "
                f"{min(inputs, outputs)}",
                field="train.lora.rank",
            )


def _target(path: str) -> str | None:
    name = path.rpartition(".")[2]
    return name if name in _TARGETS else None


def _spec(rank: int, alpha: float, targets: tuple[str, ...], *, rslora: bool) -> LoraSpec:
    try:
        return LoraSpec.model_validate({"rank": rank, "alpha": alpha, "targets": targets, "rslora": rslora})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "target_modules"
        raise UnusableModel(f"{ADAPTER_CONFIG}: {field} is beyond what this runtime takes: {first['msg']}") from error


def _unsupported(name: str, value: object) -> UnusableModel:
    return UnusableModel(
        f"{ADAPTER_CONFIG}: {name} {value!r} is not supported: merge the adapter with PEFT and load the model"
    )
