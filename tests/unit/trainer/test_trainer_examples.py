import numpy as np
import pytest

from tunix_rt_common.chat import DEFAULT_TEMPLATE, ChatTemplate, Segment, conversation
from tunix_rt_common.datasets import row_from_trace
from tunix_rt_common.errors import InvalidInput, UnusableData, UnusableModel
from tunix_rt_common.specs import DpoSpec, SftSpec
from tunix_rt_common.traces import Answer, Step, Trace
from tunix_rt_modeling.config import PRESETS
from tunix_rt_modeling.tokenizer import byte_tokenizer
from tunix_rt_trainer.engine.examples import encode_rows
from tunix_rt_trainer.engine.tokenise import encode_segments, tokenise

TOKENIZER = byte_tokenizer()
TEMPLATE = ChatTemplate(DEFAULT_TEMPLATE, TOKENIZER.bos_token or "", TOKENIZER.eos_token)
TINY = PRESETS["tiny"]


def row(prompt="What is 2 + 2?", thought="two and two", answer="4"):
    steps = (Step(i=0, type="calculation", content=thought),)
    return row_from_trace(Trace(prompt=prompt, steps=steps, final_answer=answer))


def encode(rows, config=TINY, **fields):
    spec = SftSpec(**fields)
    return encode_rows(rows, tokenise(rows, TOKENIZER, TEMPLATE, spec), spec, config)


@pytest.mark.parametrize("target", ["trace", "answer"])
def test_completion_and_its_end_are_trained_and_the_prompt_is_not(target):
    encoded = encode([row(prompt="Größe?")], target=target)
    prompt, reply = conversation(row(prompt="Größe?").trace(), target, TEMPLATE)
    token_ids, mask = encoded.token_ids[0], encoded.loss_weights[0] > 0
    assert TOKENIZER.decode(token_ids[~mask].tolist()) == prompt.text
    assert TOKENIZER.decode(token_ids[mask].tolist()) == reply.text
    assert token_ids[-1] == TOKENIZER.eos_id
    assert mask[-1]


def test_tokens_are_those_of_the_whole_text():
    encoded = encode([row()])
    whole = "".join(segment.text for segment in conversation(row().trace(), "trace", TEMPLATE))
    assert encoded.token_ids[0].tolist() == TOKENIZER.encode(whole)


def test_token_across_a_boundary_belongs_to_the_segment_in_which_it_starts():
    class PairTokenizer:
        """Every two characters are one token."""

        def encode_with_offsets(self, text):
            starts = range(0, len(text), 2)
            return [ord(text[start]) for start in starts], [(start, min(start + 2, len(text))) for start in starts]

    segments = (Segment("abc", trained=False), Segment("defg", trained=True))
    token_ids, weights = encode_segments(segments, PairTokenizer())
    assert [chr(token) for token in token_ids] == ["a", "c", "e", "g"]
    assert weights.tolist() == [0, 0, 1, 1]


def test_rows_that_are_too_long_are_dropped_and_named_by_number():
    rows = [row(), row(thought="x" * 300), row(prompt="again?"), row(thought="y" * 300)]
    encoded = encode(rows, max_tokens=200)
    report = encoded.report
    assert (report.rows, report.kept, report.dropped_long) == (4, 2, (2, 4))
    assert encoded.row_ids == (rows[0].row_id, rows[2].row_id)
    assert report.tokens == sum(map(len, encoded.token_ids))
    assert report.trained_tokens == sum(int(mask.sum()) for mask in encoded.loss_weights)


def test_packing_puts_short_rows_together_and_says_how_full_it_gets():
    rows = [row(), row(thought="x" * 200), row(prompt="again?")]
    alone, packed = encode(rows, max_tokens=512), encode(rows, max_tokens=512, packing=True)
    assert (len(alone.packs), len(packed.packs)) == (3, 1)
    assert packed.report.fill == 3 * alone.report.fill == alone.report.tokens / 512


def test_row_beyond_the_positions_of_the_model_is_refused_unless_max_tokens_drops_it():
    short = TINY.model_copy(update={"max_positions": 100})
    rows = [row(), row(thought="x" * 100)]
    longest = encode(rows, max_tokens=512).report.longest
    with pytest.raises(InvalidInput, match=f"row 2 .* has {longest} tokens: 512 are allowed, .* at most 100") as caught:
        encode(rows, config=short, max_tokens=512)
    assert caught.value.field == "train.max_tokens"
    report = encode(rows, config=short, max_tokens=100).report
    assert (report.dropped_long, report.longest) == ((2,), longest)
    assert encode(rows, config=short, max_tokens=longest - 1).report.dropped_long == (2,)


