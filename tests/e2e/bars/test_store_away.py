"""A run whose artifact store is killed under it and comes back. Real processes, a real S3 server."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.bars.server import Up, build_sums, small_run, start_up
from tests.servers.processes import Minio

from tunix_rt.client import Client
from tunix_rt.types import Event

PATIENCE_S = 200


@pytest.fixture
def minio(s3_credentials: None) -> Iterator[Minio]:
    """A store of this test's own."""
    with Minio() as server:
        yield server


@pytest.fixture
def up_on_minio(minio: Minio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    monkeypatch.setenv("TUNIX_RT_ARTIFACTS_URL", minio.url)
    server = start_up(tmp_path / "home")
    yield server
    server.process.terminate()
    server.process.wait(30)


def wait_for_event(client: Client, run_id: str, words: str) -> Event:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        events = list(client.runs.events(run_id))
        for event in events:
            if event.message.startswith(words):
                return event
        assert time.monotonic() < deadline, [event.message for event in events]
        time.sleep(0.2)


@pytest.mark.long
@pytest.mark.timeout(500)
def test_run_outlives_its_artifact_store_and_goes_on_by_itself(minio: Minio, up_on_minio: Up) -> None:
    with up_on_minio.client() as client:
        build_sums(client)
        spec = small_run(120, checkpoint_every=10).model_copy(update={"evaluate": None})
        run_id = client.runs.create(spec).run_id
        wait_for_event(client, run_id, "checkpoint of step 10 published")
        minio.kill()
        wait_for_event(client, run_id, "paused: the artifact store is away")
        paused = client.runs.get(run_id)
        minio.start()
        wait_for_event(client, run_id, "continues: checkpoints are published again")
        *_, last = client.runs.follow(run_id)
        ended = client.runs.get(last.run.run_id)
        published = [event.message for event in client.runs.events(run_id) if event.kind == "checkpoint"]
    assert (paused.state, paused.jobs[0].attempt) == ("running", 1)
    assert paused.step < 120
    assert (ended.state, ended.jobs[0].attempt) == ("succeeded", 1)
    assert published == [f"checkpoint of step {step} published" for step in range(10, 121, 10)]
