"""Documents kept in the artifact store as canonical JSON: what was measured and decided, what a checkpoint holds.

They are written once, never edited, and known by the digest of their bytes; a database row points at the digest.
"""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tunix_rt_common.specs import GatePolicy, SamplingSpec
from tunix_rt_common.traces import canonical_json

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Decision = Literal["GO", "NO-GO", "INCONCLUSIVE"]
Dimension = Literal["section", "category", "difficulty"]


class Document(BaseModel):
    """Base of all documents: immutable, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ItemResult(Document):
    """One prompt, what the model answered, and what the judge said of it.

    `prediction` is None when generation gave nothing; `reason` is the judge's, or why the item is unscored; `group`
    is the prompt's sha256: items of one group are not independent.
    """

    item_id: str
    prompt: str
    expected: str
    prediction: str | None
    outcome: Literal["correct", "wrong", "unscored"]
    extracted: str | None
    reason: str
    finish_reason: str | None = None
    section: str | None = None
    category: str | None = None
    difficulty: str | None = None
    group: Sha256


class Interval(Document):
    """A two-sided confidence interval."""

    low: float
    high: float
    confidence: float


class Score(Document):
    """How many of the scored items are correct; accuracy and interval are None where nothing was scored."""

    correct: Count
    scored: Count
    unscored: Count
    accuracy: float | None
    interval: Interval | None


class EvalReport(Document):
    """One model's answers to one evaluation set under one judge."""

    schema_version: Literal["1"] = "1"
    model_sha256: Sha256
    dataset_sha256: Sha256
    split: str
    judge: str
    sampling: SamplingSpec
    items: tuple[ItemResult, ...]
    overall: Score
    slices: dict[Dimension, dict[str, Score]]
    eval_set_sha256: Sha256

    @field_validator("items")
    @classmethod
    def _ids_are_unique(cls, items: tuple[ItemResult, ...]) -> tuple[ItemResult, ...]:
        if len({item.item_id for item in items}) != len(items):
            raise ValueError("two items have the same item_id: models are compared item by item, so number each once")
        return items


class PairedDifference(Document):
    """Candidate against baseline on the `n` items scored in both.

    `difference` is the candidate's accuracy minus the baseline's; `interval` is around it, `p_value` tests it for 0.
    """

    n: Count
    both_correct: Count
    only_candidate: Count
    only_baseline: Count
    both_wrong: Count
    difference: float
    interval: Interval
    p_value: float


class Verdict(Document):
    """The gate's decision, with all that is needed to check it: who, on what, by which policy, and the numbers.

    `gained` and `lost` are the ids of the items that only the candidate, or only the baseline, got right.
    """

    decision: Decision
    reason: str
    candidate_sha256: Sha256
    baseline_sha256: Sha256 | None
    candidate_report_sha256: Sha256
    baseline_report_sha256: Sha256 | None
    eval_set_sha256: Sha256
    judge: str
    policy: GatePolicy
    paired: PairedDifference | None
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    minimum_detectable_difference: float | None


class FileEntry(Document):
    """One file of a checkpoint or model: its place below the root, and the blob that holds its bytes."""

    path: str
    sha256: Sha256
    size_bytes: Count

    @field_validator("path")
    @classmethod
    def _stays_below_the_root(cls, path: str) -> str:
        if not path or "\\" in path or "\x00" in path or path != str(PurePosixPath(path)):
            raise ValueError(f"{path!r} is not a plain path: write it like params/0.safetensors")
        if path == "." or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{path!r} leaves the checkpoint: paths are relative and without '..'")
        return path


class CheckpointManifest(Document):
    """The files of one checkpoint, and everything that has to match before it is used again."""

    schema_version: Literal["1"] = "1"
    run_id: str
    job_id: str
    step: Count
    files: tuple[FileEntry, ...]
    dataset_sha256: Sha256
    tokenizer_sha256: Sha256
    base_model_sha256: Sha256
    spec_sha256: Sha256
    versions: dict[str, str]
    device_kind: str
    xla_flags: str

    @field_validator("files")
    @classmethod
    def _paths_are_unique(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        if len({entry.path for entry in files}) != len(files):
            raise ValueError("two files have the same path: list each once")
        return files


def digest(document: BaseModel) -> str:
    """Hex sha256 of the document's canonical JSON, which is also the name of its blob."""
    return hashlib.sha256(canonical_json(document.model_dump(mode="json"))).hexdigest()


def eval_set_sha256(items: Iterable[ItemResult]) -> str:
    """Hex sha256 over the ordered ids, prompts and expected answers: equal digests mean the same questions."""
    asked = [[item.item_id, item.prompt, item.expected] for item in items]
    return hashlib.sha256(canonical_json(asked)).hexdigest()