def test_split_whose_rows_are_all_too_long_is_refused_with_the_length_needed():
    rows = [row(thought="x" * size) for size in (300, 200)]
    needed = len(encode(rows[1:]).token_ids[0])
    with pytest.raises(UnusableData, match=f"max_tokens to at least {needed}") as caught:
        encode(rows, max_tokens=64)
    assert f"row 2 ({rows[1].row_id}) has {needed}" in str(caught.value)


def test_split_without_rows_is_refused():
    with pytest.raises(UnusableData, match="add traces"):
        encode([])


def test_tokenizer_of_another_model_is_refused():
    with pytest.raises(UnusableModel, match=r"writes token 262.*258 tokens"):
        encode([row()], config=TINY.model_copy(update={"vocab_size": 258}))


def test_arrays_are_small():
    encoded = encode([row()])
    assert (encoded.token_ids[0].dtype, encoded.loss_weights[0].dtype) == (np.int32, np.float32)


def weight_of(encoded, text):
    """The weights of the tokens that spell `text`, which occurs once; the tokenizer writes bytes."""
    token_ids = encoded.token_ids[0].tolist()
    wanted = TOKENIZER.encode(text)
    [start] = [place for place in range(len(token_ids)) if token_ids[place : place + len(wanted)] == wanted]
    return set(encoded.loss_weights[0][start : start + len(wanted)].tolist())


def test_steps_weigh_what_their_type_does_and_everything_else_one():
    contents = {"setup": "take two apples", "verify": "two is right", "result": "so two"}
    steps = tuple(Step(i=i, type=kind, content=text) for i, (kind, text) in enumerate(contents.items()))
    rows = [row_from_trace(Trace(prompt="How many?", steps=steps, final_answer="TWO"))]
    encoded = encode(rows, step_weights={"verify": 2.5, "setup": 0.0, "missing": 3.0, "absent": 1.0})
    assert weight_of(encoded, "How many?") == {0}
    assert weight_of(encoded, contents["setup"]) == {0}
    assert weight_of(encoded, contents["verify"]) == {2.5}
    assert weight_of(encoded, contents["result"]) == weight_of(encoded, "TWO") == {1}
    assert encoded.report.unknown_step_types == ("absent", "missing")
    assert encoded.report.trained_tokens == encode(rows).report.trained_tokens - len(contents["setup"])


def pair(answer="4", other="5", thought="two and two", doubt="hm"):
    rejected = Answer(steps=(Step(i=0, type="guess", content=doubt),), final_answer=other)
    return row_from_trace(row(thought=thought, answer=answer).trace().model_copy(update={"rejected": rejected}))


def encode_pairs(rows, **fields):
    spec = DpoSpec(method="dpo", **fields)
    return encode_rows(rows, tokenise(rows, TOKENIZER, TEMPLATE, spec), spec, TINY)


def test_pair_is_two_conversations_that_begin_alike():
    encoded = encode_pairs([pair()])
    assert (encoded.paired, encoded.examples, len(encoded.packs)) == (True, 1, 2)
    chosen, rejected = (TOKENIZER.decode(ids.tolist()) for ids in encoded.token_ids)
    assert chosen == "".join(segment.text for segment in conversation(row().trace(), "trace", TEMPLATE))
    assert rejected == chosen.replace("two and two", "hm").replace("\n4", "\n5")
    assert encoded.row_ids == (pair().row_id,) * 2


def test_rows_that_are_no_usable_pair_are_dropped_and_counted():
    rows = [row(), pair(), pair(doubt="x" * 300), pair(other="4")]
    report = encode_pairs(rows, max_tokens=200, target="answer").report
    assert (report.kept, report.dropped_unpaired, report.dropped_alike, report.dropped_long) == (2, 1, 1, ())
    report = encode_pairs(rows, max_tokens=200).report
    assert (report.kept, report.dropped_unpaired, report.dropped_alike, report.dropped_long) == (2, 1, 0, (3,))
    assert report.dropped == 2


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([row()], {}, r"none of 1 rows is a pair .*1 have no rejected answer"),
        ([pair(other="4")], {"target": "answer"}, "1 say the same twice"),
        ([pair(doubt="x" * 300)], {"max_tokens": 64}, "max_tokens to at least 3"),
    ],
)
def test_split_without_a_usable_pair_is_refused(rows, fields, message):
    with pytest.raises(UnusableData, match=message):
        encode_pairs(rows, **fields)
