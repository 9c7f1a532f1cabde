"""What a user asks for: frozen, complete, refused at the door when wrong.

Every spec forbids unknown fields and non-finite numbers, and takes numbers for numbers only, so a typo, a NaN or a
"0.1" is a 422 that names the field, never a surprise an hour into a run.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    field_validator,
    model_validator,
)

from tunix_rt_common.endpoint import canonical_url

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="lower-case letters, digits, . _ -")]
Alias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{0,63}$", description="as a name, but not a number first")]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Target = Literal["trace", "answer"]
Preset = Literal["tiny", "small"]
PRESET_NAMES: tuple[Preset, ...] = get_args(Preset)
DeviceName = Literal[
    "cpu",
    "nvidia-h200",
    "nvidia-h100",
    "nvidia-a100-80gb",
    "nvidia-a100-40gb",
    "nvidia-l40s",
    "nvidia-l4",
    "nvidia-t4",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
    "tpu-v6e",
]
DEVICE_NAMES: tuple[DeviceName, ...] = get_args(DeviceName)
StepType = Annotated[str, Field(min_length=1, max_length=64)]
Weight = Annotated[StrictFloat, Field(ge=0, le=1e6)]
ModelReference = Annotated[str, Field(min_length=1, max_length=4096)]
Method = Literal["sft", "dpo", "orpo", "distill"]
PREFERENCE_METHODS: frozenset[Method] = frozenset({"dpo", "orpo"})
"""Those that learn from pairs of a chosen and a rejected answer."""


class Spec(BaseModel):
    """Base of all specs: immutable, strict about names and numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class LoraSpec(Spec):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): W + (alpha / rank) B A, only A and B train.

    With `rslora` the factor is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732). `base` says how the frozen
    kernels are kept: "nf4" takes 4.5 bits for a weight (QLoRA, Dettmers et al. 2023, arXiv:2305.14314). With `adapter`
    training continues from one, whose rank, alpha, targets and factor are taken.
    """

    rank: Annotated[StrictInt, Field(ge=1, le=1024)] = 8
    alpha: Annotated[StrictFloat, Field(gt=0, le=4096)] = 16.0
    targets: tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    rslora: StrictBool = False
    base: Literal["float32", "nf4"] = "float32"
    adapter: ModelReference | None = Field(
        None, description="a PEFT directory, or NAME@ALIAS or NAME@VERSION of a version with an adapter"
    )

    @model_validator(mode="after")
    def _targets_are_given_once(self) -> "LoraSpec":
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError("name at least one target, each once")
        return self

    @model_validator(mode="after")
    def _shape_is_given_once(self) -> "LoraSpec":
        own = [name for name in ("rank", "alpha", "targets", "rslora") if _is_changed(self, name)]
        if self.adapter is not None and own:
            raise ValueError(f"adapter {self.adapter[:200]!r} brings its own {' and '.join(own)}: leave that out")
        return self


def _is_changed(spec: Spec, name: str) -> bool:
    return bool(getattr(spec, name) != type(spec).model_fields[name].default)


class ScheduleSpec(Spec):
    """Linear warm-up to the learning rate, then cosine or linear decay to `final_fraction` of it, or constant."""

    kind: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 0
    final_fraction: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.1


class OptimizerSpec(Spec):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with clipping by global norm."""

    learning_rate: Annotated[StrictFloat, Field(gt=0, le=10)] = 1e-3
    schedule: ScheduleSpec = ScheduleSpec()
    beta1: Annotated[StrictFloat, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[StrictFloat, Field(ge=0, lt=1)] = 0.95
    epsilon: Annotated[StrictFloat, Field(gt=0, le=1e-2)] = 1e-8
    weight_decay: Annotated[StrictFloat, Field(ge=0, le=10)] = 0.0
    clip_norm: Annotated[StrictFloat, Field(gt=0, le=1e6)] = 1.0


class MeshSpec(Spec):
    """How a run's devices are laid out: `data` copies of the weights, each cut `fsdp` times, layers cut `tensor` times.

    The three multiply to the number of devices; `fsdp` takes what the others leave unless it is given.
    """

    data: Annotated[StrictInt, Field(ge=1, le=65_536)] = 1
    fsdp: Annotated[StrictInt, Field(ge=1, le=65_536)] | None = None
    tensor: Annotated[StrictInt, Field(ge=1, le=65_536)] = 1


class TrainSpec(Spec):
    """What all methods of training have in common.

    One optimizer step sees `batch_size` examples, in `accumulation` micro-batches; `epochs` or `max_steps` ends the
    run, whichever comes first. Rows longer than `max_tokens` (or the model's context) are dropped, counted and
    reported.

    `precision` is what matrix products run in, by itself bfloat16 on accelerators and float32 on a CPU; weights and
    moments are float32. `remat` is what the backward pass computes again to save memory: whole layers, all but their
    matrix products, or nothing.
    """

    method: Method
    engine: Literal["jax", "tunix"] = "jax"
    target: Target = "trace"
    epochs: Annotated[StrictFloat, Field(gt=0, le=10_000)] = 1.0
    max_steps: Annotated[StrictInt, Field(ge=1, le=10_000_000)] | None = None
    batch_size: Annotated[StrictInt, Field(ge=1, le=65_536)] = 32
    accumulation: Annotated[StrictInt, Field(ge=1, le=4096)] = 1
    max_tokens: Annotated[StrictInt, Field(ge=8, le=1_048_576)] = 512
    optimizer: OptimizerSpec = OptimizerSpec()
    lora: LoraSpec | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Literal["full", "dots", "none"] = "full"
    mesh: MeshSpec = MeshSpec()
    checkpoint_every: Annotated[StrictInt, Field(ge=1, le=10_000_000)] = 200
    validate_every: Annotated[StrictInt, Field(ge=1, le=10_000_000)] = 200
    seed: Seed = 0

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by accumulation {self.accumulation}: "
                "choose a divisor of the batch size"
            )
        shards = self.mesh.data * (self.mesh.fsdp or 1)
        if self.batch_size // self.accumulation % shards:
            raise ValueError(
                f"a micro-batch of {self.batch_size // self.accumulation} (batch_size {self.batch_size} / accumulation "
                f"{self.accumulation}) cannot be cut into {shards} equal parts, one for each of the mesh's data x fsdp "
                f"devices: choose a batch_size that is a multiple of {shards * self.accumulation}"
            )
        return self

    @property
    def packs_rows(self) -> bool:
        """Whether several rows may share a sequence."""
        return False


