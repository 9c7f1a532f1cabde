"""The quickstart's story, as a newcomer tells it: by the command, in an empty home."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.bars.cluster import Cluster

SETTLED_S = 900


def tell(home: Path) -> dict:
    told = subprocess.run(
        [sys.executable, "-m", "tunix_rt", "quickstart", "--json"],
        env=os.environ | {"TUNIX_RT_HOME": str(home)},
        stdout=subprocess.PIPE,
        timeout=SETTLED_S,
        check=False,
    )
    assert told.returncode == 0
    return json.loads(told.stdout)


@pytest.mark.long
@pytest.mark.timeout(2 * SETTLED_S)
def test_the_story_ends_with_a_better_champion_and_ends_alike_when_told_again(tmp_path: Path):
    first, second = tell(tmp_path / "first"), tell(tmp_path / "second")
    champion, beaten = first["leaderboard"]
    assert first["decision"] == "GO"
    assert champion["aliases"] == ["champion"]
    assert champion["run_id"] == first["runs"]["traces"]["run_id"]
    assert champion["score"]["scored"] >= 200
    assert champion["score"]["accuracy"] >= 0.90
    assert champion["score"]["accuracy"] - beaten["score"]["accuracy"] >= 0.25
    for target in ("answers", "traces"):
        digests = [story["runs"][target]["training"]["manifest_sha256"] for story in (first, second)]
        assert digests[0] == digests[1]
    scores = [[row["score"] for row in story["leaderboard"]] for story in (first, second)]
    assert scores[0] == scores[1]


@pytest.mark.long
@pytest.mark.timeout(SETTLED_S)
def test_the_story_is_the_same_on_four_services(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNIX_RT_API_URL", cluster.url)
    told = tell(tmp_path / "client")
    assert (told["told"], told["decision"]) == (True, "GO")
    assert told["leaderboard"][0]["score"]["accuracy"] >= 0.90


@pytest.mark.long
@pytest.mark.timeout(SETTLED_S)
def test_the_story_can_be_told_twice_in_one_home(tmp_path: Path):
    names = [tell(tmp_path)["model"], tell(tmp_path)["model"]]
    assert names == ["quickstart", "quickstart-2"]
