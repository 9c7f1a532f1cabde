"""The splits of a run as token ids, and what became of their rows, told before anything is trained."""

from collections.abc import Iterator, Sequence

from tunix_rt_common.datasets import DatasetRow, Split
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.specs import PREFERENCE_METHODS, SftSpec
from tunix_rt_trainer.engine.examples import EncodedRows, encode_rows
from tunix_rt_trainer.engine.loop import TrainingData
from tunix_rt_trainer.engine.tokenise import Tokenised, tokenise
from tunix_rt_trainer.inputs import Description
from tunix_rt_trainer.tokencache import TokenCache
from tunix_rt_trainer.voice import Voice


def encode_splits(voice: Voice, described: Description, cache: TokenCache) -> TrainingData:
    """Encode both splits; a validation split without a usable row is left out, and that is told.

    Raises:
        InvalidInput: no training row is left, or the model cannot take a row that the spec allows.
    """
    train = _encode(voice, described, cache, "train", described.train_rows)
    if unknown := train.report.unknown_step_types:
        voice.story("unknown_step_types", f"step_weights names types that no row has: {', '.join(unknown)}")
    if not described.validation_rows:
        return TrainingData(train)
    try:
        return TrainingData(train, _encode(voice, described, cache, "validation", described.validation_rows))
    except UnusableData as error:
        voice.story("no_validation", f"no validation loss will be reported: {error}")
        return TrainingData(train)


def _encode(
    voice: Voice, described: Description, cache: TokenCache, split: Split, rows: Sequence[DatasetRow]
) -> EncodedRows:
    encoded = encode_rows(rows, _tokenised(described, cache, split, rows), described.spec, described.config)
    report = encoded.report
    story = "; ".join(_story(split, encoded, described))
    voice.story("encoded", story, split=split, rows=report.rows, kept=report.kept, dropped=report.dropped)
    return encoded


def _tokenised(described: Description, cache: TokenCache, split: Split, rows: Sequence[DatasetRow]) -> Tokenised:
    """The split as token ids, which are made once for all runs that read it so."""
    spec, digests = described.spec, described.digests
    source = {
        "dataset": digests.dataset_sha256,
        "split": split,
        "tokenizer": digests.tokenizer_sha256,
        "target": spec.target,
        "pairs": spec.method in PREFERENCE_METHODS,
        "step_weights": spec.step_weights if isinstance(spec, SftSpec) else None,
    }
    return cache.get(source, lambda: tokenise(rows, described.tokenizer, described.template, spec))


def _story(split: Split, encoded: EncodedRows, described: Description) -> Iterator[str]:
    """What became of a split, in phrases."""
    report, spec = encoded.report, described.spec
    yield f"{split}: {report.kept} of {report.rows} rows, {report.trained_tokens} trained tokens"
    if spec.packs_rows:
        yield f"packed into {len(encoded.packs)} sequences, {report.fill:.0%} full"
    if report.dropped_unpaired:
        yield f"{report.dropped_unpaired} rows have no rejected answer and are dropped"
    if report.dropped_alike:
        yield f"{report.dropped_alike} pairs say the same twice to target {spec.target!r} and are dropped"
    if dropped := report.dropped_long:
        shown = ", ".join(map(str, dropped[:20])) + (" …" if len(dropped) > 20 else "")
        limit = min(spec.max_tokens, described.config.max_positions)
        yield f"{len(dropped)} rows are longer than {limit} tokens and dropped: {shown}"
