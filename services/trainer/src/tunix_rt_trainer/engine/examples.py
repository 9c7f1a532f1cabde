"""Which of a split's rows are trained on, and the sequences that they lie in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int, Int32

from tunix_rt_common.datasets import DatasetRow
from tunix_rt_common.errors import InvalidInput, UnusableData, UnusableModel
from tunix_rt_common.specs import PREFERENCE_METHODS, SftSpec, TrainSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_trainer.engine.packing import Packs, best_fit, one_each
from tunix_rt_trainer.engine.tokenise import Encoded, Tokenised

ROWS_NAMED_IN_ERRORS = 5


@dataclass(frozen=True)
class EncodingReport:
    """What became of a split. `dropped_long` holds row numbers, counted from 1 in the order given.

    `fill` is the share of tokens in the sequences that rows lie in, were each padded to `max_tokens`; `longest` counts
    the tokens of the longest row, dropped or not. Of preference data, `dropped_unpaired` counts rows without a rejected
    answer, `dropped_alike` pairs that say the same in the part that is trained. `unknown_step_types` are those that
    weights were given for and no kept row has.
    """

    rows: int
    kept: int
    dropped_long: tuple[int, ...]
    tokens: int
    trained_tokens: int
    fill: float
    longest: int
    dropped_unpaired: int = 0
    dropped_alike: int = 0
    unknown_step_types: tuple[str, ...] = ()

    @property
    def dropped(self) -> int:
        """Rows that are not trained on."""
        return self.rows - self.kept


@dataclass(frozen=True)
class EncodedRows:
    """The kept rows, in the order given: one array of each kind per row, all at their own length.

    `packs` says which of them share a sequence. Of a `paired` row there are two: the chosen answer, then the rejected
    one, each a sequence; `reference` is then their log-probability before training, where the method asks for it.
    """

    row_ids: tuple[str, ...]
    token_ids: tuple[Int32[np.ndarray, " tokens"], ...]
    loss_weights: tuple[Float32[np.ndarray, " tokens"], ...]
    report: EncodingReport
    packs: Packs
    paired: bool = False
    reference: Float32[np.ndarray, " sequences"] | None = None

    @property
    def examples(self) -> int:
        """How many there are to learn from: sequences, or pairs of them."""
        return len(self.packs) // 2 if self.paired else len(self.packs)

    def sequences(self, examples: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " sequences"]:
        """The numbers of the sequences that examples consist of, those of a pair side by side."""
        return np.stack([2 * examples, 2 * examples + 1], axis=1).reshape(-1) if self.paired else examples


def encode_rows(rows: Sequence[DatasetRow], tokenised: Tokenised, spec: TrainSpec, config: ModelConfig) -> EncodedRows:
    """A tokenised split without the rows that are longer than `spec.max_tokens`, packed where the spec asks for it.

    A method that learns from preferences also drops rows that are no pair, or no pair of different texts.

    Raises:
        InvalidInput: a row has more tokens than the model has positions, and no more than `spec.max_tokens`.
        UnusableData: no row is left.
        UnusableModel: the tokenizer makes tokens that the model has no embedding for.
    """
    max_tokens = min(spec.max_tokens, config.max_positions)
    paired = spec.method in PREFERENCE_METHODS
    _refuse_unknown_tokens(tokenised, config.vocab_size)
    _refuse_beyond_positions(rows, tokenised, spec, config)
    faults = [_fault(sides, max_tokens, paired=paired) for sides in tokenised]
    kept = [(row, sides) for row, sides, fault in zip(rows, tokenised, faults, strict=True) if fault is None]
    if not kept:
        raise _nothing_left(rows, tokenised, faults, max_tokens)
    sides = [(row.row_id, side) for row, sides in kept for side in sides]
    lengths = [len(side.token_ids) for _, side in sides]
    packs = best_fit(lengths, max_tokens) if spec.packs_rows else one_each(len(sides))
    return EncodedRows(
        row_ids=tuple(row_id for row_id, _ in sides),
        token_ids=tuple(side.token_ids for _, side in sides),
        loss_weights=tuple(side.loss_weights for _, side in sides),
        report=EncodingReport(
            rows=len(rows),
            kept=len(kept),
            dropped_long=tuple(number for number, fault in enumerate(faults, start=1) if fault == "long"),
            tokens=sum(lengths),
            trained_tokens=sum(int((side.loss_weights[1:] > 0).sum()) for _, side in sides),
            fill=sum(lengths) / (len(packs) * max_tokens),
            longest=max(map(_length, tokenised)),
            dropped_unpaired=faults.count("unpaired"),
            dropped_alike=faults.count("alike"),
            unknown_step_types=_unknown_step_types(spec, [row for row, _ in kept]),
        ),
        packs=packs,
        paired=paired,
    )


def _length(sides: Sequence[Encoded]) -> int:
    """Tokens of a row: those of its longer side."""
    return max((len(side.token_ids) for side in sides), default=0)


_Fault = Literal["long", "unpaired", "alike"]


def _fault(sides: Sequence[Encoded], max_tokens: int, *, paired: bool) -> _Fault | None:
    """Why a row cannot be trained on."""
    if not sides:
        return "unpaired"
    if _length(sides) > max_tokens:
        return "long"
    return "alike" if paired and np.array_equal(sides[0].token_ids, sides[1].token_ids) else None


def _unknown_step_types(spec: TrainSpec, rows: Sequence[DatasetRow]) -> tuple[str, ...]:
    weighted = set(spec.step_weights or ()) if isinstance(spec, SftSpec) else set()
    return tuple(sorted(weighted - {step.type for row in rows for step in row.steps}))


def _refuse_unknown_tokens(rows: Tokenised, vocab_size: int) -> None:
    largest = max((int(side.token_ids.max(initial=0)) for sides in rows for side in sides), default=0)
    if largest >= vocab_size:
        raise UnusableModel(
            f"the tokenizer writes token {largest}, but the model has embeddings for {vocab_size} tokens: "
            "give the model's own tokenizer, or a model whose vocab_size fits",
            field="base_model",
        )


def _refuse_beyond_positions(
    rows: Sequence[DatasetRow], tokenised: Tokenised, spec: TrainSpec, config: ModelConfig
) -> None:
    """What the spec allows is never dropped silently because the model cannot see it."""
    for number, (row, sides) in enumerate(zip(rows, tokenised, strict=True), start=1):
        if config.max_positions < _length(sides) <= spec.max_tokens:
            raise InvalidInput(
                f"row {number} ({row.row_id}) has {_length(sides)} tokens: {spec.max_tokens} are allowed, but the "
                f"model has {config.max_positions} positions. Set max_tokens to at most {config.max_positions}, which "
                "drops and counts such rows, or choose a model with a longer context",
                field="train.max_tokens",
            )


def _nothing_left(
    rows: Sequence[DatasetRow],
    tokenised: Tokenised,
    faults: Sequence[_Fault | None],
    max_tokens: int,
) -> UnusableData:
    if not rows:
        return UnusableData("the split has no rows: add traces to the dataset, or widen its filters", field="dataset")
    if "long" not in faults:
        return UnusableData(
            f"none of {len(rows)} rows is a pair of different answers ({faults.count('unpaired')} have no rejected "
            f"answer, {faults.count('alike')} say the same twice): import traces with `rejected`, or train with sft",
            field="dataset",
        )
    long = [
        (number, row.row_id, _length(sides))
        for number, (row, sides, fault) in enumerate(zip(rows, tokenised, faults, strict=True), start=1)
        if fault == "long"
    ]
    named = ", ".join(f"row {number} ({row_id}) has {length}" for number, row_id, length in long[:ROWS_NAMED_IN_ERRORS])
    more = f" and {len(long) - ROWS_NAMED_IN_ERRORS} more" if len(long) > ROWS_NAMED_IN_ERRORS else ""
    return UnusableData(
        f"all {len(long)} rows are longer than {max_tokens} tokens: {named}{more}. Raise max_tokens to at least "
        f"{min(length for *_, length in long)} (a model's context is its upper limit), choose a model with a longer "
        "context, or shorten the traces",
        field="max_tokens",
    )
