"""One cluster for all scenarios of a process, healed before and audited after each, and the table at the end.

`--faults-report FILE` keeps the table as JSON, or as Markdown where the file is called so.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tests.faults.suite import scoreboard
from tests.faults.suite.cluster import Cluster
from tests.faults.suite.crashing import POINTS
from tests.faults.suite.scene import Scene
from tests.faults.suite.scoreboard import Score

SCORE, PASSED = "score", "crash points passed"
"""What a test's report carries, also from the process that ran it to the one that writes the table."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-report", type=Path, help="where to write the table of the fault scenarios")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(numbers): the fault of RELIABILITY.md that the scenario stages")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is given much time starts first: started last, it would run beside idle processes."""
    items.sort(key=lambda item: -sum(mark.args[0] for mark in item.iter_markers("timeout")))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    scores = [Score(**score) for score in told(terminalreporter, SCORE)]
    if not scores:
        return
    terminalreporter.section("fault scenarios")
    for line in scoreboard.table(scores):
        terminalreporter.write_line(line)
    if passed := set().union(*told(terminalreporter, PASSED)):
        terminalreporter.write_line(f"\n{len(passed)} of {len(POINTS)} crash points at which a process has died:")
        for name in sorted(passed):
            terminalreporter.write_line(f"  {name}")
    if file := config.getoption("--faults-report", default=None):
        scoreboard.write(scores, file)


def told(terminalreporter: pytest.TerminalReporter, name: str) -> list[Any]:
    """What tests have told under a name, in the order of their ends."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    return [
        value
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for key, value in report.user_properties
        if key == name
    ]


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
    request.node.user_properties += [(SCORE, asdict(score)), (PASSED, sorted(scene.passed))]
    assert scene.violations() == [], cluster.last_words()
    assert (score.lost, score.doubled, score.changed) == (0, 0, 0), "\n".join([cluster.last_words(), *scene.lost])


def _name(request: pytest.FixtureRequest) -> str:
    mark = request.node.get_closest_marker("fault")
    words = request.node.name.removeprefix("test_").replace("_", " ")
    return f"{mark.args[0]} {words}" if mark else words
