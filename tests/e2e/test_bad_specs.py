"""Requests for datasets and runs that cannot work: refused at the door, by field, and nothing is kept of them."""

import pytest

NAMES = [
    "",
    " ",
    "A",
    "a b",
    "a\n",
    "a/../b",
    "..",
    "x" * 65,
    "'; DROP TABLE runs;--",
    "<script>",
    "a\u202eb",
    "\u200b",
]

DATASETS = [
    *[({"name": name}, "name") for name in NAMES],
    ({"name": "a", "version": 3}, "version"),
    ({"name": "a", "state": "succeeded"}, "state"),
    ({"name": "a", "select": "best"}, "select"),
    ({"name": "a", "limit": 0}, "limit"),
    ({"name": "a", "limit": True}, "limit"),
    ({"name": "a", "limit": "7"}, "limit"),
    ({"name": "a", "limit": 10**12}, "limit"),
    ({"name": "a", "seed": -1}, "seed"),
    ({"name": "a", "seed": 2**64}, "seed"),
    ({"name": "a", "rows_per_shard": 0}, "rows_per_shard"),
    ({"name": "a", "validation_fraction": -0.1}, "validation_fraction"),
    ({"name": "a", "validation_fraction": "0.1"}, "validation_fraction"),
    ({"name": "a", "test_fraction": True}, "test_fraction"),
    ({"name": "a", "validation_fraction": 0.6, "test_fraction": 0.6}, "body"),
    ({"name": "a", "filters": {"color": "red"}}, "body"),
    ({"name": "a", "filters": {"source": 5}}, "filters.source"),
    ({"name": "a", "filters": {"source": "nobody"}}, "filters"),
    ({"name": "a", "filters": {"source": "x" * 1_000_000}}, "filters"),
]

