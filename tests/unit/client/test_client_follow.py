import httpx2
import pytest

from tunix_rt.client import Client
from tunix_rt.errors import ServerAway

RUN = {
    "run_id": "r",
    "state": "succeeded",
    "stage": "register",
    "dataset": "sums@1",
    "base_model": "tiny",
    "project": "default",
    "model_name": "sums",
    "step": 4,
    "total_steps": 4,
    "failure": None,
    "created_at": "2026-01-01T00:00:00Z",
    "started_at": None,
    "finished_at": None,
    "spec": {},
    "pins": {},
    "jobs": [],
    "checkpoints": [],
    "training": None,
    "evaluation_id": None,
    "decision": "GO",
    "reason": None,
    "model_version": 1,
}


def server(away: int) -> Client:
    """A server that answers 503 so many times before it comes back."""
    left = iter(range(away))

    def answer(request: httpx2.Request) -> httpx2.Response:
        if next(left, None) is not None:
            return httpx2.Response(503, json={"detail": "later"})
        return httpx2.Response(200, json=RUN if request.url.path.endswith("/r") else [])

    return Client("http://server", transport=httpx2.MockTransport(answer))


def test_server_that_is_briefly_away_is_waited_for():
    with server(away=1) as client:
        [update] = client.runs.follow("r")
    assert update.run.decision == "GO"


def test_patience_ends():
    with server(away=1) as client, pytest.raises(ServerAway, match="later"):
        next(client.runs.follow("r", patience_s=0))
