"""Dataset rows to token ids and the weights of their losses.

The whole conversation is tokenised as one text, so that training sees exactly the tokens that serving will see; which
of them are trained, and how much they count, follows from character offsets, never from tokenising the parts alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from tunix_rt_common.chat import ChatTemplate, Segment, conversation, split_by_steps
from tunix_rt_common.datasets import DatasetRow
from tunix_rt_common.specs import PREFERENCE_METHODS, SftSpec, TrainSpec
from tunix_rt_common.traces import Trace
from tunix_rt_modeling.tokenizer import Tokenizer


class Encoded(NamedTuple):
    """A conversation: its tokens, and how much the loss of each counts; 0 where it is not trained."""

    token_ids: Int32[np.ndarray, " tokens"]
    loss_weights: Float32[np.ndarray, " tokens"]


Tokenised = Sequence[tuple[Encoded, ...]]
"""Each row: itself, or a chosen and a rejected answer; nothing where a pair is wanted and there is none."""


def tokenise(rows: Sequence[DatasetRow], tokenizer: Tokenizer, template: ChatTemplate, spec: TrainSpec) -> Tokenised:
    """What the spec's method reads of each row.

    Raises:
        InvalidInput: the chat template fails.
    """
    return [tuple(_encode(row, tokenizer, template, spec)) for row in rows]


def encode_segments(
    segments: Sequence[Segment], tokenizer: Tokenizer, step_weights: Mapping[str, float] | None = None
) -> Encoded:
    """Token ids of the joined text, each with the weight of the segment in which its first character lies.

    A trained segment weighs 1, or what `step_weights` says of its step's type; any other weighs 0.
    """
    given = step_weights or {}
    weights = [given.get(segment.step_type or "", 1.0) if segment.trained else 0.0 for segment in segments]
    token_ids, offsets = tokenizer.encode_with_offsets("".join(segment.text for segment in segments))
    lengths = [len(segment.text) for segment in segments]
    of_chars = np.repeat(np.array([*weights, 0.0], np.float32), [*lengths, 1])
    starts = np.array([start for start, _ in offsets], dtype=np.int64)
    return Encoded(np.array(token_ids, dtype=np.int32), of_chars[starts])


def _encode(row: DatasetRow, tokenizer: Tokenizer, template: ChatTemplate, spec: TrainSpec) -> Iterator[Encoded]:
    step_weights = spec.step_weights if isinstance(spec, SftSpec) else None
    for trace in _sides(row.trace(), spec):
        prompt, reply = conversation(trace, spec.target, template)
        pieces = split_by_steps(reply, trace, spec.target) if step_weights else (reply,)
        yield encode_segments((prompt, *pieces), tokenizer, step_weights)


def _sides(trace: Trace, spec: TrainSpec) -> tuple[Trace, ...]:
    """What a row is to be read as: itself, or a chosen and a rejected answer; nothing where the one is missing."""
    if spec.method not in PREFERENCE_METHODS:
        return (trace,)
    rejected = trace.with_rejected_answer()
    return (trace, rejected) if rejected else ()