TRAIN = [
    *[({"optimizer": {"learning_rate": rate}}, "optimizer.learning_rate") for rate in (0, -0.0, -1, "fast", "0.001")],
    *[({"optimizer": {"learning_rate": rate}}, "optimizer.learning_rate") for rate in (1e30, True, None, [])],
    ({"optimizer": {"name": "sgd"}}, "optimizer.name"),
    ({"optimizer": {"schedule": {"kind": "step"}}}, "optimizer.schedule.kind"),
    ({"optimizer": {"schedule": {"warmup": 1}}}, "optimizer.schedule.warmup"),
    ({"batch_size": 0}, "batch_size"),
    ({"batch_size": True}, "batch_size"),
    ({"batch_size": "32"}, "batch_size"),
    ({"batch_size": 2**63}, "batch_size"),
    ({"batch_size": 6, "accumulation": 4}, ""),
    ({"accumulation": 0}, "accumulation"),
    ({"max_tokens": 4}, "max_tokens"),
    ({"max_steps": 0}, "max_steps"),
    ({"max_steps": 10**12}, "max_steps"),
    ({"epochs": 0}, "epochs"),
    ({"checkpoint_every": 0}, "checkpoint_every"),
    ({"validate_every": 0}, "validate_every"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**64}, "seed"),
    ({"seed": True}, "seed"),
    ({"lora": {"rank": 0}}, "lora.rank"),
    ({"lora": {"rank": 1025}}, "lora.rank"),
    ({"lora": {"alpha": 0}}, "lora.alpha"),
    ({"lora": {"targets": []}}, "lora"),
    ({"lora": {"targets": ["q_proj", "q_proj"]}}, "lora"),
    ({"lora": {"targets": ["lm_head"]}}, "lora.targets.0"),
    ({"lora": {"rslora": 1}}, "lora.rslora"),
    ({"lora": {"base": "int3"}}, "lora.base"),
    ({"lora": {"adapter": ""}}, "lora.adapter"),
    ({"lora": {"adapter": "nobody@1"}}, "lora.adapter"),
    ({"lora": {"adapter": "nobody"}}, "lora.adapter"),
    ({"lora": {"adapter": "/etc"}}, "lora.adapter"),
    ({"lora": {"adapter": "sums@1", "rank": 4}}, "lora"),
    ({"method": "ppo"}, "method"),
    ({"method": ["sft"]}, "method"),
    ({"method": None}, "method"),
    ({"beta": 0.1}, "beta"),
    ({"step_weights": {"verify": -1}}, "step_weights.verify"),
    ({"step_weights": {"verify": "2"}}, "step_weights.verify"),
    ({"step_weights": {"verify": True}}, "step_weights.verify"),
    ({"step_weights": {"": 1}}, "step_weights..[key]"),
    ({"step_weights": ["verify"]}, "step_weights"),
    ({"step_weights": {str(number): 1 for number in range(101)}}, "step_weights"),
    ({"method": "dpo", "beta": 0}, "beta"),
    ({"method": "dpo", "label_smoothing": 0.5}, "label_smoothing"),
    ({"method": "dpo", "packing": True}, "packing"),
    ({"method": "dpo", "step_weights": {"verify": 2}}, "step_weights"),
    ({"method": "dpo", "batch_size": 6, "accumulation": 4}, ""),
    ({"batch_size": 6, "mesh": {"data": 4}}, ""),
    ({"batch_size": 8, "accumulation": 2, "mesh": {"data": 2, "fsdp": 4}}, ""),
    ({"mesh": {"data": 0}}, "mesh.data"),
    ({"mesh": {"pipeline": 2}}, "mesh.pipeline"),
    ({"method": "orpo", "ratio_weight": -1}, "ratio_weight"),
    ({"method": "orpo", "beta": 0.1}, "beta"),
    ({"method": "distill"}, "teacher"),
    ({"method": "distill", "teacher": "tiny"}, "teacher"),
    ({"method": "distill", "teacher": "nobody"}, "teacher"),
    ({"method": "distill", "teacher": "nobody@champion"}, "teacher"),
    ({"method": "distill", "teacher": "/etc"}, "teacher"),
    ({"method": "distill", "teacher": "sums@1", "temperature": 0}, "temperature"),
    ({"method": "distill", "teacher": "sums@1", "alpha": 1.5}, "alpha"),
    ({"method": "distill", "teacher": "sums@1", "alpha": 0}, "alpha"),
    ({"engine": "torch"}, "engine"),
    ({"target": "all"}, "target"),
    ({"env": {"LD_PRELOAD": "x.so"}}, "env"),
]

SERVED = "http://127.0.0.1:8000/v1"
ENDPOINTS = [
    SERVED,
    "http://169.254.169.254/latest/meta-data",
    "http://user:secret@127.0.0.1:8000/v1",
    "http://127.0.0.1:8000@example.org/v1",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_SET",
    "HTTP:/127.0.0.1",
    "//127.0.0.1:8000/v1",
    "http://",
    "http://:8000/v1",
    "http://127.0.0.1:99999/v1",
    "http://127.0.0.1:8000/v1?key=1",
    "http://127.0.0.1:8000/v1#x",
    "http://127.0.0.1:8000\\@example.org/v1",
    "http://127.0.0.1:8000/v1\r\nHost: x",
    "http://exämple.org/v1",
    "http://" + "a" * 2000,
    "",
    5,
    None,
]

