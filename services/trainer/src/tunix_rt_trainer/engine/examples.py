"""Dataset rows to token ids and loss masks.

The whole conversation is tokenised as one text, so that training sees exactly the tokens that serving will see; which
of them are trained follows from character offsets, never from tokenising the parts alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32

from tunix_rt_common.chat import ChatTemplate, Segment, conversation
from tunix_rt_common.datasets import DatasetRow
from tunix_rt_common.errors import UnusableData, UnusableModel
from tunix_rt_common.specs import SftSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.tokenizer import Tokenizer
from tunix_rt_trainer.engine.packing import Packs, best_fit, one_each

ROWS_NAMED_IN_ERRORS = 5


@dataclass(frozen=True)
class EncodingReport:
    """What became of a split. `dropped_long` holds row numbers, counted from 1 in the order given.

    `fill` is the share of tokens in the sequences that rows lie in, were each padded to `max_tokens`.
    """

    rows: int
    kept: int
    dropped_long: tuple[int, ...]
    tokens: int
    trained_tokens: int
    fill: float


@dataclass(frozen=True)
class EncodedRows:
    """The kept rows, in the order given: one array of each kind per row, all at their own length.

    `packs` says which of them share a sequence.
    """

    row_ids: tuple[str, ...]
    token_ids: tuple[Int32[np.ndarray, " tokens"], ...]
    loss_masks: tuple[Bool[np.ndarray, " tokens"], ...]
    report: EncodingReport
    packs: Packs


def encode_rows(
    rows: Sequence[DatasetRow], tokenizer: Tokenizer, template: ChatTemplate, spec: SftSpec, config: ModelConfig
) -> EncodedRows:
    """Encode a split, dropping rows that are longer than `spec.max_tokens` or the model's context.

    Raises:
        UnusableData: no row is left.
        UnusableModel: the tokenizer makes tokens that the model has no embedding for.
    """
    max_tokens = min(spec.max_tokens, config.max_positions)
    encoded = [encode_segments(conversation(row.trace(), spec.target, template), tokenizer) for row in rows]
    _refuse_unknown_tokens((token_ids for token_ids, _ in encoded), config.vocab_size)
    fits = [len(token_ids) <= max_tokens for token_ids, _ in encoded]
    kept = [pair for pair, fit in zip(encoded, fits, strict=True) if fit]
    if not kept:
        raise _nothing_left(rows, [len(token_ids) for token_ids, _ in encoded], max_tokens)
    lengths = [len(token_ids) for token_ids, _ in kept]
    packs = best_fit(lengths, max_tokens) if spec.packing else one_each(len(kept))
    return EncodedRows(
        row_ids=tuple(row.row_id for row, fit in zip(rows, fits, strict=True) if fit),
        token_ids=tuple(token_ids for token_ids, _ in kept),
        loss_masks=tuple(mask for _, mask in kept),
        report=EncodingReport(
            rows=len(rows),
            kept=len(kept),
            dropped_long=tuple(number for number, fit in enumerate(fits, start=1) if not fit),
            tokens=sum(lengths),
            trained_tokens=sum(int(mask[1:].sum()) for _, mask in kept),
            fill=sum(lengths) / (len(packs) * max_tokens),
        ),
        packs=packs,
    )


def encode_segments(
    segments: Sequence[Segment], tokenizer: Tokenizer
) -> tuple[Int32[np.ndarray, " tokens"], Bool[np.ndarray, " tokens"]]:
    """Token ids of the joined text, and for each token whether its first character lies in a trained segment."""
    token_ids, offsets = tokenizer.encode_with_offsets("".join(segment.text for segment in segments))
    trained_chars = np.repeat(
        [segment.trained for segment in segments] + [False], [len(segment.text) for segment in segments] + [1]
    )
    starts = np.array([start for start, _ in offsets], dtype=np.int64)
    return np.array(token_ids, dtype=np.int32), trained_chars[starts]


def _refuse_unknown_tokens(rows: Iterable[Int32[np.ndarray, " tokens"]], vocab_size: int) -> None:
    largest = max((int(token_ids.max(initial=0)) for token_ids in rows), default=0)
    if largest >= vocab_size:
        raise UnusableModel(
            f"the tokenizer writes token {largest}, but the model has embeddings for {vocab_size} tokens: "
            "give the model's own tokenizer, or a model whose vocab_size fits",
            field="base_model",
        )


def _nothing_left(rows: Sequence[DatasetRow], lengths: Sequence[int], max_tokens: int) -> UnusableData:
    if not rows:
        return UnusableData("the split has no rows: add traces to the dataset, or widen its filters", field="dataset")
    named = ", ".join(
        f"row {number} ({row.row_id}) has {length}"
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True), start=1)
        if number <= ROWS_NAMED_IN_ERRORS
    )
    more = f" and {len(rows) - ROWS_NAMED_IN_ERRORS} more" if len(rows) > ROWS_NAMED_IN_ERRORS else ""
    return UnusableData(
        f"all {len(rows)} rows are longer than {max_tokens} tokens: {named}{more}. Raise max_tokens to at least "
        f"{min(lengths)} (a model's context is its upper limit), choose a model with a longer context, or "
        "shorten the traces",
        field="max_tokens",
    )
