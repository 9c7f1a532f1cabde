from itertools import count

from tunix_rt_common.chat import DEFAULT_TEMPLATE, ChatTemplate
from tunix_rt_common.datasets import DatasetRow, row_from_trace
from tunix_rt_common.preview import MAX_PREVIEW_CHARS, preview
from tunix_rt_common.traces import Trace

TEMPLATE = ChatTemplate(DEFAULT_TEMPLATE, "<s>", "</s>")


def row(number: int, working: str = "because") -> DatasetRow:
    record = {
        "prompt": f"{number}=",
        "steps": [{"i": 0, "type": "a", "content": working}],
        "final_answer": str(number),
    }
    return row_from_trace(Trace.model_validate(record))


def test_preview_shows_text_and_what_of_it_is_trained():
    assert preview({"train": [row(7)]}, TEMPLATE, "trace") == [
        {
            "row_id": row(7).row_id,
            "split": "train",
            "text": "<s>Question: 7=\nAnswer:\n<think>\nbecause\n</think>\n7</s>",
            "segments": [
                {"text": "<s>Question: 7=\nAnswer:\n", "trained": False},
                {"text": "<think>\nbecause\n</think>\n7</s>", "trained": True},
            ],
        }
    ]


def test_preview_takes_the_first_rows_of_each_split_and_reads_no_further():
    endless = (row(number) for number in count())
    shown = preview({"train": endless, "test": [row(9)]}, TEMPLATE, "answer", rows_per_split=2)
    assert [(part["split"], part["row_id"]) for part in shown] == [
        ("train", row(0).row_id),
        ("train", row(1).row_id),
        ("test", row(9).row_id),
    ]
    assert next(endless) == row(2)


def test_long_text_is_cut_and_its_segments_with_it():
    [shown] = preview({"train": [row(1, "x" * 9_000)]}, TEMPLATE, "trace")
    assert len(shown["text"]) == MAX_PREVIEW_CHARS
    assert "".join(part["text"] for part in shown["segments"]) == shown["text"]


def test_segment_beyond_the_cut_is_left_out():
    long_prompt = row_from_trace(row(1).trace().model_copy(update={"prompt": "x" * 9_000}))
    [shown] = preview({"train": [long_prompt]}, TEMPLATE, "trace")
    assert [part["trained"] for part in shown["segments"]] == [False]
