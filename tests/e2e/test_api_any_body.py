"""Whatever JSON is sent to whichever door, the answer is never an error of the server."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

VALID = {
    ("POST", "/api/v1/traces"): {
        "trace_version": "1.0",
        "prompt": "1+1=",
        "steps": [{"i": 0, "type": "sum", "content": "1+1=2"}],
        "final_answer": "2",
        "meta": {"category": "sums"},
    },
    ("POST", "/api/v1/datasets"): {
        "name": "any",
        "select": "random",
        "limit": 3,
        "filters": {"meta.category": "sums"},
        "validation_fraction": 0.1,
        "test_fraction": 0.2,
        "rows_per_shard": 2,
        "seed": 1,
    },
    ("POST", "/api/v1/runs"): {
        "dataset": "sums",
        "base_model": "tiny",
        "train": {
            "method": "sft",
            "engine": "jax",
            "target": "trace",
            "epochs": 1.5,
            "max_steps": 2,
            "batch_size": 4,
            "accumulation": 2,
            "max_tokens": 64,
            "optimizer": {"learning_rate": 0.001, "schedule": {"kind": "linear", "warmup_steps": 1}},
            "lora": {"rank": 2, "alpha": 4.0, "targets": ["q_proj"]},
            "seed": 3,
        },
        "evaluate": {"split": "test", "dataset": "sums", "limit": 5, "sampling": {"stop": ["x"], "top_p": 0.5}},
        "gate": {"margin": 0.1, "confidence": 0.9},
        "model_name": "any",
        "alias": "champion",
        "promote": True,
    },
    ("PUT", "/api/v1/models/sums/aliases/champion"): {"version": 1, "expected_version": None},
    ("POST", "/api/datasets/build"): {
        "dataset_name": "any",
        "dataset_version": "v1",
        "filters": {"category": "sums"},
        "limit": 10,
        "selection_strategy": "random",
        "seed": 1,
    },
    ("POST", "/api/tunix/run"): {
        "dataset_key": "sums",
        "model_id": "tiny",
        "engine": "jax",
        "output_dir": "out",
        "dry_run": False,
        "num_epochs": 1,
        "learning_rate": 0.001,
        "batch_size": 2,
        "max_seq_length": 128,
        "timeout_seconds": 5,
        "max_output_bytes": 100,
    },
}
DOORS = pytest.mark.parametrize("door", VALID, ids=lambda door: door[1])

FORMATS = st.sampled_from(["auto", "native", "gsm8k", "messages", "prompt-completion"])
TEXTS = [
    "",
    " ",
    "\x00",
    "\ud800",
    "\U0001f600",
    "../..",
    "/",
    "~",
    "~x",
    "@",
    "sums@",
    "sums@1",
    "tiny",
    "null",
    "NaN",
]
NUMBERS = [0, -0.0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1e308, 5e-324, float("nan"), float("inf")]
OTHERS = [True, False, None, [], {}, [[]], [None], {"": None}, {"a": {"b": {}}}]
AWKWARD = st.sampled_from([*TEXTS, *NUMBERS, *OTHERS])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | AWKWARD
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def places(value, path=()):
    """The path of every member of a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*path, key)
        yield from places(member, (*path, key))


@st.composite
def almost(draw, valid):
    """A valid body with up to three of its members replaced, removed, or joined by another."""
    body = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        *path, key = draw(st.sampled_from(sorted(places(body), key=repr)))
        holder = body
        for part in path:
            holder = holder[part]
        match draw(st.sampled_from(["replace", "remove", "join"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(ANYTHING))
            case "remove":
                del holder[key]
            case "join" if isinstance(holder, dict):
                holder[draw(st.text(max_size=10))] = copy.deepcopy(draw(ANYTHING))
        if not body:
            break
    return body


@pytest.fixture(scope="module")
def sums(standing_api_on):
    steps = [{"i": 0, "type": "sum", "content": "one more"}]
    meta = {"category": "sums"}
    traces = [{"prompt": f"{n}+1=", "steps": steps, "final_answer": str(n + 1), "meta": meta} for n in range(10)]
    standing_api_on.import_traces(*traces)
    standing_api_on.build("sums", test_fraction=0.2)
    return standing_api_on


def is_an_answer(answer) -> bool:
    """Success, or a refusal in the one form that refusals have."""
    if answer.status == 501:
        return "pip install" in answer.text
    return answer.status in (200, 201, 202) or bool(answer.status < 500 and answer.problem(answer.status))


@DOORS
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_json_gets_an_answer(sums, door, data):
    body = json.dumps(data.draw(ANYTHING)).encode()
    assert is_an_answer(sums.ask(*door, body))


@DOORS
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_almost_valid_json_gets_an_answer(sums, door, data):
    body = json.dumps(data.draw(almost(VALID[door]))).encode()
    assert is_an_answer(sums.ask(*door, body))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60) | ANYTHING.map(lambda value: json.dumps(value).encode()), max_size=8))
def test_any_lines_are_imported_or_reported(sums, lines):
    outcome = sums.import_lines(b"\n".join(lines))
    assert outcome["rejected_count"] == len(outcome["rejected"])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_almost_valid_lines_are_imported_or_reported(sums, data):
    lines = data.draw(st.lists(almost(VALID["POST", "/api/v1/traces"]), min_size=1, max_size=5))
    outcome = sums.import_lines("\n".join(map(json.dumps, lines)).encode(), format=data.draw(FORMATS))
    assert outcome["accepted"] + outcome["duplicates"] + outcome["rejected_count"] == len(lines)


def test_what_was_accepted_on_the_way_can_all_be_shown(sums):
    for noun in ("traces", "datasets", "runs"):
        cursor = {}
        while cursor is not None:
            page = sums.get(f"/api/v1/{noun}", limit=200, **cursor)
            assert page.status == 200, page.text
            cursor = {"cursor": page.json["next_cursor"]} if page.json["next_cursor"] else None