RUNS = [
    *[({"train": train}, f"train.{field}".rstrip(".")) for train, field in TRAIN],
    *[
        ({"dataset": name}, "dataset")
        for name in ("nobody", "sums@", "sums@9", "sums@x", "@1", "../x", "\x7f", "x" * 201)
    ],
    ({"dataset": 5}, "dataset"),
    *[({"model_name": name}, "model_name") for name in NAMES],
    *[({"alias": name}, "alias") for name in (*NAMES, "1")],
    ({"base_model": ""}, "base_model"),
    ({"base_model": "x" * 4097}, "base_model"),
    ({"base_model": "x" * 4096}, "base_model"),
    ({"base_model": "TINY"}, "base_model"),
    ({"base_model": "sums@champion"}, "base_model"),
    ({"base_model": "sums@1234567890"}, "base_model"),
    ({"evaluate": {"split": "dev"}}, "evaluate.split"),
    ({"evaluate": {"dataset": "nobody"}}, "evaluate.dataset"),
    ({"evaluate": {"judge": "vibes@1"}}, "evaluate.judge"),
    ({"evaluate": {"sampling": {"temperature": -1}}}, "evaluate.sampling.temperature"),
    ({"evaluate": {"sampling": {"stop": [""]}}}, "evaluate.sampling.stop.0"),
    *[({"evaluate": {"endpoint": {"url": url}}}, "evaluate.endpoint.url") for url in ENDPOINTS],
    ({"evaluate": {"endpoint": {}}}, "evaluate.endpoint.url"),
    *[
        ({"evaluate": {"endpoint": {"url": SERVED, **change}}}, f"evaluate.endpoint{field}")
        for change, field in [
            ({"model": "llama"}, ""),
            ({"concurrency": 0}, ".concurrency"),
            ({"concurrency": 257}, ".concurrency"),
            ({"timeout_s": 0}, ".timeout_s"),
            ({"timeout_s": 1e9}, ".timeout_s"),
            ({"retries": -1}, ".retries"),
            ({"retries": 11}, ".retries"),
            ({"api_key": "sk-1"}, ".api_key"),
        ]
    ],
    ({"gate": {"confidence": 1}}, "gate.confidence"),
    ({"promote": "yes"}, "promote"),
    ({"promote": 1}, "promote"),
    ({"state": "running"}, "state"),
    ({"max_attempts": 10**6}, "max_attempts"),
]


def trace(number: int) -> dict[str, object]:
    steps = [{"i": 0, "type": "sum", "content": f"{number} and 1"}]
    return {"prompt": f"{number}+1=", "steps": steps, "final_answer": str(number + 1), "meta": {"parity": number % 2}}


@pytest.fixture(scope="module")
def sums(standing_api):
    standing_api.import_traces(*map(trace, range(20)), source="sums")
    assert standing_api.build("sums", test_fraction=0.2)["state"] == "succeeded"
    return standing_api


def test_dataset_of_an_empty_store_is_refused(api):
    assert "import some first" in api.post("/api/v1/datasets", {"name": "a"}).problem(422)["detail"]
    assert api.get("/api/v1/datasets").json["items"] == []


@pytest.mark.parametrize(("spec", "field"), DATASETS, ids=lambda value: repr(value)[:60])
def test_dataset_that_cannot_be_built_is_refused_by_field(sums, spec, field):
    problem = sums.post("/api/v1/datasets", spec).problem(422)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert [dataset["name"] for dataset in sums.get("/api/v1/datasets").json["items"]] == ["sums"]


@pytest.mark.parametrize(("spec", "field"), RUNS, ids=lambda value: repr(value)[:60])
def test_run_that_cannot_work_is_refused_by_field(sums, spec, field):
    problem = sums.post("/api/v1/runs", {"dataset": "sums", "base_model": "tiny", **spec}).problem(422)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert sums.get("/api/v1/runs").json["items"] == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e309"])
def test_number_that_is_none_is_refused_by_name(sums, number):
    body = f'{{"dataset": "sums", "base_model": "tiny", "train": {{"optimizer": {{"learning_rate": {number}}}}}}}'
    detail = sums.post("/api/v1/runs", body.encode()).problem(422)["detail"]
    assert ("number" if number == "1e309" else number) in detail


