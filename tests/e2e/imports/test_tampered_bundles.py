"""Every kind of tampering is refused by the name of its file or field, and leaves nothing behind."""

import hashlib
import json
import threading

import pytest
from tests.e2e.world import serving_api

from tunix_rt_common.datasets import ShardEntry, dataset_digest

NOUNS = ("runs", "datasets", "evaluations")


def listed(server):
    found = {noun: server.get(f"/api/v1/{noun}").json["items"] for noun in NOUNS}
    return found | {"models": server.get("/api/v1/models").json}


@pytest.fixture
def refuse(standing_api, bundle):
    """Asks for the import of the tampered bundle; what is said, once it is sure that nothing was written."""

    def ask(**sending):
        before = listed(standing_api)
        problem = bundle.send(standing_api, **sending).problem(422)
        assert listed(standing_api) == before == {"runs": [], "datasets": [], "evaluations": [], "models": []}
        return problem

    return ask


def changed_report(**changes):
    def change(bundle):
        bundle.write("evaluation.json", bundle.document("evaluation.json") | changes)
        bundle.describe()

    return change


def other_shard(bundle):
    """Another row in a shard, with the shard's entry, the manifest's digest and the bundle's made to fit."""
    manifest = bundle.document("dataset/manifest.json")
    entry = manifest["shards"][0]
    path = f"dataset/{entry['path']}"
    content = (bundle.folder / path).read_bytes().replace(b'"one up"', b'"two up"', 1)
    bundle.write(path, content)
    entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    manifest["dataset_sha256"] = dataset_digest([ShardEntry.model_validate(shard) for shard in manifest["shards"]])
    bundle.write("dataset/manifest.json", manifest)
    bundle.write("evaluation.json", bundle.document("evaluation.json") | {"dataset_sha256": manifest["dataset_sha256"]})
    bundle.describe(dataset_sha256=manifest["dataset_sha256"])


def swapped_shard(bundle):
    bundle.write("dataset/train-00000.jsonl", (bundle.folder / "dataset" / "test-00000.jsonl").read_bytes())
    bundle.describe()


def other_digest_in_manifest(bundle):
    bundle.write("dataset/manifest.json", bundle.document("dataset/manifest.json") | {"dataset_sha256": "0" * 64})
    bundle.describe()


def filtered(source):
    def change(bundle):
        manifest = bundle.document("dataset/manifest.json")
        manifest["spec"]["filters"] = {"source": source}
        bundle.write("dataset/manifest.json", manifest)
        bundle.describe()

    return change


def pickled_weights(bundle):
    bundle.write("model/model.safetensors", b"PK\x03\x04" + bytes(100))
    bundle.describe()


def cut_weights(bundle):
    bundle.write("model/model.safetensors", (bundle.folder / "model" / "model.safetensors").read_bytes()[:-4])
    bundle.describe()


