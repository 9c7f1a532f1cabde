"""What a run would need: the document that the trainer makes of a spec before anything is trained.

Memory is that of each device, in bytes.
"""

from typing import Annotated, Literal

from pydantic import Field

from tunix_rt_common.reports import Count, Document

NAMED_ROWS = 100
"""Dropped rows that a plan names; the others are counted."""
Setting = int | str
Positive = Annotated[float, Field(gt=0)]


class Memory(Document):
    """What lies in the device's memory while a step runs, by part.

    Weights, moments, gradients and the batch follow from their shapes; activations are all else that the compiler sets
    aside for the step, from its own analysis. `checkpoint_copy_bytes` is what a checkpoint adds while it is written,
    where the host's memory is the device's. `loading_bytes` is what weights take before the first step: more than later
    where a frozen base is kept in 4 bits, which is made of float32, a leaf at a time.
    """

    weights_bytes: Count
    moments_bytes: Count
    gradients_bytes: Count
    batch_bytes: Count
    activations_bytes: Count
    checkpoint_copy_bytes: Count
    loading_bytes: Count

    @property
    def needed_bytes(self) -> int:
        """All parts of a step together, or what loading takes where that is more."""
        step = self.weights_bytes + self.moments_bytes + self.gradients_bytes + self.batch_bytes
        return max(self.loading_bytes, step + self.activations_bytes + self.checkpoint_copy_bytes)


class SplitPlan(Document):
    """What becomes of a split's rows; those that are too long are numbered from 1 in the dataset's order.

    Others are dropped because a method that learns from pairs finds none in them. `fill` is the share of tokens in the
    sequences that rows lie in, were each padded to `limit_tokens`.
    """

    rows: Count
    kept: Count
    dropped: Count
    dropped_long: Count
    dropped_long_rows: Annotated[tuple[int, ...], Field(max_length=NAMED_ROWS)]
    limit_tokens: Count
    longest_tokens: Count
    sequences: Count
    tokens: Count
    trained_tokens: Count
    fill: float


class Remedy(Document):
    """Settings under which the run would fit, as the compiler has confirmed, and what that costs."""

    settings: dict[str, Setting]
    needed_bytes: Count
    dropped: Count


class Refusal(Document):
    """Why the run cannot be: what is needed, what there is, and what would help, where anything does."""

    message: str
    remedy: Remedy | None


class Plan(Document):
    """A run in numbers.

    `tokens` and `trained_tokens` are those of the whole run, padding excluded. `flops` counts the matrix products of
    training and validation; `seconds` is `flops` at `utilisation` (assumed) of `flops_per_s` (measured for a CPU, the
    maker's number for anything else) on all devices, without compiling, checkpoints and evaluation; None where that is
    not known.
    """

    schema_version: Literal["1"] = "1"
    device: str
    devices: Count
    parameters: Count
    trained_parameters: Count
    memory: Memory
    needed_bytes: Count
    available_bytes: Count
    checkpoint_bytes: Count
    checkpoints: Count
    model_bytes: Count
    train: SplitPlan
    validation: SplitPlan | None
    steps: Count
    longest_padded_tokens: Count
    tokens: Count
    trained_tokens: Count
    flops: Positive
    flops_per_s: Positive | None
    utilisation: Positive
    seconds: Positive | None
    refusal: Refusal | None
