import threading
import time

import pytest

from tunix_rt.client import Client
from tunix_rt_common.pipeline import Ending
from tunix_rt_common.states import JobState


@pytest.fixture
def own_world(command, platform, monkeypatch, tmp_path):
    """No server is named or running; the embedded world that is found instead is the platform."""
    info = tmp_path / "pretended_embedded-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretended-embedded\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tunix_rt.embedded]\nworld = pretended_platform:open_world\n")
    (tmp_path / "pretended_platform.py").write_text(
        "import os\nfrom contextlib import nullcontext\n"
        "def open_world():\n    return nullcontext(os.environ['PRETENDED_URL'])\n"
    )
    monkeypatch.setenv("PRETENDED_URL", platform.url)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("TUNIX_RT_API_URL")
    monkeypatch.setenv("TUNIX_RT_HOME", str(tmp_path / "nobody"))


def test_build_waits_where_nobody_else_would_build(command, own_world):
    command("traces", "generate", "arithmetic", "--count", "10")
    assert command("datasets", "build", "sums", "--no-wait", "--json").json["state"] == "succeeded"


def test_create_says_so_and_waits_where_nobody_else_would_train(command, dataset, own_world, platform):
    trainer = threading.Thread(target=fail_the_first_run, args=(platform,), daemon=True)
    trainer.start()
    outcome = command("runs", "create", "--dataset", dataset, "--base-model", "tiny", "--json")
    trainer.join(10)
    assert (outcome.code, outcome.json["state"]) == (1, "failed")
    assert "no server runs here" in outcome.err
    assert "no such luck" in outcome.err


def fail_the_first_run(platform) -> None:
    with Client(platform.url) as client:
        while (run := next(client.runs.list(), None)) is None:
            time.sleep(0.05)
    platform.end(platform.claim(run.run_id), Ending(JobState.FAILED, "no such luck"))
