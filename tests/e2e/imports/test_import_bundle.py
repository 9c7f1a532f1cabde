"""What comes of an honest bundle: a finished run, its data, its numbers, a version, and an alias by the gate alone."""

import json
from pathlib import Path

import pytest
from tests.e2e.imports.conftest import SPEC, records

from tunix_rt import cli
from tunix_rt_common.runbundle import measured, read_metrics


@pytest.fixture
def run_of(world):
    def find(carried):
        return world.get(f"/api/v1/imports/{carried.sha256}").json

    return find


def test_bundle_becomes_a_finished_run_with_all_that_it_holds(world, bundle, imported, run_of, capsys):
    assert imported(world, bundle.folder, "--json") == 0
    run = json.loads(capsys.readouterr().out)
    assert (run["state"], run["bundle_sha256"]) == ("succeeded", bundle.sha256)
    assert (run["step"], run["total_steps"]) == (6, 6)
    lines = (bundle.folder / "metrics.jsonl").read_bytes().splitlines()
    told = world.get(f"/api/v1/runs/{run['run_id']}/metrics").json
    assert [(row["step"], row["numbers"]) for row in told] == [(m.step, m.numbers) for m in read_metrics(lines)]
    assert run["training"]["metrics"] == measured(read_metrics(lines))
    evaluation = world.get(f"/api/v1/evaluations/{run['evaluation_id']}").json
    report = bundle.document("evaluation.json")
    assert evaluation["score"] == report["overall"]
    assert evaluation["model_sha256"] == report["model_sha256"] == run["training"]["manifest_sha256"]
    version = world.get(f"/api/v1/models/carried/versions/{run['model_version']}").json
    assert {(file["path"], file["sha256"]) for file in version["files"]} == {
        (entry.path, entry.sha256) for entry in bundle.bundle.below("model")
    }
    assert version["provenance"]["pins"]["bundle"]["manifest_sha256"] == bundle.sha256
    assert (evaluation["decision"], version["aliases"]) == ("GO", ["champion"])


def test_same_bundle_twice_is_the_same_run_and_sends_nothing(world, bundle, imported, run_of, capsys):
    assert imported(world, bundle.folder) == 0
    first, versions = run_of(bundle), world.get("/api/v1/models/carried/versions").json
    (bundle.folder / "model" / "model.safetensors").unlink()
    assert imported(world, bundle.folder) == 0
    assert run_of(bundle) == first
    assert world.get("/api/v1/models/carried/versions").json == versions


def test_dataset_that_the_platform_has_is_not_made_again(world, bundle, unjudged_bundle, imported, run_of):
    for carried in (bundle, unjudged_bundle):
        assert imported(world, carried.folder) == 0
    assert run_of(bundle)["dataset"] == run_of(unjudged_bundle)["dataset"] == "carried@1"
    assert world.get("/api/v1/datasets/carried").json["version"] == 1


def test_imported_dataset_serves_like_one_that_was_built_here(world, bundle, imported):
    assert imported(world, bundle.folder) == 0
    dataset = world.get("/api/v1/datasets/carried@1").json
    assert (dataset["state"], dataset["dataset_sha256"]) == ("succeeded", bundle.bundle.dataset_sha256)
    exported = world.get("/api/v1/datasets/carried@1/export.jsonl").text.splitlines()
    assert len(exported) == len(records())
    assert any(row["name"] == "carried" for row in world.get("/api/v1/datasets").json["items"])


def test_same_traces_built_here_are_known_as_the_bundles_dataset(world, bundle, imported, run_of):
    world.import_traces(*records(), source="the same")
    built = world.build("built-here", filters={"source": "the same"}, test_fraction=0.3)
    assert built["dataset_sha256"] == bundle.bundle.dataset_sha256


def test_bundle_without_evaluation_is_judged_by_the_platform(world, unjudged_bundle, imported, run_of, bundle):
    assert imported(world, unjudged_bundle.folder) == 0
    run = run_of(unjudged_bundle)
    detail = world.get(f"/api/v1/runs/{run['run_id']}").json
    items = world.get(f"/api/v1/evaluations/{detail['evaluation_id']}/items", limit=50).json["items"]
    assert items == bundle.document("evaluation.json")["items"]


def test_alias_moves_only_by_the_platforms_own_comparison(world, bundle, imported, run_of):
    """The second of two equal models cannot show that it is no worse, whatever its bundle wishes for."""
    assert imported(world, bundle.folder) == 0
    bundle.describe(created_at="2020-01-01T00:00:00Z")
    assert imported(world, bundle.folder) == 0
    run = world.get(f"/api/v1/runs/{run_of(bundle)['run_id']}").json
    assert run["decision"] == "INCONCLUSIVE"
    version = world.get(f"/api/v1/models/carried/versions/{run['model_version']}").json
    assert version["aliases"] == []
    verdict = world.get(f"/api/v1/evaluations/{run['evaluation_id']}").json["verdict"]
    assert verdict["baseline_report_sha256"]


def test_bundle_that_asks_for_no_evaluation_is_registered_without_alias(world, unjudged_bundle, imported, run_of):
    spec = unjudged_bundle.document("bundle.json")["spec"]
    unjudged_bundle.describe(spec=spec | {"evaluate": None, "model_name": "unjudged"})
    assert imported(world, unjudged_bundle.folder) == 0
    version = world.get("/api/v1/models/unjudged/versions/1").json
    assert (version["aliases"], version["evaluation_id"]) == ([], None)


def test_run_goes_on_from_an_imported_model(world, bundle, imported):
    assert imported(world, bundle.folder) == 0
    place = world.start("carried", "carried@champion", train=SPEC["train"] | {"max_steps": 1}, evaluate=None)
    assert world.wait(place)["state"] == "succeeded"


def test_pulled_dataset_is_what_the_platform_has(world, bundle, imported, tmp_path, monkeypatch):
    assert imported(world, bundle.folder) == 0
    assert cli.run(["datasets", "pull", "carried@1", str(tmp_path / "pulled")]) == 0
    shards = {path.name: path.read_bytes() for path in (bundle.folder / "dataset").glob("*.jsonl")}
    assert {path.name: path.read_bytes() for path in (tmp_path / "pulled").glob("*.jsonl")} == shards
    assert cli.run(["datasets", "pull", "carried@1", str(tmp_path / "pulled")]) == 2
    assert Path(tmp_path / "pulled" / "manifest.json").exists()
