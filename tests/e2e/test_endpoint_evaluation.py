"""Runs whose answers another server computes, and what keeps it from being any server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.world import Server, serving_api, serving_world
from tests.servers.completions import CompletionsServer, Exchange, completions_server

QUICK = {"max_steps": 1, "batch_size": 2, "max_tokens": 64}
SAMPLING = {"max_new_tokens": 8}


def trace(number: int) -> dict[str, object]:
    steps = [{"i": 0, "type": "sum", "content": f"{number} and 1"}]
    return {"prompt": f"{number}+1=", "steps": steps, "final_answer": str(number + 1)}


def add_one(exchange: Exchange) -> None:
    """Read the prompt from its tokens, which are bytes, and do the sum."""
    asked = bytes(token for token in exchange.body["prompt"] if token < 256).decode()
    number = re.search(r"(\d+)\+1=", asked)
    exchange.say(str(int(number[1]) + 1) if number else "?")


@pytest.fixture(scope="module")
def calculator() -> Iterator[CompletionsServer]:
    with completions_server() as served:
        served.behaviour = add_one
        yield served


@pytest.fixture(scope="module")
def world(calculator: CompletionsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNIX_RT_ENDPOINT_URLS", json.dumps([calculator.url]))
        patch.setenv("TUNIX_RT_ENDPOINT_API_KEYS", json.dumps({calculator.url: "sk-1"}))
        with serving_world(tmp_path_factory.mktemp("endpoint") / "home") as server:
            server.import_traces(*map(trace, range(20)))
            server.build("sums", test_fraction=0.5, validation_fraction=0)
            yield server


def evaluation(world: Server, **evaluate: object) -> dict[str, object]:
    """What came of a run that is judged so."""
    gate = {"min_items": 1}
    path = world.start("sums", "tiny", train=QUICK, evaluate={"sampling": SAMPLING, **evaluate}, gate=gate)
    run = world.wait(path)
    assert run["state"] == "succeeded", run
    newest = world.get("/api/v1/evaluations", limit=1).json["items"][0]
    return dict(world.get(f"/api/v1/evaluations/{newest['evaluation_id']}").json)


def test_endpoint_answers_for_candidate_and_baseline_and_the_report_says_so(
    world: Server, calculator: CompletionsServer
) -> None:
    own = evaluation(world)
    assert own["endpoint"] is None
    assert calculator.bodies == []

    asked = {"url": f"{calculator.url}/", "model": "tunix-{model_sha256}"}
    served = evaluation(world, endpoint=asked)
    assert served["endpoint"] == {"url": calculator.url, "model": f"tunix-{served['model_sha256']}"}
    assert served["score"]["accuracy"] == 1
    named = {body["model"] for body in calculator.bodies}
    assert named == {f"tunix-{sha256}" for sha256 in (own["model_sha256"], served["model_sha256"])}
    assert {headers["authorization"] for headers in calculator.headers} == {"Bearer sk-1"}

    calculator.bodies.clear()
    again = evaluation(world, endpoint=asked)
    assert {body["model"] for body in calculator.bodies} == {f"tunix-{again['model_sha256']}"}, "its report is known"
    assert f"{calculator.url}" in world.get(f"/evaluations/{again['evaluation_id']}").text


def test_server_that_does_not_know_the_model_fails_the_run_in_its_own_words(
    world: Server, calculator: CompletionsServer
) -> None:
    calculator.behaviour = lambda exchange: exchange.reply(404, b'{"error": {"message": "no such model"}}')
    try:
        path = world.start("sums", "tiny", train=QUICK, evaluate={"endpoint": {"url": calculator.url}})
        run = world.wait(path)
    finally:
        calculator.behaviour = add_one
    assert run["state"] == "failed"
    assert "no such model" in json.dumps(run)
    assert "serve the weights as" in json.dumps(run)


def test_credentials_in_an_address_are_refused_and_not_repeated(tmp_path: Path) -> None:
    with serving_api(tmp_path / "home", builds=False) as api:
        spec = {"dataset": "sums", "base_model": "tiny", "evaluate": {"endpoint": {"url": "http://me:pss-1@gpu/v1"}}}
        refused = api.post("/api/v1/runs", spec)
        assert "TUNIX_RT_ENDPOINT_API_KEYS" in str(refused.problem(422)["errors"])
        assert "pss-1" not in refused.text