class PackableSpec(TrainSpec):
    """An example is a row, or with `packing` as many rows as fit into `max_tokens`, each seeing itself alone."""

    packing: StrictBool = False

    @property
    def packs_rows(self) -> bool:
        """Whether several rows may share a sequence."""
        return self.packing


class SftSpec(PackableSpec):
    """Supervised fine-tuning: next-token loss on the completion alone.

    `step_weights` says how much a token counts by the type of the step that it lies in; what it does not name counts 1.
    """

    method: Literal["sft"] = "sft"
    step_weights: dict[StepType, Weight] | None = Field(None, max_length=100)


class DpoSpec(TrainSpec):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290) on pairs of answers to one prompt.

    The reference is the run's base model, without an adapter. `label_smoothing` is the share of pairs that are thought
    to be the wrong way round (conservative DPO, Mitchell 2023).
    """

    method: Literal["dpo"]
    beta: Annotated[StrictFloat, Field(gt=0, le=100)] = 0.1
    label_smoothing: Annotated[StrictFloat, Field(ge=0, lt=0.5)] = 0.0


class OrpoSpec(TrainSpec):
    """Odds ratio preference optimization (Hong et al. 2024, arXiv:2403.07691): pairs of answers, and no reference.

    `ratio_weight` is the paper's lambda: how much the odds ratio counts beside the chosen answer's own loss.
    """

    method: Literal["orpo"]
    ratio_weight: Annotated[StrictFloat, Field(gt=0, le=100)] = 0.1


class DistillSpec(PackableSpec):
    """Distillation (Hinton et al. 2015, arXiv:1503.02531): the student learns the teacher's whole distribution.

    `alpha` is the share of the divergence from the teacher at `temperature`, the rest is the next-token loss.
    """

    method: Literal["distill"]
    teacher: ModelReference = Field(description="NAME@ALIAS or NAME@VERSION of the registry, or a model directory")
    temperature: Annotated[StrictFloat, Field(ge=0.05, le=100)] = 2.0
    alpha: Annotated[StrictFloat, Field(gt=0, le=1)] = 0.5

    @field_validator("teacher")
    @classmethod
    def _teacher_knows_something(cls, teacher: str) -> str:
        if teacher in PRESET_NAMES:
            raise ValueError(f"preset {teacher!r} has random weights to teach: name a trained model or its directory")
        return teacher


METHODS: Mapping[Method, type[TrainSpec]] = MappingProxyType(
    {"sft": SftSpec, "dpo": DpoSpec, "orpo": OrpoSpec, "distill": DistillSpec}
)


class _Chosen(BaseModel):
    method: Method = "sft"


def _by_method(value: object) -> object:
    """Read an object as the spec of its method alone, so that errors name fields as they were written."""
    if isinstance(value, dict):
        return METHODS[_Chosen.model_validate(value).method].model_validate(value)
    return value


Training = Annotated[
    SftSpec | DpoSpec | OrpoSpec | DistillSpec, Field(discriminator="method"), BeforeValidator(_by_method)
]
"""How to train; "sft" unless `method` says otherwise."""


class SamplingSpec(Spec):
    """How completions are drawn. Temperature 0 is greedy; top_k 0 and top_p 1 leave the distribution as it is."""

    max_new_tokens: Annotated[StrictInt, Field(ge=1, le=131_072)] = 256
    temperature: Annotated[StrictFloat, Field(ge=0, le=10)] = 0.0
    top_k: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 0
    top_p: Annotated[StrictFloat, Field(gt=0, le=1)] = 1.0
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    seed: Seed = 0


class EndpointSpec(Spec):
    """An OpenAI-compatible server (vLLM, SGLang) that answers in place of the evaluator's own engine.

    `url` is where its `/completions` lies. `model` is the name under which it serves the weights that are judged:
    `{model_sha256}` in it becomes their digest. An answer that takes longer than `timeout_s`, from the first look for
    the server to the last byte, failed; failed answers are asked for again, `retries` times.
    """

    url: Annotated[str, Field(max_length=2000), AfterValidator(canonical_url)]
    model: Annotated[str, Field(max_length=200)] = "{model_sha256}"
    concurrency: Annotated[StrictInt, Field(ge=1, le=256)] = 8
    timeout_s: Annotated[StrictFloat, Field(gt=0, le=3600)] = 120.0
    retries: Annotated[StrictInt, Field(ge=0, le=10)] = 5

    @model_validator(mode="after")
    def _model_says_whose_weights_answer(self) -> "EndpointSpec":
        if "{model_sha256}" not in self.model:
            raise ValueError(
                f"model {self.model!r} does not say whose weights answer: put {{model_sha256}} into it, and serve the "
                "model that is judged under that name"
            )
        return self


class EvalSpec(Spec):
    """On which rows a model is judged, how it answers, and who judges."""

    split: Literal["train", "validation", "test"] = "test"
    dataset: str | None = Field(None, description="NAME, NAME@VERSION or id; the run's own dataset unless given")
    limit: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    judge: Literal["answer_correctness@1"] = "answer_correctness@1"
    sampling: SamplingSpec = SamplingSpec()
    batch_size: Annotated[StrictInt, Field(ge=1, le=4096)] = 64
    cache_mib: Annotated[StrictInt, Field(ge=1, le=2**24)] | None = Field(
        None, description="memory for keys and values; what the device has free unless given"
    )
    endpoint: EndpointSpec | None = Field(None, description="who answers; the evaluator's own engine unless given")


class GatePolicy(Spec):
    """When a candidate may replace its baseline.

    GO needs the lower end of the paired difference's interval above `-margin`; NO-GO needs its upper end below it;
    anything else is INCONCLUSIVE, and so is a share of unscored items above `max_unscored`.
    """

    margin: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.02
    confidence: Annotated[StrictFloat, Field(gt=0.5, lt=1)] = 0.95
    min_items: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 20
    max_unscored: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.05
    min_accuracy: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.0


class DatasetSpec(Spec):
    """Which traces become a dataset version, and how they are split.

    All traces of one prompt land in one split. `limit` counts traces; `latest` takes the newest, `random` draws by
    `seed`, `all` keeps the order of arrival.
    """

    name: Name
    select: Literal["all", "random", "latest"] = "all"
    limit: Annotated[StrictInt, Field(ge=1, le=100_000_000)] | None = None
    filters: dict[str, str] = Field(default_factory=dict, description="source, or meta.KEY, to the value it must have")
    validation_fraction: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.05
    test_fraction: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.05
    rows_per_shard: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 10_000
    seed: Seed = 0

    @model_validator(mode="after")
    def _splits_fit(self) -> "DatasetSpec":
        if self.validation_fraction + self.test_fraction > 1:
            raise ValueError("validation_fraction and test_fraction add up to more than 1: lower one of them")
        for key in self.filters:
            if key != "source" and not key.startswith("meta."):
                raise ValueError(f"unknown filter {key!r}: use source, or meta.KEY")
        return self


class RunSpec(Spec):
    """One run: train a model on a dataset, judge it, gate it, register it.

    `base_model` is a preset, NAME@ALIAS or NAME@VERSION of the registry, or a Hugging Face directory. An adapter to
    continue from is named in `train.lora`.
    """

    dataset: str = Field(min_length=1, max_length=200, description="NAME, NAME@VERSION or id")
    base_model: ModelReference
    train: Training = SftSpec()
    evaluate: EvalSpec | None = EvalSpec()
    gate: GatePolicy = GatePolicy()
    model_name: Name | None = Field(None, description="registry name; the dataset's name unless given")
    alias: Alias = "champion"
    promote: StrictBool = Field(default=True, description="move the alias when the verdict is GO")
    project: Name = Field("default", description="whose run it is: projects share the workers fairly")
    priority: Annotated[StrictInt, Field(ge=-100, le=100)] = Field(0, description="within its project, higher is first")
    deadline_s: Annotated[StrictFloat, Field(gt=0, le=10 * 365 * 86_400)] | None = Field(
        None, description="the run fails unless it has ended this many seconds after it was accepted"
    )


class PlanSpec(RunSpec):
    """A run to be planned and not started, and the devices to plan it for: the trainer's own unless given.

    Of a named `device` there are as many as the mesh has, unless `devices` says so. `memory_gib` is what arrays may
    take on each, in the place of what is known of it.
    """

    device: DeviceName | None = None
    devices: Annotated[StrictInt, Field(ge=1, le=1024)] | None = None
    memory_gib: Annotated[StrictFloat, Field(gt=0, le=1_000_000)] | None = None