def other_weights(bundle):
    content = bytearray((bundle.folder / "model" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    bundle.write("model/model.safetensors", bytes(content))
    bundle.describe()


def added(name, content):
    def change(bundle):
        bundle.write(name, content)
        bundle.describe()

    return change


def removed(name):
    def change(bundle):
        (bundle.folder / name).unlink()
        bundle.describe()

    return change


def lied_about_size(bundle):
    values = bundle.document("bundle.json")
    values["files"][0]["size_bytes"] += 1
    bundle.write("bundle.json", values)


def listing(path):
    def change(bundle):
        values = bundle.document("bundle.json")
        bundle.describe(files=[*values["files"], values["files"][0] | {"path": path}])

    return change


def easier_questions(bundle):
    report = bundle.document("evaluation.json")
    report["items"][0]["prompt"] = "1+1="
    bundle.write("evaluation.json", report)
    bundle.describe()


def respecced(**changes):
    def change(bundle):
        bundle.describe(spec=bundle.document("bundle.json")["spec"] | changes)

    return change


TAMPERINGS = {
    "weights that are a pickle": (pickled_weights, "model/model.safetensors", "is a pickle"),
    "weights that were cut": (cut_weights, "model/model.safetensors", "it was cut or padded"),
    "other weights than were judged": (other_weights, "evaluation.json.model_sha256", "evaluate it again"),
    "a config that is no JSON": (added("model/config.json", b"{"), "model/config.json", "is not JSON"),
    "a config that is no object": (added("model/config.json", b"[]"), "model/config.json", "JSON object"),
    "code beside the model": (added("model/modeling.py", b"print()"), "model/modeling.py", "no file of a model"),
    "weights below a folder": (added("model/x/y.safetensors", b""), "model/x/y.safetensors", "no file of a model"),
    "a model without tokenizer": (removed("model/tokenizer.json"), "model", "tokenizer.json"),
    "a model without weights": (removed("model/model.safetensors"), "model", "safetensors"),
    "a model without config": (removed("model/config.json"), "files", "model/config.json is missing"),
    "no metrics": (removed("metrics.jsonl"), "files", "metrics.jsonl is missing"),
    "metrics out of order": (
        added("metrics.jsonl", b'{"step":2,"numbers":{}}\n{"step":1,"numbers":{}}\n'),
        "metrics.jsonl",
        "step 1 after step 2",
    ),
    "metrics that are none": (added("metrics.jsonl", b"[]\n"), "metrics.jsonl", "line 1 is no metric"),
    "a number under no name": (
        added("metrics.jsonl", b'{"step":1,"numbers":{"\\u0000":1.0}}\n'),
        "metrics.jsonl",
        "line 1 is no metric",
    ),
    "empty metrics": (added("metrics.jsonl", b""), "metrics.jsonl", "holds no step"),
    "a changed row, all digests made to fit": (other_shard, "train-00000.jsonl", "hash of its content"),
    "a shard for another": (swapped_shard, "dataset/train-00000.jsonl", "not the shard"),
    "a missing shard": (removed("dataset/train-00000.jsonl"), "dataset/train-00000.jsonl", "not the shard"),
    "a manifest with another digest": (other_digest_in_manifest, "dataset/manifest.json", "dataset_sha256"),
    "a manifest that is none": (added("dataset/manifest.json", {}), "dataset/manifest.json", "malformed"),
    "a manifest that no database would keep": (
        filtered("\0"),
        "dataset/manifest.json",
        "NUL",
    ),
    "a base model that nobody knows": (
        lambda b: b.describe(base_model={"name": "unheard", "sha256": None}),
        "base_model",
        "is no preset",
    ),
    "a bundle for other data": (lambda b: b.describe(dataset_sha256="0" * 64), "dataset_sha256", "manifest"),
    "a report on another model": (changed_report(model_sha256="0" * 64), "evaluation.json.model_sha256", "again"),
    "a report on other data": (changed_report(dataset_sha256="0" * 64), "evaluation.json.dataset_sha256", "again"),
    "a report on another split": (changed_report(split="train"), "evaluation.json.split", "again"),
    "a report by another judge": (changed_report(judge="kind@1"), "evaluation.json.judge", "again"),
    "easier questions": (easier_questions, "evaluation.json.eval_set_sha256", "again"),
    "a report that is none": (added("evaluation.json", {"items": []}), "evaluation.json", "malformed"),
    "a spec that is wrong": (respecced(alias="7up"), "spec.alias", ""),
    "a spec with a wish for other data": (
        respecced(evaluate={"dataset": "other"}),
        "spec.evaluate.dataset",
        "leads out of the bundle",
    ),
    "a spec with a wish for another judge's machine": (
        respecced(evaluate={"endpoint": {"url": "http://127.0.0.1:1/v1"}}),
        "spec.evaluate.endpoint",
        "leads out of the bundle",
    ),
    "a size that is not the file's": (lied_about_size, "", "bytes, and the bundle says"),
    "a file of no bundle": (listing("x"), "files", "x is no part of a bundle"),
    "a path out of the bundle": (listing("model/../../x"), "files", "'..'"),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampered_bundle_is_refused_by_name_and_nothing_is_written(refuse, bundle, kind):
    tamper, field, words = TAMPERINGS[kind]
    tamper(bundle)
    problem = refuse()
    named = " ".join(error["field"] for error in problem["errors"])
    assert field in named
    assert words in problem["detail"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "model/model.safetensors", "dataset/train-00000.jsonl"])
def test_file_that_was_not_uploaded_is_named_with_its_door(standing_api, bundle, name):
    content = (bundle.folder / name).read_bytes() + b" "
    bundle.write(name, content)
    bundle.describe()
    detail = bundle.send(standing_api, without=name).problem(422)["detail"]
    assert detail.startswith(f"{name} was not uploaded: PUT it to /api/v1/imports/files/")


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "model/model.safetensors", "dataset/manifest.json", "evaluation.json"]
)
def test_command_finds_a_changed_file_before_it_sends_any(standing_api, bundle, imported, name, capsys):
    bundle.write(name, (bundle.folder / name).read_bytes()[:-1] + b" ")
    before = sorted(standing_api.home.rglob("artifacts/blobs/sha256/*/*"))
    assert imported(standing_api, bundle.folder) == 2
    assert f"{name} is not the file that bundle.json lists" in capsys.readouterr().err
    assert sorted(standing_api.home.rglob("artifacts/blobs/sha256/*/*")) == before


