import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunix_rt_api.traces.ndjson import MAX_LINE_BYTES, NdjsonLines, Rejection, parse_trace_line
from tunix_rt_common.traces import Trace

ROW = '{"prompt": "1+1=", "answer": "2"}'


def read(body: bytes, chunk_bytes: int = 65_536) -> list[tuple[int, Trace | Rejection]]:
    splitter = NdjsonLines()
    lines = [
        line for start in range(0, len(body), chunk_bytes) for line in splitter.feed(body[start : start + chunk_bytes])
    ]
    lines += splitter.close()
    return [(number, line if isinstance(line, Rejection) else parse_trace_line(line, "auto")) for number, line in lines]


def outcomes(body: bytes, chunk_bytes: int = 65_536) -> list[tuple[int, bool]]:
    return [(number, isinstance(result, Trace)) for number, result in read(body, chunk_bytes)]


def message(line: bytes) -> str:
    result = parse_trace_line(line, "auto")
    assert isinstance(result, Rejection)
    assert "\n" not in result.message
    assert len(result.message) < 300
    return result.message


@given(st.lists(st.sampled_from([ROW, "", "  ", "nonsense"])), st.integers(1, 50), st.sampled_from(["\n", "\r\n"]))
def test_lines_are_the_same_however_the_body_is_chunked(lines, chunk_bytes, line_break):
    body = line_break.join(lines).encode()
    expected = [(number, line == ROW) for number, line in enumerate(lines, start=1) if line.strip()]
    assert outcomes(body, chunk_bytes) == expected


def test_byte_order_mark_at_the_start_is_no_part_of_the_first_row():
    assert outcomes(b"\xef\xbb\xbf" + ROW.encode() + b"\n") == [(1, True)]


def test_blank_lines_count_but_are_not_rows():
    assert outcomes(f"\n{ROW}\n \r\n{ROW}".encode()) == [(2, True), (4, True)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf16_file_is_rejected_once(encoding):
    [(number, result)] = read(f"{ROW}\n{ROW}\n{ROW}\n".encode(encoding), chunk_bytes=7)
    assert number == 1
    assert "save it as UTF-8" in result.message


def test_line_that_is_too_long_is_passed_over_and_reported_once():
    too_long = b'{"prompt": "' + b"x" * MAX_LINE_BYTES + b'"}'
    results = read(b"\n".join([ROW.encode(), too_long, ROW.encode()]), chunk_bytes=1_000_000)
    assert [(number, isinstance(result, Trace)) for number, result in results] == [(1, True), (2, False), (3, True)]
    assert f"longer than {MAX_LINE_BYTES} bytes" in results[1][1].message


def test_line_of_exactly_the_limit_is_read():
    lines = NdjsonLines()
    assert list(lines.feed(b"x" * MAX_LINE_BYTES + b"\n")) == [(1, b"x" * MAX_LINE_BYTES)]
    assert [type(line) for _, line in lines.feed(b"x" * (MAX_LINE_BYTES + 1) + b"\n")] == [Rejection]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"prompt": "\xff"}', "byte 13 is not UTF-8: save or send it as UTF-8"),
        (b'{"prompt": 1,}', "not JSON at column 14"),
        (b'{"a": NaN}', "NaN is not JSON: use null"),
        (b'{"a": -Infinity}', "-Infinity is not JSON: use null"),
        (b'{"a": 1e999}', "too large for a float"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is given twice: keep one"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper than 64 levels"),
        (b'{"a": ' + b"[" * 200_000, "nested deeper than 64 levels"),
        (b'{"prompt": "\\ud83d", "answer": "2"}', "half of a surrogate pair"),
        (b'{"prompt": "a", "answer": "2", "id": "\\u0000"}', "NUL character"),
        (b'[{"prompt": "1+1="}]', "no list around it"),
        (b"3", "not an object"),
        (b'{"prompt": "a"}', "completion: is missing"),
    ],
)
def test_bad_line_is_rejected_with_advice(line, told):
    assert told in message(line)


def test_escapes_that_only_look_dangerous_are_kept():
    record = {"prompt": "a\\u0000 \\ud800 \U0001f600", "answer": "2"}
    result = parse_trace_line(json.dumps(record).encode(), "auto")
    assert isinstance(result, Trace)
    assert result.prompt == record["prompt"]
