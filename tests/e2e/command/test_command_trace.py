"""`tunix-rt runs trace`: where the time of a run went."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tunix_rt_common import telemetry


@pytest.fixture
def traced_run(platform: Any, dataset: str, command: Callable[..., Any]) -> Iterator[str]:
    """A queued run whose request was traced."""
    telemetry.setup("api", platform.database)
    run_id = str(command("runs", "create", "--dataset", dataset, "--base-model", "tiny", "--json").json["run_id"])
    telemetry.shutdown()
    yield run_id
    telemetry.shutdown()


def test_a_traced_run_is_drawn_as_a_waterfall(command: Callable[..., Any], traced_run: str):
    told = command("runs", "trace", "latest")
    assert told.code == 0
    [line] = [line for line in told.out.splitlines() if "POST /api/v1/runs" in line]
    assert "api" in line
    assert "━" in line


def test_a_trace_can_be_had_as_json(command: Callable[..., Any], traced_run: str):
    trace = command("runs", "trace", traced_run, "--json").json
    request, *told_on = trace["spans"]
    assert (request["name"], request["service"], request["depth"]) == ("POST /api/v1/runs", "api", 0)
    assert {(span["name"], span["depth"]) for span in told_on} <= {("publish train", 1)}  # as fast as the relay was


def test_a_run_that_nobody_traced_is_told_as_such(command: Callable[..., Any], run_id: str):
    told = command("runs", "trace", run_id)
    assert (told.code, told.out) == (0, "")
    assert "nothing was traced" in told.err