def test_command_names_a_folder_that_is_no_bundle(standing_api, imported, tmp_path, capsys):
    assert imported(standing_api, tmp_path) == 2
    assert "one without bundle.json is not finished" in capsys.readouterr().err


def test_upload_is_kept_only_under_its_own_hash(standing_api):
    content = b"some bytes"
    sha256 = hashlib.sha256(content).hexdigest()
    wrong = standing_api.ask("PUT", f"/api/v1/imports/files/{'0' * 64}", content, {}).problem(422)
    assert sha256 in wrong["detail"]
    assert standing_api.ask("PUT", f"/api/v1/imports/files/{sha256}", content, {}).status == 204
    assert standing_api.ask("PUT", "/api/v1/imports/files/..%2f..%2fpasswd", content, {}).status == 404
    assert not list((standing_api.home / "scratch" / "uploads").iterdir())


def test_compressed_and_oversized_uploads_are_refused(tmp_path):
    content = bytes(2000)
    door = f"/api/v1/imports/files/{hashlib.sha256(content).hexdigest()}"
    with serving_api(tmp_path / "home", max_upload_bytes=1000) as server:
        assert "TUNIX_RT_MAX_UPLOAD_BYTES" in server.ask("PUT", door, content, {}).problem(413)["detail"]
        server.ask("PUT", door, content, {"Content-Encoding": "gzip"}).problem(415)
        assert not list((tmp_path / "home" / "scratch" / "uploads").iterdir())
        assert not list((tmp_path / "home").rglob("artifacts/blobs/sha256/*/*"))


def test_two_imports_at_once_are_one_run(idle_api, bundle):
    bundle.send(idle_api)
    answers = []
    document = json.loads((bundle.folder / "bundle.json").read_text())
    threads = [
        threading.Thread(target=lambda: answers.append(idle_api.post("/api/v1/imports", document))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["run_id"] for answer in answers}) == 1
    assert len(idle_api.get("/api/v1/runs").json["items"]) == 1


def test_forged_scores_fail_the_run_and_register_nothing(world, bundle, imported, capsys):
    report = bundle.document("evaluation.json")
    report["overall"] |= {"correct": 12, "accuracy": 1.0}
    for item in report["items"]:
        item |= {"outcome": "correct", "extracted": item["expected"]}
    bundle.write("evaluation.json", report)
    bundle.describe(spec=bundle.document("bundle.json")["spec"] | {"model_name": "forged"})
    assert imported(world, bundle.folder) == 1
    assert "is not what judging its answers gives" in capsys.readouterr().err
    assert world.get("/api/v1/models/forged").status == 404
    assert world.get("/api/v1/evaluations").json["items"] == []


def test_model_that_cannot_be_loaded_is_not_registered(world, bundle, imported, capsys):
    """Its parts fit each other on paper: only loading shows that the weights are another model's."""
    config = bundle.document("model/config.json")
    bundle.write("model/config.json", config | {"hidden_size": 2 * config["hidden_size"]})
    (bundle.folder / "evaluation.json").unlink()
    bundle.describe(spec=bundle.document("bundle.json")["spec"] | {"model_name": "misfit"})
    assert imported(world, bundle.folder) == 1
    assert "the weights belong to another config" in capsys.readouterr().err
    assert world.get("/api/v1/models/misfit").status == 404
