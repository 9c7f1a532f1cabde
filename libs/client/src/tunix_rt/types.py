"""What the API answers, typed. Fields that this version does not know are ignored, so a newer server is understood."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from tunix_rt_common.reports import FileEntry
from tunix_rt_common.traces import Trace

TERMINAL_STATES = frozenset({"succeeded", "failed", "quarantined", "cancelled"})


class Answer(BaseModel):
    """Base of all answers: immutable, lenient about what is new."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class TraceAccepted(Answer):
    """A stored trace; `duplicate` when it was there already."""

    trace_id: str
    content_sha256: str
    duplicate: bool


class StoredTrace(Answer):
    """A trace with its id."""

    trace_id: str
    content_sha256: str
    source: str | None
    created_at: datetime
    trace: Trace


class RejectedLine(Answer):
    """A line that was not imported, and why; lines count from 1."""

    line: int
    error: str


class ImportOutcome(Answer):
    """What became of an import; `rejected` is cut at the server's limit, `rejected_count` is not."""

    accepted: int
    duplicates: int
    rejected_count: int
    rejected: Sequence[RejectedLine]


class Dataset(Answer):
    """A dataset version; the digests are there once its build has succeeded."""

    dataset_id: str
    name: str
    version: int
    state: str
    failure: str | None
    dataset_sha256: str | None
    manifest_sha256: str | None
    spec: Mapping[str, Any]
    created_at: datetime


class SplitCounts(Answer):
    """Rows of a split, how many different prompts they have, and how many are preference pairs."""

    rows: int
    groups: int
    pairs: int = 0


class Manifest(Answer):
    """What a built dataset holds."""

    splits: Mapping[str, SplitCounts]
    shards: Sequence[Mapping[str, Any]]
    statistics: Mapping[str, Any]
    provenance: Mapping[str, Any]


class DatasetDetail(Dataset):
    """A dataset version with its manifest, which is None until it is built."""

    manifest: Manifest | None


class PreviewRow(Answer):
    """One row as a model will see it; `segments` tell which parts of the text the loss counts."""

    row_id: str
    split: str
    text: str
    segments: Sequence[Mapping[str, Any]]


class Run(Answer):
    """A run as lists show it; `bundle_sha256` is set where it was trained elsewhere and imported."""

    run_id: str
    state: str
    stage: str
    project: str
    dataset: str
    base_model: str
    model_name: str
    bundle_sha256: str | None = None
    step: int
    total_steps: int | None
    failure: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in TERMINAL_STATES


class Job(Answer):
    """One stage of a run."""

    job_id: str
    kind: str
    state: str
    attempt: int
    step: int
    total_steps: int | None
    failure_class: str | None
    failure: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Checkpoint(Answer):
    """A published checkpoint."""

    step: int
    manifest_sha256: str
    size_bytes: int
    created_at: datetime


class RunDetail(Run):
    """A run with everything that was asked, pinned and made."""

    spec: Mapping[str, Any]
    pins: Mapping[str, Any]
    jobs: Sequence[Job]
    checkpoints: Sequence[Checkpoint]
    training: Mapping[str, Any] | None
    evaluation_id: str | None
    decision: str | None
    reason: str | None
    model_version: int | None


class Memory(Answer):
    """What lies in the device's memory while a step runs, by part, in bytes."""

    weights_bytes: int
    moments_bytes: int
    gradients_bytes: int
    batch_bytes: int
    activations_bytes: int
    checkpoint_copy_bytes: int
    loading_bytes: int


class SplitPlan(Answer):
    """What becomes of a split's rows; of those that are too long the first are named, by their numbers from 1."""

    rows: int
    kept: int
    dropped: int
    dropped_long: int
    dropped_long_rows: Sequence[int]
    limit_tokens: int
    longest_tokens: int
    sequences: int
    tokens: int
    trained_tokens: int
    fill: float


class Remedy(Answer):
    """Settings under which the run would fit, and what that costs."""

    settings: Mapping[str, int | str]
    needed_bytes: int
    dropped: int


class Refusal(Answer):
    """Why the run cannot be, and what would help, where anything does."""

    message: str
    remedy: Remedy | None


