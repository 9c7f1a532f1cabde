"""Orders: what is asked for twice is done once, what waits can be paused, and too much of it is refused."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.e2e.world import JSON

TRACE = {"prompt": "2+2=", "steps": [{"i": 0, "type": "sum", "content": "2+2=4"}], "final_answer": "4"}
RUN = {"dataset": "sums", "base_model": "tiny", "evaluate": None}
KEYED = JSON | {"Idempotency-Key": "once-1"}


@pytest.fixture
def api(idle_api_on):
    """An API with a dataset; nobody trains."""
    idle_api_on.import_traces(*[TRACE | {"prompt": f"{number}+2="} for number in range(4)])
    idle_api_on.build("sums", validation_fraction=0.0, test_fraction=0.0)
    return idle_api_on


def runs(api):
    return api.get("/api/v1/runs").json["items"]


def test_run_asked_for_twice_with_one_key_is_made_once_and_answered_alike(api):
    first, second = (api.ask("POST", "/api/v1/runs", RUN, KEYED) for _ in range(2))
    assert (first.status, second.status) == (202, 202)
    assert (first.json, first.headers["location"]) == (second.json, second.headers["location"])
    assert len(runs(api)) == 1


def test_dataset_asked_for_twice_with_one_key_is_built_once(api):
    versions = [api.ask("POST", "/api/v1/datasets", {"name": "sums"}, KEYED).json["version"] for _ in range(2)]
    assert versions == [2, 2]


def test_key_that_came_with_another_request_is_refused(api):
    api.ask("POST", "/api/v1/runs", RUN, KEYED)
    problem = api.ask("POST", "/api/v1/runs", RUN | {"priority": 3}, KEYED).problem(422)
    assert problem["errors"][0]["field"] == "Idempotency-Key"
    api.ask("POST", "/api/v1/datasets", {"name": "sums"}, KEYED).problem(422)
    assert len(runs(api)) == 1


def test_one_key_sent_fifty_times_at_once_makes_one_run(api):
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: api.ask("POST", "/api/v1/runs", RUN, KEYED), range(50)))
    assert {answer.status for answer in answers} <= {202, 409}
    accepted = {answer.json["run_id"] for answer in answers if answer.status == 202}
    assert {run["run_id"] for run in runs(api)} == accepted
    assert len(accepted) == 1


@pytest.mark.parametrize("key", ["", "k" * 201, "spaces in it", "\x7f"])
def test_key_that_is_none_is_refused(api, key):
    api.ask("POST", "/api/v1/runs", RUN, JSON | {"Idempotency-Key": key}).problem(422)
    assert runs(api) == []


def test_project_with_too_many_waiting_runs_is_told_to_wait_and_others_are_not(api):
    for _ in range(3):
        api.start("sums", "tiny", evaluate=None)
    answer = api.post("/api/v1/runs", RUN)
    assert "cancel some" in answer.problem(429)["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert api.post("/api/v1/runs", RUN | {"project": "another"}).status == 202
    api.post(f"/api/v1/runs/{runs(api)[-1]['run_id']}/cancel")
    assert api.post("/api/v1/runs", RUN).status == 202


def test_waiting_run_is_paused_resumed_and_cancelled_and_asking_twice_changes_nothing(api):
    run = api.start("sums", "tiny", evaluate=None)
    asked = [api.post(f"{run}/{wish}").json["state"] for wish in ("pause", "pause", "resume", "resume")]
    assert asked == ["paused", "paused", "queued", "queued"]
    assert [api.post(f"{run}/{wish}").json["state"] for wish in ("pause", "cancel", "resume")] == [
        "paused",
        "cancelled",
        "cancelled",
    ]
    told = [event["to_state"] for event in api.get(f"{run}/events").json]
    assert told == ["queued", "paused", "queued", "paused", "cancelled"]


def test_run_whose_deadline_passes_while_it_waits_fails_and_says_what_to_do(api):
    run = api.wait(api.start("sums", "tiny", evaluate=None, deadline_s=0.1), {"failed"})
    assert "start a new run with a later one" in run["failure"]


@pytest.mark.parametrize("wish", ["pause", "resume", "cancel"])
def test_wish_about_a_run_that_does_not_exist_is_not_found(api, wish):
    api.post(f"/api/v1/runs/00000000-0000-7000-8000-000000000000/{wish}").problem(404)
    api.post(f"/api/v1/runs/%00/{wish}").problem(404)


@pytest.mark.parametrize(
    ("field", "value"),
    [("project", "Upper"), ("project", ""), ("project", "a" * 65), ("priority", 101), ("priority", True),
     ("priority", 1.5), ("deadline_s", 0), ("deadline_s", -1), ("deadline_s", 1e12), ("deadline_s", "soon")],
)  # fmt: skip
def test_order_that_cannot_be_meant_is_refused_by_field(api, field, value):
    assert field in api.post("/api/v1/runs", RUN | {field: value}).problem(422)["detail"]
    assert runs(api) == []
