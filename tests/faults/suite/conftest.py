"""One cluster for all scenarios, healed before and audited after each, and the table at the end.

`--faults-report FILE` keeps the table as JSON, or as Markdown where the file is called so.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.faults.suite import scoreboard
from tests.faults.suite.cluster import Cluster
from tests.faults.suite.crashing import POINTS
from tests.faults.suite.scene import Scene
from tests.faults.suite.scoreboard import Score

SCORES = pytest.StashKey[list[Score]]()
PASSED = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-report", type=Path, help="where to write the table of the fault scenarios")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(numbers): the fault of RELIABILITY.md that the scenario stages")
    config.stash[SCORES], config.stash[PASSED] = [], set()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    scores = config.stash.get(SCORES, [])
    if not scores:
        return
    terminalreporter.section("fault scenarios")
    for line in scoreboard.table(scores):
        terminalreporter.write_line(line)
    if passed := config.stash[PASSED]:
        terminalreporter.write_line(f"\n{len(passed)} of {len(POINTS)} crash points at which a process has died:")
        for name in sorted(passed):
            terminalreporter.write_line(f"  {name}")
    if file := config.getoption("--faults-report", default=None):
        scoreboard.write(scores, file)


@pytest.fixture(scope="session")
def cluster(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Started once: each scenario leaves it healed."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def scene(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A scenario on a healthy cluster; after it nothing may be lost, doubled or changed, and all invariants hold."""
    cluster.heal()
    scene = Scene(cluster)
    yield scene
    score = replace(scene.settle(), scenario=_name(request))
    request.config.stash[SCORES].append(score)
    request.config.stash[PASSED].update(scene.passed)
    assert scene.violations() == [], cluster.last_words()
    assert (score.lost, score.doubled, score.changed) == (0, 0, 0), cluster.last_words()


def _name(request: pytest.FixtureRequest) -> str:
    mark = request.node.get_closest_marker("fault")
    words = request.node.name.removeprefix("test_").replace("_", " ")
    return f"{mark.args[0]} {words}" if mark else words
