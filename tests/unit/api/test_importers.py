import json
import os
from pathlib import Path

import pytest

from tunix_rt_api.traces.importers import import_trace
from tunix_rt_api.traces.ndjson import Rejection, parse_trace_line
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.traces import MAX_STEP_CHARS, MAX_STEPS, Trace

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "tests/data/traces"
SHARED = Path(os.environ.get("TUNIX_RT_SHARED_DATA", ROOT.parent / "shared/data"))


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {SHARED}: set TUNIX_RT_SHARED_DATA to the folder that has it")
    return path


def chat(*turns: tuple[str, object], **more: object) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


def pair(chosen: tuple[str, str], rejected: tuple[str, str], **more: object) -> dict:
    sides = {"chosen": chosen, "rejected": rejected}
    chats = {side: chat(("user", asked), ("assistant", reply))["messages"] for side, (asked, reply) in sides.items()}
    return {**chats, **more}


def said(trace: Trace) -> list[str]:
    return [step.content for step in trace.steps]


def refusal(record: dict, trace_format: str = "auto") -> str:
    with pytest.raises(InvalidInput) as refused:
        import_trace(record, trace_format)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("trace_format", ["auto", "native"])
def test_native_records_come_through_unchanged(trace_format):
    for record in rows(SAMPLES / "native.jsonl"):
        assert import_trace(record, trace_format).model_dump(mode="json") == record


def test_native_record_with_an_unknown_key_is_refused_by_name():
    record = rows(SAMPLES / "native.jsonl")[0] | {"score": 1}
    assert refusal(record) == "score: is not a field of a trace: remove it, or move it under meta"


def test_refusals_are_short_and_repeat_no_input():
    steps = [{"i": "SECRET" * 1000, "type": "a", "content": "b"}] * 9
    message = refusal({"prompt": "p", "steps": steps, "final_answer": "x", "K" * 100_000: 1})
    assert len(message) < 500
    assert "SECRET" not in message
    assert message.endswith("and 8 more")


def test_gsm8k_row_becomes_steps_without_calculator_marks():
    trace = import_trace(rows(SAMPLES / "gsm8k.jsonl")[0], "gsm8k")
    assert trace.prompt.startswith("Natalia sold clips")
    assert said(trace) == [
        "Natalia sold 48/2 = 24 clips in May.",
        "Natalia sold 48+24 = 72 clips altogether in April and May.",
    ]
    assert {step.type for step in trace.steps} == {"calculation"}
    assert trace.final_answer == "72"
    assert trace.meta is None


def test_gsm8k_answer_keeps_its_thousands_comma():
    assert import_trace(rows(SAMPLES / "gsm8k.jsonl")[-1], "auto").final_answer == "1,080"


def test_gsm8k_row_without_working_has_its_answer_as_the_step():
    assert said(import_trace({"question": "1+1?", "answer": "#### 2"}, "gsm8k")) == ["2"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("It is 2.", "answer: the last line is not '#### ANSWER'"),
        ("So:\n####  ", "answer: nothing follows ####"),
        (" \n ", "answer: is blank"),
        (2, "answer: is not text"),
    ],
)
def test_gsm8k_row_without_an_answer_line_is_refused(answer, message):
    assert message in refusal({"question": "1+1?", "answer": answer})


def test_chat_with_a_think_block_becomes_steps_and_answer():
    trace = import_trace(rows(SAMPLES / "messages.jsonl")[0], "messages")
    assert trace.prompt == "Answer in one word.\n\nCapital of France?"
    assert said(trace) == ["France is a country.", "Its capital is Paris."]
    assert trace.final_answer == "Paris"


def test_chat_in_text_parts_without_a_think_block_ends_with_its_marked_answer():
    trace = import_trace(rows(SAMPLES / "messages.jsonl")[1], "auto")
    assert trace.prompt == "What is 3 * 4?"
    assert said(trace) == ["Three fours.", "3 * 4 = 12"]
    assert trace.final_answer == "12"
    assert trace.meta == {"id": "m-2"}


def test_earlier_turns_are_told_apart_in_the_prompt_and_lose_their_reasoning():
    record = chat(
        ("system", "Be kind."),
        ("user", "1+1?"),
        ("assistant", "<think>\nhm\n</think>\n2"),
        ("user", "+1?"),
        ("assistant", "3"),
    )
    assert import_trace(record, "messages").prompt == "Be kind.\n\nUser: 1+1?\n\nAssistant: 2\n\nUser: +1?"


@pytest.mark.parametrize(
    ("reply", "steps", "answer"),
    [
        ("42", ["42"], "42"),
        ("six sevens\n\n42", ["six sevens"], "42"),
        ("six sevens\n#### 42", ["six sevens"], "42"),
        ("six sevens\nFinal answer: 42", ["six sevens"], "42"),
        ("<think>\na\nb\n\nc\n</think>\n\n42", ["a\nb", "c"], "42"),
        ("<think>\n\n</think>\n42", ["42"], "42"),
        ("a\nb</think>42", ["a", "b"], "42"),
        ("Sure. <think>a</think> 42", ["a"], "Sure.  42"),
    ],
)
def test_completion_is_split_into_steps_and_answer(reply, steps, answer):
    trace = import_trace({"prompt": "6*7", "completion": reply}, "prompt-completion")
    assert (said(trace), trace.final_answer) == (steps, answer)