@pytest.mark.parametrize("path", ["/etc", "/etc/passwd", "../models", "~", "~nobody/x", "~no-such-user/x", "./x"])
def test_base_model_elsewhere_on_the_server_is_not_read(sums, path):
    problem = sums.post("/api/v1/runs", {"dataset": "sums", "base_model": path}).problem(422)
    assert problem["errors"][0]["field"] == "base_model"


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1/x", "file:///etc", "meta-llama/Llama-3", "/" + "a/" * 2000, "/" + "a" * 999]
)
def test_base_model_that_is_no_path_here_is_refused(sums, path):
    problem = sums.post("/api/v1/runs", {"dataset": "sums", "base_model": path}).problem(422)
    assert problem["errors"][0]["field"] == "base_model"


def test_engine_that_is_not_installed_comes_with_the_command_that_installs_it(sums):
    spec = {"dataset": "sums", "base_model": "tiny", "train": {"engine": "tunix"}}
    assert "pip install google-tunix" in sums.post("/api/v1/runs", spec).problem(501)["detail"]


def test_run_on_a_dataset_that_is_still_being_built_is_refused_for_now(idle_api):
    idle_api.import_traces(trace(1), trace(2))
    assert idle_api.post("/api/v1/datasets", {"name": "sums"}).status == 202
    problem = idle_api.post("/api/v1/runs", {"dataset": "sums", "base_model": "tiny"}).problem(409)
    assert "still being built" in problem["detail"]


def test_run_on_a_dataset_that_could_not_be_built_says_why(api):
    api.import_traces(trace(1))
    assert api.build("empty", filters={"meta.colour": "None"})["state"] == "failed"
    problem = api.post("/api/v1/runs", {"dataset": "empty", "base_model": "tiny"}).problem(422)
    assert "no trace passes the filters" in problem["detail"]


def test_run_without_rows_to_train_on_is_refused(api):
    api.import_traces(*map(trace, range(10)))
    api.build("exam", validation_fraction=0, test_fraction=1)
    problem = api.post("/api/v1/runs", {"dataset": "exam", "base_model": "tiny"}).problem(422)
    assert problem["errors"][0]["field"] == "dataset"
    assert "train" in problem["detail"]


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_preference_method_on_a_dataset_without_pairs_is_refused(sums, method):
    train = {"method": method, "batch_size": 2}
    problem = sums.post("/api/v1/runs", {"dataset": "sums", "base_model": "tiny", "train": train}).problem(422)
    assert problem["errors"][0]["field"] == "dataset"
    assert f"no preference pairs in its train split, which {method} learns from" in problem["detail"]


@pytest.mark.parametrize("evaluate", [{}, {"dataset": "lessons"}, {"split": "validation"}])
def test_run_without_rows_to_be_judged_on_is_refused_before_it_trains(api, evaluate):
    api.import_traces(*map(trace, range(10)))
    api.build("lessons", validation_fraction=0, test_fraction=0)
    spec = {"dataset": "lessons", "base_model": "tiny", "evaluate": evaluate}
    problem = api.post("/api/v1/runs", spec).problem(422)
    assert problem["errors"][0]["field"] == "evaluate.split"
    assert "larger" in problem["detail"]
    assert api.post("/api/v1/runs", {**spec, "evaluate": None}).status == 202


def test_filter_on_meta_takes_only_traces_that_have_the_key(api):
    api.import_traces(*map(trace, range(10)))
    built = api.build("odd", filters={"meta.parity": "1"}, validation_fraction=0, test_fraction=0)
    assert built["manifest"]["statistics"]["rows"] == 5


@pytest.mark.parametrize(
    "move",
    [{"version": 0}, {"version": True}, {"version": "1"}, {"version": 1.5}, {"version": 2**63}, {"version": None}],
)
def test_alias_move_to_no_version_number_is_refused(sums, move):
    problem = sums.ask("PUT", "/api/v1/models/sums/aliases/champion", {"expected_version": None, **move}).problem(422)
    assert [error["field"] for error in problem["errors"]] == ["version"]


def test_alias_move_of_an_unknown_model_is_404(sums):
    move = {"version": 1, "expected_version": None}
    sums.ask("PUT", "/api/v1/models/nobody/aliases/champion", move).problem(404)
