"""Bodies that are not the JSON that an endpoint asks for."""

import gzip
import json
from contextlib import suppress

import pytest

TRACE = {"prompt": "1+1=", "steps": [{"i": 0, "type": "sum", "content": "1+1=2"}], "final_answer": "2"}
TRACES, DATASETS, RUNS = "/api/v1/traces", "/api/v1/datasets", "/api/v1/runs"
ALIAS = "/api/v1/models/sums/aliases/champion"
DOORS = [
    ("POST", TRACES),
    ("POST", DATASETS),
    ("POST", RUNS),
    ("PUT", ALIAS),
    ("POST", "/api/datasets/build"),
    ("POST", "/api/tunix/run"),
]

EVERYWHERE = pytest.mark.parametrize(("method", "path"), DOORS, ids=[path for _, path in DOORS])
NOT_JSON = {
    "nothing": (b"", "empty"),
    "half an object": (b'{"name": ', "not JSON at column 10"),
    "bytes that are not UTF-8": (b'{"name": "\xff"}', "byte 11 is not UTF-8"),
    "overlong UTF-8": (b'{"name": "\xc0\xaf"}', "byte 11 is not UTF-8"),
    "UTF-16": ('{"name": "a"}'.encode("utf-16"), "UTF-8"),
    "an array": (b"[]", "not an object"),
    "null": (b"null", "not an object"),
    "NaN": (b'{"name": NaN}', "NaN is not JSON"),
    "minus infinity": (b'{"name": -Infinity}', "-Infinity is not JSON"),
    "a number beyond floats": (b'{"name": 1e309}', "too large for a float"),
    "a number of 5000 digits": (b'{"name": ' + b"9" * 5000 + b"}", "too many digits"),
    "10,000 levels": (b'{"name": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested deeper than"),
    "100,000 open brackets": (b"[" * 100_000, "nested deeper than"),
    "half a surrogate pair": (b'{"name": "\\ud800"}', "half of a surrogate pair"),
    "a NUL": (b'{"name": "a\\u0000b"}', "NUL"),
    "a key given twice": (b'{"name": "a", "name": "b"}', "given twice"),
}


@EVERYWHERE
@pytest.mark.parametrize(("body", "told"), NOT_JSON.values(), ids=NOT_JSON)
def test_body_that_is_no_plain_json_object_is_refused_with_the_reason(standing_api, method, path, body, told):
    problem = standing_api.ask(method, path, body).problem(422)
    assert told in problem["detail"]
    assert problem["errors"][0]["field"] == "body"


@EVERYWHERE
def test_unknown_field_is_named(standing_api, method, path):
    problem = standing_api.ask(method, path, {"project_id": 7}).problem(422)
    told = {error["field"]: error["message"] for error in problem["errors"]}
    assert "remove it" in told["project_id"]


@EVERYWHERE
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_other_content_type_is_refused_with_the_right_one(standing_api, method, path, kind):
    problem = standing_api.ask(method, path, json.dumps(TRACE).encode(), {"Content-Type": kind}).problem(415)
    assert "Content-Type: application/json" in problem["detail"]


def test_compressed_body_is_refused(standing_api):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    problem = standing_api.ask("POST", TRACES, gzip.compress(json.dumps(TRACE).encode()), headers).problem(415)
    assert "uncompressed" in problem["detail"]


@EVERYWHERE
def test_body_that_says_it_is_huge_is_refused_unread(standing_api, method, path):
    headers = {"Content-Type": "application/json", "Content-Length": str(10**12)}
    problem = standing_api.ask(method, path, b"{", headers).problem(413)
    assert "larger than" in problem["detail"]


@EVERYWHERE
def test_body_without_end_is_cut_off(standing_api, method, path):
    sent = 0

    def chunks():
        nonlocal sent
        while sent < 300:
            sent += 1
            yield b"x" * 1_000_000

    with suppress(ConnectionError):
        standing_api.ask(method, path, chunks()).problem(413)
    assert sent < 200


def test_huge_unknown_key_is_not_repeated(standing_api):
    standing_api.post(TRACES, {**TRACE, "k" * 100_000: "x"}).problem(422)


def test_byte_order_mark_is_no_part_of_the_json(standing_api):
    assert standing_api.post(TRACES, b"\xef\xbb\xbf" + json.dumps(TRACE).encode()).status in (200, 201)


def test_largest_legal_trace_is_stored(standing_api):
    steps = [{"i": number, "type": "sum", "content": "x" * 20_000} for number in range(1000)]
    accepted = standing_api.post(TRACES, {**TRACE, "steps": steps})
    assert accepted.status == 201, accepted.text
    kept = standing_api.get(accepted.headers["location"]).json["trace"]
    assert [step["content"] for step in kept["steps"]] == [step["content"] for step in steps]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": "x" * 50_001}, "prompt"),
        ({"final_answer": "x" * 50_001}, "final_answer"),
        ({"steps": []}, "steps"),
        ({"steps": {}}, "steps"),
        ({"steps": TRACE["steps"] * 2}, "steps"),
        ({"steps": [{"i": number, "type": "a", "content": "b"} for number in range(1001)]}, "steps"),
        ({"steps": [{"i": True, "type": "a", "content": "b"}]}, "steps.0.i"),
        ({"steps": [{"i": -1, "type": "a", "content": "b"}]}, "steps.0.i"),
        ({"steps": [{"i": 0.5, "type": "a", "content": "b"}]}, "steps.0.i"),
        ({"steps": [{"i": 0, "type": "a", "content": "x" * 20_001}]}, "steps.0.content"),
        ({"meta": []}, "meta"),
        ({"meta": {"a": "x" * 70_000}}, "meta"),
        ({"trace_version": 1}, "trace_version"),
    ],
)
def test_wrong_field_of_a_trace_is_the_only_one_named(standing_api, change, field):
    problem = standing_api.post(TRACES, {**TRACE, **change}).problem(422)
    assert [error["field"] for error in problem["errors"]] == [field]


def test_markup_and_quotes_are_stored_as_they_are(standing_api):
    prompt = "'; DROP TABLE traces;-- <script>alert(1)</script> \u202eevil\u200b"
    accepted = standing_api.post(TRACES, {**TRACE, "prompt": prompt})
    assert standing_api.get(accepted.headers["location"]).json["trace"]["prompt"] == prompt