@pytest.mark.parametrize("trace_format", ["auto", "preference"])
def test_preferences_are_read_as_text_and_as_chats(trace_format):
    traces = [import_trace(record, trace_format) for record in rows(SAMPLES / "preference.jsonl")]
    assert [(trace.prompt, trace.final_answer) for trace in traces] == [
        ("What is 6 * 7?", "42"),
        ("Capital of France?", "Paris"),
        ("Be short.\n\n1+1?", "2"),
        ("2+2?", "4"),
    ]
    rejected = [trace.rejected.says() for trace in traces if trace.rejected]
    assert rejected == [("six and seven", "13"), ("Lyon", "Lyon"), ("One and one", "make 2"), ("5", "5")]
    assert [trace.meta for trace in traces] == [{"score_chosen": 9.0}, None, None, None]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (chat(("user", "a"), ("tool", "b"), ("assistant", "c")), "messages.1.role: is unknown"),
        (chat(("user", "a"), ("assistant", "b"), ("user", "c")), "messages: the last one is not the assistant's"),
        (chat(("system", "a"), ("assistant", "b")), "messages: no user message"),
        (chat(("user", "a"), ("assistant", [{"type": "image"}])), "messages.1.content: is neither text"),
        (chat(("user", "a"), ("assistant", None)), "messages.1.content: is neither text"),
        (chat(("user", "a"), ("assistant", " \n")), "messages: the reply is blank"),
        (chat(("user", "a"), ("assistant", "<think>b")), "messages: <think> is never closed"),
        (chat(("user", "a"), ("assistant", "<think>b</think> ")), "messages: nothing follows </think>"),
        (chat(("user", " "), ("assistant", "b")), "prompt: "),
        ({"messages": "hello"}, "messages: is not a list"),
        ({"messages": ["hello"]}, "messages.0: is not an object"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": []}]}, "messages.0.tool_calls: is not supported"),
        ({"prompt": "a", "chosen": "b"}, "rejected: is missing"),
        ({"prompt": "a", "rejected": "b"}, "completion: is missing"),
        ({"prompt": "a", "chosen": "b", "rejected": 5}, "rejected: is not text"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "rejected: says the same as the trace itself"),
        ({"prompt": "a", "chosen": "b\nc", "rejected": " b\n\nc"}, "rejected: says the same as the trace itself"),
        ({"chosen": "b", "rejected": "c"}, "prompt: is missing"),
        ({"prompt": "a", "chosen": [], "rejected": "c"}, "chosen: is not a list"),
        (pair(("a", "b"), ("other", "c")), "rejected: answers another prompt than chosen"),
        (pair(("a", "b"), ("a", "c"), prompt="other"), "prompt: is not what chosen and rejected reply to"),
        (pair(("a", "b"), ("a", "<think>c")), "rejected: <think> is never closed"),
        ({"prompt": "a", "answer": "b", "meta": 3}, "meta: is not an object"),
        ({"prompt": "a", "final_answer": "b"}, "steps: is missing"),
        ({"text": "a"}, "fit no known format"),
    ],
)
def test_unusable_record_is_refused_by_field(record, message):
    assert refusal(record).startswith(message) or message in refusal(record)


def test_evaluation_row_keeps_its_other_keys_as_meta():
    trace = import_trace(rows(SAMPLES / "eval.jsonl")[0], "auto")
    assert (trace.prompt, trace.final_answer, said(trace)) == ("What is 15 + 27?", "42", ["42"])
    assert trace.steps[0].type == "answer"
    assert trace.meta == {"id": "eval-v2-001", "section": "core", "category": "arithmetic", "difficulty": "easy"}


def test_given_meta_is_joined_with_left_over_keys():
    record = {"prompt": "a", "answer": "b", "id": 7, "meta": {"source": "here"}}
    assert import_trace(record, "auto").meta == {"id": 7, "source": "here"}


def test_long_step_is_cut_at_white_space_and_loses_no_word():
    words = ["word"] * 10_000
    trace = import_trace({"prompt": "p", "completion": f"<think>{' '.join(words)}</think>x"}, "auto")
    assert max(map(len, said(trace))) <= MAX_STEP_CHARS
    assert " ".join(said(trace)).split() == words


def test_long_step_without_white_space_is_cut_anyway():
    trace = import_trace({"prompt": "p", "completion": f"<think>{'x' * 50_000}</think>x"}, "auto")
    assert "".join(said(trace)) == "x" * 50_000


def test_more_lines_than_steps_are_packed():
    lines = [f"line {number}" for number in range(3 * MAX_STEPS)]
    trace = import_trace({"prompt": "p", "completion": "\n".join([*lines, "end"])}, "auto")
    assert len(trace.steps) <= MAX_STEPS
    assert "\n".join(said(trace)).split("\n") == lines


@pytest.mark.parametrize(
    ("name", "trace_format", "count"),
    [
        ("gsm8k/train.jsonl", "gsm8k", 7473),
        ("gsm8k/test.jsonl", "auto", 1319),
        ("gsm8k/test_socratic.jsonl", "auto", 1319),
        ("tunix-rt/eval_v1.jsonl", "auto", 25),
        ("tunix-rt/eval_v2.jsonl", "prompt-completion", 100),
    ],
)
def test_public_corpora_are_accepted_whole(name, trace_format, count):
    results = [parse_trace_line(line, trace_format) for line in shared(name).read_bytes().splitlines()]
    assert [result for result in results if isinstance(result, Rejection)] == []
    assert len(results) == count


def test_earlier_systems_traces_are_accepted_unchanged():
    records = rows(shared("tunix-rt/dev-reasoning-v2.jsonl"))
    assert [import_trace(record, "auto").model_dump(mode="json") for record in records] == records
    assert len(records) == 550
