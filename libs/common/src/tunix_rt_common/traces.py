"""The reasoning-trace record: prompt, numbered steps, final answer.

Two traces are the same when prompt, steps and final answer are: `meta` and `trace_version` do not count, so a corpus
imported twice, or from two places, is stored once.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

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


class Trace(TraceRecord):
    """A prompt, the steps that lead to its answer, and the answer."""

    trace_version: Annotated[str, Field(min_length=1, max_length=64)] = "1.0"
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS)]
    final_answer: Annotated[str, Field(min_length=1, max_length=MAX_ANSWER_CHARS)]
    meta: dict[str, Any] | None = None

    @field_validator("trace_version")
    @classmethod
    def _version_holds_no_nul(cls, text: str) -> str:
        return _storable(text)

    @field_validator("prompt", "final_answer")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("is blank: give it some text")
        return _storable(text)

    @field_validator("steps")
    @classmethod
    def _indices_are_unique(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        if len({step.i for step in steps}) != len(steps):
            raise ValueError("two steps have the same i: number each step once")
        return tuple(sorted(steps, key=lambda step: step.i))

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

    def content_sha256(self) -> str:
        """Hex sha256 of the canonical JSON of what the trace says (prompt, steps, final answer)."""
        said = self.model_dump(include={"prompt", "steps", "final_answer"})
        return hashlib.sha256(canonical_json(said)).hexdigest()

    def prompt_sha256(self) -> str:
        """Hex sha256 of the prompt with outer white space removed: the group that a split keeps together."""
        return hashlib.sha256(self.prompt.strip().encode()).hexdigest()


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value (sorted keys, no spaces, UTF-8): what digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
