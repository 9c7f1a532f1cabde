"""What the API tells of its own requests: metrics by route, and nothing that anybody can invent."""

from tests.e2e.world import Server


def requests_counted(api: Server) -> dict[str, float]:
    """The count of each method, route and status that were seen."""
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    prefix = "tunix_rt_http_request_duration_seconds_count"
    lines = [line for line in answer.text.splitlines() if line.startswith(prefix)]
    return {line.removeprefix(prefix).rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def labels(method: str, route: str, status: int) -> str:
    return f'{{method="{method}",route="{route}",status="{status}"}}'


def test_requests_are_counted_by_route_and_not_by_path(standing_api: Server):
    key = labels("GET", "/api/v1/runs/{run_id}/trace", 404)
    before = requests_counted(standing_api).get(key, 0)
    for number in range(3):
        standing_api.get(f"/api/v1/runs/01a201cd-8b0f-7251-acb2-00000000000{number}/trace")
    counted = requests_counted(standing_api)
    assert counted[key] == before + 3
    assert not [labels for labels in counted if "01a201cd" in labels]


def test_paths_and_methods_that_somebody_invents_make_no_new_series(standing_api: Server):
    standing_api.get("/no/such/page/4711")
    standing_api.ask("BREW", "/api/v1/runs")
    counted = requests_counted(standing_api)
    assert counted[labels("GET", "unmatched", 404)] >= 1
    assert any('method="OTHER"' in labels for labels in counted)
    assert not [labels for labels in counted if "4711" in labels or "BREW" in labels]


def test_a_request_for_another_host_is_counted_too(standing_api: Server):
    assert standing_api.ask("GET", "/api/v1/runs", headers={"Host": "evil.example"}).status == 400
    assert requests_counted(standing_api)[labels("GET", "unmatched", 400)] >= 1


def test_what_waits_in_the_database_is_scraped_from_the_api(idle_api: Server):
    idle_api.import_traces(
        {"prompt": "2+2=", "steps": [{"i": 0, "type": "sum", "content": "2+2=4"}], "final_answer": "4"}
    )
    assert idle_api.post("/api/v1/datasets", {"name": "sums"}).status == 202
    lines = idle_api.get("/metrics").text.splitlines()
    assert 'tunix_rt_jobs{kind="build_dataset",state="queued"} 1.0' in lines
    assert "tunix_rt_database_up 1.0" in lines


def test_a_broken_traceparent_harms_nobody(standing_api: Server):
    for header in ("", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\xff" * 200):
        assert standing_api.ask("GET", "/api/v1/runs", headers={"traceparent": header}).status == 200
