from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunix_rt.synthetic import arithmetic_traces
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.traces import Trace

RESULT = {"+": lambda left, right: left + right, "-": lambda left, right: left - right}


def numbers(prompt: str, operation: str) -> tuple[int, int]:
    left, right = prompt.removesuffix("=").split(operation)
    return int(left), int(right)


@given(st.integers(0, 2**31 - 1), st.integers(1, 9), st.sampled_from([("+",), ("-",), ("+", "-")]))
def test_every_record_is_a_valid_trace_with_right_arithmetic(seed, digits, operations):
    for record in arithmetic_traces(10, seed, digits, operations):
        trace = Trace.model_validate(record)
        operation = trace.meta["operation"]
        left, right = numbers(trace.prompt, operation)
        assert trace.final_answer == str(RESULT[operation](left, right))
        *columns, assembled = trace.steps
        assert int(assembled.content) == int(trace.final_answer)
        for step in columns:
            terms, result = step.content.split("=")
            first, second, carry = map(int, terms.split(operation))
            assert RESULT[operation](RESULT[operation](first, second), carry) == int(result)


def first_with(predicate, **arguments):
    return next(record for record in arithmetic_traces(5000, 0, **arguments) if predicate(record))


def test_sum_is_written_column_by_column():
    record = first_with(lambda record: record["meta"]["category"] == "3 carries")
    left, right = numbers(record["prompt"], "+")
    assert [step["type"] for step in record["steps"]] == ["column"] * 3 + ["carry", "assemble"]
    assert record["steps"][0]["content"] == f"{left % 10}+{right % 10}+0={left % 10 + right % 10}"
    assert record["steps"][3]["content"] == "0+0+1=1"
    assert record["steps"][4]["content"] == record["final_answer"]
    assert record["meta"] == {
        "source": "synthetic-arithmetic",
        "operation": "+",
        "digits": 3,
        "category": "3 carries",
        "difficulty": "hard",
        "seed": 0,
    }


def test_difference_borrows_and_drops_leading_zeros_from_the_answer_only():
    record = first_with(lambda record: len(record["final_answer"]) == 1, operations=("-",))
    assert record["steps"][-1]["content"] == record["final_answer"].zfill(3)


def test_difficulty_grows_with_carries():
    seen = {(record["meta"]["category"], record["meta"]["difficulty"]) for record in arithmetic_traces(500, 1)}
    assert seen == {("0 carries", "easy"), ("1 carry", "medium"), ("2 carries", "hard"), ("3 carries", "hard")}


def test_same_arguments_give_the_same_records():
    assert list(arithmetic_traces(50, 7)) == list(arithmetic_traces(50, 7))
    assert list(arithmetic_traces(50, 7)) != list(arithmetic_traces(50, 8))


@pytest.mark.parametrize(("operation", "space"), [("+", 100), ("-", 55)])
def test_prompts_are_distinct_until_the_space_is_spent(operation, space):
    prompts = [record["prompt"] for record in arithmetic_traces(2 * space, 3, digits=1, operations=(operation,))]
    assert len(set(prompts[:space])) == len(set(prompts)) == space


def test_operations_take_turns():
    operations = [record["meta"]["operation"] for record in arithmetic_traces(5, 0, operations=("+", "-"))]
    assert operations == ["+", "-", "+", "-", "+"]


def test_records_are_made_as_they_are_asked_for():
    assert len(list(islice(arithmetic_traces(1_000_000, 0, digits=9), 3))) == 3


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"count": -1}, "count"),
        ({"digits": 0}, "digits"),
        ({"digits": 10}, "digits"),
        ({"operations": ()}, "operations"),
        ({"operations": ("*",)}, "operations"),
        ({"operations": ("+", "+")}, "operations"),
    ],
)
def test_unusable_argument_is_refused_at_the_call(arguments, field):
    with pytest.raises(InvalidInput) as refused:
        arithmetic_traces(**({"count": 1, "seed": 0} | arguments))
    assert refused.value.field == field
