"""The reasoning-trace record: prompt, numbered steps, final answer, and perhaps a worse answer to the same prompt.

Two traces are the same when prompt, steps, final answer and rejected answer are: `meta` and `trace_version` do not
count, so a corpus imported twice, or from two places, is stored once.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MAX_PROMPT_CHARS = 50_000
MAX_ANSWER_CHARS = 50_000
MAX_STEP_CHARS = 20_000
MAX_STEPS = 1_000
MAX_META_BYTES = 65_536


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character, which no database stores as text: remove it")
    return text


def _texts(value: object) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        members = chain.from_iterable(value.items()) if isinstance(value, dict) else value
        yield from chain.from_iterable(map(_texts, members))


class TraceRecord(BaseModel):
    """Base of the record's parts: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Step(TraceRecord):
    """One step of the reasoning; `type` is the author's word for it (setup, calculation, verify, …)."""

    i: Annotated[int, Field(ge=0, strict=True)]
    type: Annotated[str, Field(min_length=1, max_length=64)]
    content: Annotated[str, Field(min_length=1, max_length=MAX_STEP_CHARS)]

    @field_validator("type", "content")
    @classmethod
    def _holds_no_nul(cls, text: str) -> str:
        return _storable(text)


def _says_something(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank: give it some text")
    return _storable(text)


def _in_order(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    if len({step.i for step in steps}) != len(steps):
        raise ValueError("two steps have the same i: number each step once")
    return tuple(sorted(steps, key=lambda step: step.i))


Steps = Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS), AfterValidator(_in_order)]
FinalAnswer = Annotated[str, Field(min_length=1, max_length=MAX_ANSWER_CHARS), AfterValidator(_says_something)]


class Answer(TraceRecord):
    """The steps to an answer, and the answer."""

    steps: Steps
    final_answer: FinalAnswer

    def says(self) -> tuple[str, ...]:
        """What is written in it, whatever its steps are called."""
        return (*(step.content for step in self.steps), self.final_answer)


Rejected = Annotated[Answer | None, Field(exclude_if=lambda rejected: rejected is None)]
"""The answer that people liked less. Left out of every document where there is none."""


class Trace(TraceRecord):
    """A prompt, the steps that lead to its answer, and the answer; with `rejected`, a preference pair."""

    trace_version: Annotated[str, Field(min_length=1, max_length=64)] = "1.0"
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS), AfterValidator(_says_something)]
    steps: Steps
    final_answer: FinalAnswer
    meta: dict[str, Any] | None = None
    rejected: Rejected = None

    @field_validator("trace_version")
    @classmethod
    def _version_holds_no_nul(cls, text: str) -> str:
        return _storable(text)

    @field_validator("meta")
    @classmethod
    def _meta_is_small(cls, meta: dict[str, Any] | None) -> dict[str, Any] | None:
        if meta is None:
            return None
        for text in _texts(meta):
            _storable(text)
        if len(canonical_json(meta)) > MAX_META_BYTES:
            raise ValueError(
                f"is larger than {MAX_META_BYTES} bytes of JSON: keep bulky data elsewhere and refer to it"
            )
        return meta

    @field_validator("rejected")
    @classmethod
    def _sides_differ(cls, rejected: Answer | None, info: ValidationInfo) -> Answer | None:
        if rejected and {"steps", "final_answer"} <= info.data.keys():
            chosen = Answer.model_construct(steps=info.data["steps"], final_answer=info.data["final_answer"])
            if rejected.says() == chosen.says():
                raise ValueError("says the same as the trace itself: give two different answers, or leave it out")
        return rejected

    def with_rejected_answer(self) -> "Trace | None":
        """The trace of the same prompt with the answer that was liked less; None where there is none."""
        if self.rejected is None:
            return None
        return Trace(prompt=self.prompt, steps=self.rejected.steps, final_answer=self.rejected.final_answer)

    def content_sha256(self) -> str:
        """Hex sha256 of the canonical JSON of what the trace says (prompt, steps, final answer, rejected answer)."""
        said = self.model_dump(include={"prompt", "steps", "final_answer", "rejected"})
        return hashlib.sha256(canonical_json(said)).hexdigest()

    def prompt_sha256(self) -> str:
        """Hex sha256 of the prompt with outer white space removed: the group that a split keeps together."""
        return hashlib.sha256(self.prompt.strip().encode()).hexdigest()


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value (sorted keys, no spaces, UTF-8): what digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
