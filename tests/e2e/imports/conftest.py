"""Bundles as the offline commands leave them, and hands that tamper with copies of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.world import Answer, Server

from tunix_rt import cli
from tunix_rt_common import runbundle
from tunix_rt_common.reports import digest
from tunix_rt_common.runbundle import RunBundle
from tunix_rt_evaluator.offline import evaluate_offline
from tunix_rt_trainer.offline import train_offline

SPEC = {
    "dataset": "carried",
    "train": {"epochs": 100.0, "max_steps": 6, "batch_size": 4, "max_tokens": 64, "checkpoint_every": 6},
    "evaluate": {"limit": 12, "sampling": {"max_new_tokens": 4}},
    "gate": {"min_items": 5},
}


def records(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{n}+1=", "steps": [{"i": 0, "type": "sum", "content": "one up"}], "final_answer": str(n + 1)}
        for n in range(count)
    ]


@dataclass
class Carried:
    """A bundle in a folder of the test's own."""

    folder: Path

    @property
    def bundle(self) -> RunBundle:
        return runbundle.read_bundle(self.folder)

    @property
    def sha256(self) -> str:
        return digest(self.bundle)

    def document(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def write(self, name: str, content: bytes | object) -> None:
        """Put a file into the bundle, without telling its description."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    def describe(self, **changes: Any) -> None:
        """Make the description fit the files again, as a careful forger would."""
        path = self.folder / "bundle.json"
        files = [entry.model_dump() for entry in runbundle.list_files(self.folder)]
        path.write_text(json.dumps(self.document("bundle.json") | {"files": files} | changes))

    def send(self, server: Server, without: str | None = None) -> Answer:
        """Upload the files and ask for the import, past all that the command checks."""
        for entry in self.document("bundle.json")["files"]:
            path = self.folder / entry["path"]
            if entry["path"] != without and path.is_file():
                answer = server.ask("PUT", f"/api/v1/imports/files/{entry['sha256']}", path.read_bytes(), {})
                assert answer.status in {204, 422}, answer.text
        return server.post("/api/v1/imports", self.document("bundle.json"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as training leaves it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "traces.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records()))
    out = folder / "bundle"
    train_offline(SPEC, folder / "traces.jsonl", out, base_model="tiny", splits={"test_fraction": 0.3})
    return out


@pytest.fixture(scope="session")
def judged(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an evaluation."""
    out = tmp_path_factory.mktemp("judged") / "bundle"
    shutil.copytree(trained, out)
    evaluate_offline(out)
    return out


@pytest.fixture
def unjudged_bundle(trained: Path, tmp_path: Path) -> Carried:
    return Carried(Path(shutil.copytree(trained, tmp_path / "unjudged")))


@pytest.fixture
def bundle(judged: Path, tmp_path: Path) -> Carried:
    return Carried(Path(shutil.copytree(judged, tmp_path / "bundle")))


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server, Path], int]:
    """Runs `tunix-rt runs import` against a server; its exit code."""

    def call(server: Server, folder: Path, *options: str) -> int:
        monkeypatch.setenv("TUNIX_RT_API_URL", server.url)
        return int(cli.run(["runs", "import", str(folder), *options]))

    return call
