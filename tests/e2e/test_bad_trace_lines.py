"""Imports with bad lines: each is reported by its number, and the rest is stored."""

import gzip
import json
import logging
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

OVERSIZED = b'{"prompt": "' + b"x" * 25_000_000 + b'"}'


def trace(number: int, **other: object) -> dict[str, object]:
    steps = [{"i": 0, "type": "sum", "content": f"{number} and 1"}]
    return {"prompt": f"{number}+1=", "steps": steps, "final_answer": str(number + 1), **other}


def line(number: int, **other: object) -> bytes:
    return json.dumps(trace(number, **other)).encode()


def stored(api) -> set[str]:
    return {item["trace"]["prompt"] for item in api.get("/api/v1/traces", limit=200).json["items"]}


def test_each_bad_line_is_reported_by_number_and_the_rest_is_stored(api):
    lines = {
        1: line(1),
        2: b"",
        3: b'{"prompt": "half',
        4: line(4, prompt="café").replace(b"\\u00e9", b"\xe9"),
        5: OVERSIZED,
        6: line(1),
        7: line(7, meta={"score": float("nan")}),
        8: line(8, steps=[]),
        9: line(9, prompt="x" * 50_001),
        10: line(10, prompt="nul\x00"),
        11: line(11, state="done"),
        12: b"[" + line(12) + b"]",
        13: line(13),
        14: line(14, steps=[{"i": 0, "type": "a", "content": "b"}] * 2),
        15: b'{"meta": ' + b"[" * 1000,
        16: line(16)[:-4],
        17: line(17, rejected={"steps": trace(17)["steps"], "final_answer": "18"}),
        18: b'{"prompt": "18+1=", "chosen": "19", "rejected": "19"}',
    }
    outcome = api.import_lines(b"\n".join(lines.values()))
    assert (outcome["accepted"], outcome["duplicates"]) == (2, 1)
    assert [rejection["line"] for rejection in outcome["rejected"]] == [
        3,
        4,
        5,
        7,
        8,
        9,
        10,
        11,
        12,
        14,
        15,
        16,
        17,
        18,
    ]
    assert all("says the same" in rejection["error"] for rejection in outcome["rejected"][-2:])
    assert all(len(rejection["error"]) < 300 for rejection in outcome["rejected"])
    assert stored(api) == {"1+1=", "13+1="}


def test_import_again_finds_only_duplicates(api):
    lines = b"\r\n".join(line(number) for number in range(500))
    assert api.import_lines(lines)["accepted"] == 500
    again = api.import_lines(lines)
    assert (again["accepted"], again["duplicates"], again["rejected_count"]) == (0, 500, 0)


def test_trace_in_another_order_or_with_other_meta_is_a_duplicate(api):
    backwards = dict(reversed(trace(1, meta={"a": 1}).items()))
    outcome = api.import_traces(trace(1), backwards, trace(1, trace_version="2.0"))
    assert (outcome["accepted"], outcome["duplicates"]) == (1, 2)


@pytest.mark.parametrize("body", [b"", b"\n\n \r\n", b"\xef\xbb\xbf"])
def test_empty_file_is_no_error(api, body):
    outcome = api.import_lines(body)
    assert outcome == {"accepted": 0, "duplicates": 0, "rejected_count": 0, "rejected": []}


def test_file_in_another_encoding_is_one_rejection(api):
    outcome = api.import_lines((line(1) + b"\n" + line(2)).decode().encode("utf-16"))
    assert [(rejection["line"], "UTF-8" in rejection["error"]) for rejection in outcome["rejected"]] == [(1, True)]


def test_compressed_file_is_refused_whole(api):
    headers = {"Content-Encoding": "gzip"}
    answer = api.ask("POST", "/api/v1/traces/batch", gzip.compress(line(1)), headers)
    assert "uncompressed" in answer.problem(415)["detail"]


def test_list_of_rejections_is_bounded_and_the_count_is_not(api):
    outcome = api.import_lines(b"nonsense\n" * 12_345 + line(1))
    assert (outcome["accepted"], outcome["rejected_count"], len(outcome["rejected"])) == (1, 12_345, 10_000)
    assert outcome["rejected"][-1]["line"] == 10_000


def test_same_file_from_four_sides_at_once_is_stored_once(api):
    lines = b"\n".join(line(number) for number in range(600))
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(api.import_lines(lines))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcome["accepted"] for outcome in outcomes) == 600
    assert sum(outcome["duplicates"] for outcome in outcomes) == 1800


def test_broken_connection_keeps_what_had_arrived_and_is_no_error_of_the_server(api, caplog):
    lines = b"\n".join(line(number) for number in range(1000))
    address = urlsplit(api.url)
    with caplog.at_level(logging.ERROR), socket.create_connection((address.hostname, address.port)) as connection:
        head = (
            f"POST /api/v1/traces/batch HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {2 * len(lines)}\r\n\r\n"
        )
        connection.sendall(head.encode() + lines)
        while not stored(api):
            time.sleep(0.05)
        connection.shutdown(socket.SHUT_RDWR)
        time.sleep(0.5)
    assert caplog.records == []
    outcome = api.import_lines(lines)
    assert outcome["duplicates"] >= 200
    assert outcome["accepted"] + outcome["duplicates"] == 1000
