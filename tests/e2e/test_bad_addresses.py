"""Paths, ids, cursors and limits that lead nowhere."""

import pytest

LISTS = ["traces", "datasets", "runs", "evaluations"]
BY_ID = [
    "/api/v1/traces/{}",
    "/api/v1/datasets/{}",
    "/api/v1/datasets/{}/export.jsonl",
    "/api/v1/datasets/{}/preview",
    "/api/v1/runs/{}",
    "/api/v1/runs/{}/events",
    "/api/v1/runs/{}/logs",
    "/api/v1/runs/{}/logs.txt",
    "/api/v1/runs/{}/metrics",
    "/api/v1/evaluations/{}",
    "/api/v1/evaluations/{}/items",
    "/api/v1/models/{}",
    "/api/v1/models/{}/versions",
    "/api/v1/models/{}/versions/1",
    "/api/v1/models/sums/versions/{}",
    "/api/v1/models/sums/versions/1/files/{}",
    "/api/tunix/runs/{}",
]
NO_IDS = [
    "x",
    "..",
    "../../../etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%00",
    "%ff",
    "%ED%A0%80",
    "%0d%0aSet-Cookie:x",
    "'%20OR%20'1'='1",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "sums@",
    "sums@0",
    "sums@-1",
    "sums@99999999999999999999",
    "0190c2a4-5b7e-7cc3-98c4-dc0c0c07398f",
    "00000000-0000-0000-0000-000000000000",
    "a" * 5000,
]
TRACE = {"prompt": "1+1=", "steps": [{"i": 0, "type": "sum", "content": "1+1=2"}], "final_answer": "2"}


@pytest.mark.parametrize("path", BY_ID)
@pytest.mark.parametrize("name", NO_IDS, ids=lambda name: name[:40])
def test_id_of_nothing_is_not_found(standing_api_on, path, name):
    standing_api_on.get(path.format(name)).problem(404)


@pytest.mark.parametrize("name", NO_IDS, ids=lambda name: name[:40])
def test_cancel_of_nothing_is_not_found(standing_api_on, name):
    standing_api_on.post(f"/api/v1/runs/{name}/cancel").problem(404)


def test_id_is_read_in_either_case(standing_api_on):
    trace_id = standing_api_on.post("/api/v1/traces", TRACE).json["trace_id"]
    assert standing_api_on.get(f"/api/v1/traces/{trace_id.upper()}").json["trace_id"] == trace_id


@pytest.mark.parametrize("path", [*(f"/api/v1/{noun}" for noun in LISTS), "/api/v1/leaderboard", "/api/tunix/runs"])
@pytest.mark.parametrize("limit", ["0", "-1", "1000000000", "1e9", "9" * 30, "NaN", "", "ten", "%00"])
def test_limit_out_of_bounds_is_refused(standing_api_on, path, limit):
    assert "limit" in standing_api_on.get(f"{path}?limit={limit}").problem(422)["errors"][0]["field"]


@pytest.mark.parametrize("noun", LISTS)
@pytest.mark.parametrize("cursor", ["x", "", "%00", "%ff", "1", "a" * 65, "0190c2a4-5b7e-7cc3-98c4-dc0c0c07398g"])
def test_cursor_that_is_not_ours_is_refused(standing_api_on, noun, cursor):
    assert "cursor" in standing_api_on.get(f"/api/v1/{noun}?cursor={cursor}").problem(422)["errors"][0]["field"]


def test_forged_cursor_only_moves_the_start_of_the_page(api):
    for number in range(3):
        assert api.post("/api/v1/traces", {**TRACE, "prompt": f"{number}+1="}).status == 201
    shown = [trace["trace_id"] for trace in api.get("/api/v1/traces").json["items"]]
    after = api.get("/api/v1/traces", cursor=shown[0]).json["items"]
    assert [trace["trace_id"] for trace in after] == shown[1:]
    assert api.get("/api/v1/traces", cursor="00000000-0000-0000-0000-000000000000").json["items"] == []
    assert len(api.get("/api/v1/traces", cursor="ffffffff-ffff-ffff-ffff-ffffffffffff").json["items"]) == 3


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/v1/runs?state=asleep", "query.state"),
        ("/api/v1/traces?source=" + "x" * 201, "query.source"),
        ("/api/v1/traces/batch?format=yaml", "query.format"),
        ("/api/tunix/runs?status=asleep", "query.status"),
        ("/api/tunix/runs?offset=-1", "query.offset"),
        ("/api/tunix/runs?offset=99999999999999999999", "query.offset"),
    ],
)
def test_filter_that_does_not_exist_is_named(standing_api_on, path, field):
    answer = standing_api_on.post(path, b"") if "batch" in path else standing_api_on.get(path)
    assert answer.problem(422)["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/api/v1/traces"), ("POST", "/healthz"), ("PUT", "/api/v1/runs")]
)
def test_method_that_is_not_offered_is_refused_with_those_that_are(standing_api_on, method, path):
    answer = standing_api_on.ask(method, path)
    answer.problem(405)
    assert answer.headers["allow"]


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v2/runs", "/api/v1", "/api/v1/runs/x/y/z"])
def test_path_that_does_not_exist_says_where_to_look(standing_api_on, path):
    assert "/docs" in standing_api_on.get(path).problem(404)["detail"]


def test_other_host_names_are_refused(standing_api_on):
    assert standing_api_on.ask("GET", "/api/v1/runs", headers={"Host": "evil.example"}).status == 400


def test_line_breaks_cannot_be_smuggled_into_headers(standing_api_on):
    answer = standing_api_on.get("/api/v1/runs/x%0d%0aX-Evil:%20y")
    assert "x-evil" not in answer.headers


def test_whatever_is_asked_the_description_of_the_api_is_served(standing_api_on):
    paths = standing_api_on.get("/openapi.json").json["paths"]
    assert {"/api/v1/traces/batch", "/api/v1/runs/{run_id}/cancel", "/api/tunix/run"} <= paths.keys()