class Plan(Answer):
    """A run in numbers; `seconds` assumes `utilisation` of `flops_per_s`, and is None where that is not known."""

    device: str
    devices: int
    parameters: int
    trained_parameters: int
    memory: Memory
    needed_bytes: int
    available_bytes: int
    checkpoint_bytes: int
    checkpoints: int
    model_bytes: int
    train: SplitPlan
    validation: SplitPlan | None
    steps: int
    longest_padded_tokens: int
    tokens: int
    trained_tokens: int
    flops: float
    flops_per_s: float | None
    utilisation: float
    seconds: float | None
    refusal: Refusal | None


class PlannedRun(Answer):
    """A plan that was asked for; `plan` is there once `state` is succeeded, also where it is a refusal."""

    plan_id: str
    state: str
    progress: str | None
    failure: str | None
    plan: Plan | None
    spec: Mapping[str, Any]
    created_at: datetime
    finished_at: datetime | None


class Event(Answer):
    """One line of a run's story."""

    event_id: int
    at: datetime
    stage: str
    attempt: int
    kind: str
    from_state: str | None
    to_state: str | None
    message: str
    detail: Mapping[str, Any]


class Metric(Answer):
    """What one optimizer step measured."""

    step: int
    at: datetime
    numbers: Mapping[str, float | None]


class Log(Answer):
    """A piece of what a stage wrote."""

    log_id: int
    at: datetime
    job_id: str
    attempt: int
    stream: str
    text: str


class SpanLink(Answer):
    """A span that another one refers to: an earlier attempt."""

    trace_id: str
    span_id: str


class Span(Answer):
    """What one service did; `offset_s` is its start after that of the trace, `depth` how many spans are around it.

    `status` is `ok`, `error`, or, for an attempt without a span of its own, `running` or `lost`.
    """

    span_id: str
    parent_span_id: str | None
    name: str
    service: str
    started_at: datetime
    duration_s: float
    offset_s: float
    depth: int
    status: str
    attributes: Mapping[str, Any]
    links: Sequence[SpanLink]


class RunTrace(Answer):
    """Where a run's time went: its spans depth first, and by start below one parent."""

    trace_id: str | None
    started_at: datetime | None
    duration_s: float
    spans: Sequence[Span]


class Interval(Answer):
    """A two-sided confidence interval."""

    low: float
    high: float
    confidence: float


class Score(Answer):
    """How many of the scored items are correct; no accuracy where nothing was scored."""

    correct: int
    scored: int
    unscored: int
    accuracy: float | None
    interval: Interval | None


class Evaluation(Answer):
    """A report in short."""

    evaluation_id: str
    run_id: str
    judge: str
    eval_set_sha256: str
    model_sha256: str
    report_sha256: str
    score: Score
    decision: str
    reason: str
    created_at: datetime


class ServedModel(Answer):
    """An OpenAI-compatible server, and the name under which it serves the weights that were judged."""

    url: str
    model: str


class EvaluationDetail(Evaluation):
    """With the scores by section, category and difficulty, and the gate's whole verdict.

    `endpoint` is the server that answered; None where it was the evaluator's own engine.
    """

    slices: Mapping[str, Mapping[str, Score]]
    endpoint: ServedModel | None = None
    verdict: Mapping[str, Any]


class Item(Answer):
    """One prompt, what the model answered, and what the judge said of it."""

    item_id: str
    prompt: str
    expected: str
    prediction: str | None
    outcome: str
    extracted: str | None
    reason: str
    finish_reason: str | None
    section: str | None
    category: str | None
    difficulty: str | None


class LeaderboardRow(Answer):
    """A registered version with its score; rows with another `eval_set_sha256` are not comparable."""

    rank: int
    model: str
    version: int
    aliases: Sequence[str]
    score: Score
    decision: str
    judge: str
    eval_set_sha256: str
    evaluation_id: str
    run_id: str
    created_at: datetime
    provenance: Mapping[str, Any]


class Model(Answer):
    """A model: its newest version, and which version holds which alias."""

    name: str
    latest_version: int
    aliases: Mapping[str, int]


class ModelFile(FileEntry):
    """One file of a version; its path is checked to stay below the folder that it is written to."""

    model_config = ConfigDict(extra="ignore")


class ModelVersion(Answer):
    """A version with its files and full provenance."""

    name: str
    version: int
    aliases: Sequence[str]
    manifest_sha256: str
    files: Sequence[ModelFile]
    run_id: str
    evaluation_id: str | None
    decision: str | None
    reason: str | None
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    created_at: datetime

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)


class Alias(Answer):
    """Where an alias points."""

    name: str
    alias: str
    version: int
