"""What a model will read: the first rows of each split, rendered, with what is trained on marked."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypedDict

from tunix_rt_common.chat import ChatTemplate, Segment, conversation
from tunix_rt_common.datasets import DatasetRow, Split
from tunix_rt_common.specs import Target

MAX_PREVIEW_CHARS = 2_000


class PreviewSegment(TypedDict):
    """A piece of the text, and whether the loss counts it."""

    text: str
    trained: bool


class PreviewRow(TypedDict):
    """One rendered row; its segments joined are its text, cut at MAX_PREVIEW_CHARS characters."""

    row_id: str
    split: Split
    text: str
    segments: list[PreviewSegment]


def preview(
    rows: Mapping[Split, Iterable[DatasetRow]], template: ChatTemplate, target: Target, *, rows_per_split: int = 5
) -> list[PreviewRow]:
    """Render the first rows of each split; no more of an iterable is read than is shown.

    Raises:
        InvalidInput: the chat template fails.
    """
    return [
        _rendered(row, split, conversation(row.trace(), target, template))
        for split, of_split in rows.items()
        for row in islice(of_split, rows_per_split)
    ]


def _rendered(row: DatasetRow, split: Split, segments: Iterable[Segment]) -> PreviewRow:
    shown = list(_cut(segments))
    return {"row_id": row.row_id, "split": split, "text": "".join(part["text"] for part in shown), "segments": shown}


def _cut(segments: Iterable[Segment]) -> Iterator[PreviewSegment]:
    left = MAX_PREVIEW_CHARS
    for segment in segments:
        text = segment.text[:left]
        left -= len(text)
        if text:
            yield {"text": text, "trained": segment.trained}
