import json

import httpx2
import pytest

from tunix_rt.client import Client
from tunix_rt.errors import ApiError, ClientError, ServerAway, UnexpectedAnswer
from tunix_rt_common.specs import RunSpec
from tunix_rt_common.traces import Trace

URL = "http://127.0.0.1:8321"
MODEL = {"name": "sums", "latest_version": 1, "aliases": {"champion": 1}}


def client(answer) -> Client:
    return Client(URL, transport=httpx2.MockTransport(answer))


def test_problem_document_becomes_an_error_with_fields():
    problem = {
        "title": "Conflict",
        "detail": "it moved: look again",
        "errors": [{"field": "version", "message": "old"}],
    }
    with client(lambda request: httpx2.Response(409, json=problem)) as server, pytest.raises(ApiError) as caught:
        server.models.promote("sums", 2, alias="champion", expected_version=1)
    assert (caught.value.status, caught.value.title, str(caught.value)) == (409, "Conflict", "it moved: look again")
    assert [(row.field, row.message) for row in caught.value.errors] == [("version", "old")]


def test_error_page_of_a_proxy_is_told_by_its_status():
    answer = httpx2.Response(413, text="<html>too large</html>")
    with client(lambda request: answer) as server, pytest.raises(ApiError, match="413"):
        server.models.list()


@pytest.mark.parametrize("status", [502, 503, 504])
def test_server_that_says_later_counts_as_away(status):
    answer = httpx2.Response(status, json={"detail": "the database does not answer"})
    with client(lambda request: answer) as server, pytest.raises(ServerAway, match="database"):
        server.models.list()


def test_dead_server_is_away_and_the_message_says_what_to_do(unused_url):
    with Client(unused_url) as server, pytest.raises(ServerAway, match="tunix-rt up"):
        server.models.list()


@pytest.mark.parametrize("url", ["127.0.0.1:8321", "ftp://host", "http://", "http://[::1"])
def test_what_is_no_server_url_is_refused_at_once(url):
    with pytest.raises(ClientError, match="write it like"):
        Client(url)


def test_unknown_fields_of_a_newer_server_are_ignored():
    with client(lambda request: httpx2.Response(200, json=[MODEL | {"colour": "red"}])) as server:
        assert server.models.list()[0].aliases == {"champion": 1}


def test_answer_without_a_known_field_is_named():
    answer = httpx2.Response(200, json=[{"name": "sums"}])
    with client(lambda request: answer) as server, pytest.raises(UnexpectedAnswer, match="latest_version"):
        server.models.list()


def test_other_web_server_is_told_apart():
    answer = httpx2.Response(200, text="<html>")
    with client(lambda request: answer) as server, pytest.raises(UnexpectedAnswer, match="TUNIX_RT_API_URL"):
        server.models.list()


def _paged(request: httpx2.Request) -> httpx2.Response:
    """Five traces, numbered, in pages as large as asked for."""
    first, size = int(request.url.params.get("cursor", 0)), int(request.url.params["limit"])
    trace = {"prompt": "p", "steps": [{"i": 0, "type": "t", "content": "c"}], "final_answer": "a"}
    rows = [
        {"trace_id": str(n), "content_sha256": "", "source": None, "created_at": "2026-01-01T00:00:00Z", "trace": trace}
        for n in range(5)
    ]
    end = first + min(size, 2)
    return httpx2.Response(200, json={"items": rows[first:end], "next_cursor": str(end) if end < 5 else None})


@pytest.mark.parametrize(("limit", "count"), [(None, 5), (1, 1), (3, 3), (5, 5), (9, 5)])
def test_pages_are_joined_up_to_the_limit(limit, count):
    with client(_paged) as server:
        assert [row.trace_id for row in server.traces.list(limit=limit)] == [str(n) for n in range(count)]


def test_unset_fields_of_a_spec_are_not_sent():
    sent = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.read()))
        return httpx2.Response(422, json={"detail": "no"})

    spec = RunSpec.model_validate({"dataset": "sums", "base_model": "tiny", "train": {"epochs": 2}, "evaluate": None})
    with client(answer) as server, pytest.raises(ApiError):
        server.runs.create(spec)
    assert sent == [{"dataset": "sums", "base_model": "tiny", "train": {"epochs": 2}, "evaluate": None}]


def test_upload_sends_the_file_in_chunks_and_tells_its_progress(tmp_path):
    path = tmp_path / "traces.jsonl"
    path.write_bytes(b"x" * 1_000_000)
    received, progress = [], []

    def answer(request: httpx2.Request) -> httpx2.Response:
        received.append(request.read())
        assert request.url.params["format"] == "native"
        return httpx2.Response(200, json={"accepted": 1, "duplicates": 0, "rejected_count": 0, "rejected": []})

    with client(answer) as server:
        outcome = server.traces.upload_file(path, trace_format="native", progress=progress.append)
    assert outcome.accepted == 1
    assert received == [path.read_bytes()]
    assert sum(progress) == 1_000_000
    assert max(progress) < 500_000


def test_names_are_one_segment_of_the_path():
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.raw_path)
        return httpx2.Response(404, json={"detail": "no"})

    with client(answer) as server, pytest.raises(ApiError):
        server.models.get("a/b?c#d")
    assert seen == [b"/api/v1/models/a%2Fb%3Fc%23d"]


def test_trace_is_stored_under_its_source():
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.params["source"] == "book"
        assert "meta" not in json.loads(request.read())
        return httpx2.Response(201, json={"trace_id": "t", "content_sha256": "", "duplicate": False})

    trace = Trace.model_validate({"prompt": "p", "steps": [{"i": 0, "type": "t", "content": "c"}], "final_answer": "a"})
    with client(answer) as server:
        assert server.traces.create(trace, source="book").trace_id == "t"
