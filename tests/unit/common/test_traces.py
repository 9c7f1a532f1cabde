import hashlib

import pytest
from pydantic import ValidationError

from tunix_rt_common.traces import MAX_META_BYTES, MAX_STEPS, Trace, canonical_json

REJECTED = {"steps": [{"i": 0, "type": "guess", "content": "so 3"}], "final_answer": "3"}
RECORD = {
    "prompt": "1+1=",
    "steps": [{"i": 1, "type": "result", "content": "so 2"}, {"i": 0, "type": "setup", "content": "add"}],
    "final_answer": "2",
}


def trace(**changes: object) -> Trace:
    return Trace.model_validate(RECORD | changes)


def test_steps_are_put_in_order_of_their_index():
    assert [step.content for step in trace().steps] == ["add", "so 2"]


def test_content_hash_is_of_what_the_trace_says_and_not_of_its_meta_or_version():
    same = trace(meta={"source": "elsewhere"}, trace_version="2.0", steps=RECORD["steps"][::-1])
    assert same.content_sha256() == trace().content_sha256()
    assert trace(final_answer="3").content_sha256() != trace().content_sha256()


def test_content_hash_counts_a_rejected_answer_only_where_there_is_one():
    said = {name: trace().model_dump()[name] for name in ("prompt", "steps", "final_answer")}
    assert trace().content_sha256() == hashlib.sha256(canonical_json(said)).hexdigest()
    pair = canonical_json({**said, "rejected": REJECTED})
    assert trace(rejected=REJECTED).content_sha256() == hashlib.sha256(pair).hexdigest()


def test_rejected_answer_is_left_out_of_documents_that_have_none():
    assert "rejected" not in trace().model_dump()
    assert "rejected" not in trace().model_dump_json()
    assert Trace.model_validate_json(trace(rejected=REJECTED).model_dump_json()) == trace(rejected=REJECTED)


def test_pair_holds_a_trace_with_the_rejected_answer_to_the_same_prompt():
    other = trace(rejected=REJECTED, meta={"source": "x"}).with_rejected_answer()
    assert other == Trace.model_validate({"prompt": "1+1=", **REJECTED})
    assert trace().with_rejected_answer() is None


def test_white_space_around_a_prompt_does_not_make_another_group():
    assert trace(prompt=" 1+1=\n").prompt_sha256() == trace().prompt_sha256()
    assert trace(prompt="1+2=").prompt_sha256() != trace().prompt_sha256()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": "a\x00"}, "prompt"),
        ({"final_answer": ""}, "final_answer"),
        ({"steps": []}, "steps"),
        ({"steps": RECORD["steps"][:1] * 2}, "steps"),
        ({"steps": [{"i": i, "type": "a", "content": "b"} for i in range(MAX_STEPS + 1)]}, "steps"),
        ({"steps": [{"i": "0", "type": "a", "content": "b"}]}, "steps"),
        ({"steps": [{"i": True, "type": "a", "content": "b"}]}, "steps"),
        ({"meta": {"big": "x" * MAX_META_BYTES}}, "meta"),
        ({"score": 1}, "score"),
        ({"rejected": {}}, "rejected"),
        ({"rejected": {**REJECTED, "prompt": "1+1="}}, "rejected"),
        ({"rejected": {**REJECTED, "final_answer": " "}}, "rejected"),
        ({"rejected": {**REJECTED, "steps": REJECTED["steps"] * 2}}, "rejected"),
        ({"rejected": {"steps": RECORD["steps"], "final_answer": "2"}}, "rejected"),
        ({"rejected": {"steps": [{**step, "type": "x"} for step in RECORD["steps"]], "final_answer": "2"}}, "rejected"),
    ],
)
def test_wrong_field_is_refused_by_name(changes, field):
    with pytest.raises(ValidationError) as refused:
        trace(**changes)
    assert refused.value.errors()[0]["loc"][0] == field


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert canonical_json({"b": 1, "a": "é"}) == canonical_json({"a": "é", "b": 1}) == '{"a":"é","b":1}'.encode()
