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
    [span] = trace["spans"]
    assert (span["name"], span["service"], span["depth"]) == ("POST /api/v1/runs", "api", 0)


def test_a_run_that_nobody_traced_is_told_as_such(command: Callable[..., Any], run_id: str):
    told = command("runs", "trace", run_id)
    assert (told.code, told.out) == (0, "")
    assert "nothing was traced" in told.err
