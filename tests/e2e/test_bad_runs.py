"""Runs that were accepted and cannot work: the job fails, once, before training starts, and says what to do.

Real children load and train, so what the unit tests of modeling show already is repeated here for a few cases only.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

QUICK = {"max_steps": 1, "batch_size": 2, "max_tokens": 64}
NORM = "model.norm.weight"
LONG = "How many apples are in the very long basket? " * 200


def trace(number: int, prompt: str = "") -> dict[str, Any]:
    steps = [{"i": 0, "type": "sum", "content": f"{number} and 1"}]
    return {"prompt": prompt or f"{number}+1=", "steps": steps, "final_answer": str(number + 1)}


def config(**changes: Any) -> Callable[[Path], object]:
    def broken(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return broken


def template(source: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(source)


def not_a_number(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[NORM] = np.full_like(weights[NORM], np.nan)
    save_file(weights, folder / "model.safetensors")


def index_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    index = {"weight_map": {NORM: "../../../../etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_tokenizer_inside(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def other_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    token = {"id": 512, "content": "<new>", "special": False, "normalized": False}
    document["added_tokens"].append(token | {"single_word": False, "lstrip": False, "rstrip": False})
    path.write_text(json.dumps(document))


MODELS = {
    "shapes": (config(hidden_size=128), "the config makes it"),
    "nan": (not_a_number, f"{NORM} holds NaN"),
    "index": (index_outside, "leads out of the model directory"),
    "loop": (template("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"), "loop rounds"),
}
MORE_MODELS = {
    "code": (config(auto_map={"AutoModel": "evil.Model"}), "auto_map"),
    "type": (config(model_type="mamba"), "model_type 'mamba' is not supported"),
    "sizes": (config(num_hidden_layers=-1), "num_hidden_layers"),
    "tokenizer": (no_tokenizer_inside, "tokenizer.json cannot be read"),
    "vocabulary": (other_tokenizer, "the embedding only 512 rows"),
    "escape": (template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), "chat template failed"),
    "syntax": (template("{% if %}"), "chat template failed"),
}
SPECS = {
    "rank": ({"base_model": "tiny", "train": {**QUICK, "lora": {"rank": 129}}}, "LoRA rank 129 exceeds"),
    "long": ({"dataset": "long", "train": QUICK}, "Raise max_tokens to at least"),
}


@pytest.fixture(scope="module")
def filled(world):
    """A world with a dataset of which two rows are too long, and one of which all are."""
    world.import_traces(
        *map(trace, range(8)), *(trace(number, f"{LONG}{number}") for number in (98, 99)), source="mixed"
    )
    world.import_traces(*(trace(number, f"{LONG}{number}") for number in range(8)), source="long")
    world.build("mixed", filters={"source": "mixed"}, test_fraction=0, validation_fraction=0)
    world.build("long", filters={"source": "long"}, test_fraction=0, validation_fraction=0)
    world.build("longest", filters={"source": "long"}, test_fraction=1, validation_fraction=0)
    return world


def fails(world, base_model: Path, **spec: Any) -> str:
    """How a run failed: by the user's fault, at once, and for good."""
    run = world.wait(
        world.start(**{"dataset": "mixed", "base_model": base_model, "train": QUICK, "evaluate": None, **spec})
    )
    assert (run["state"], run["step"], run["checkpoints"]) == ("failed", 0, [])
    [job] = run["jobs"]
    assert (job["attempt"], job["failure_class"]) == (1, "user_error")
    assert "Traceback" not in run["failure"]
    return str(run["failure"])


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=pytest.mark.long) for name in MORE_MODELS)])
def test_model_that_cannot_be_loaded_fails_the_run_once_and_says_why(filled, broken_copy, name):
    broken, told = {**MODELS, **MORE_MODELS}[name]
    assert told in fails(filled, broken_copy(filled.models / name, broken))


@pytest.mark.parametrize(("spec", "told"), SPECS.values(), ids=SPECS)
def test_request_that_does_not_fit_model_and_data_fails_the_run_once_and_says_why(filled, stories, spec, told):
    assert told in fails(filled, **{"base_model": stories, **spec})


@pytest.fixture(scope="module")
def finished(filled, stories):
    """A run that goes through, with rows dropped and questions too long to be asked."""
    evaluate = {"dataset": "longest", "sampling": {"max_new_tokens": 8}}
    location = filled.start("mixed", stories, train=QUICK, evaluate=evaluate)
    run = filled.wait(location)
    assert run["state"] == "succeeded", run["failure"]
    return run


def test_rows_longer_than_the_limit_are_dropped_and_named(filled, finished):
    events = filled.get(f"/api/v1/runs/{finished['run_id']}/events").json
    [encoded] = [event for event in events if event["kind"] == "encoded"]
    assert (encoded["detail"]["rows"], encoded["detail"]["kept"], encoded["detail"]["dropped"]) == (10, 8, 2)
    assert "dropped: 9, 10" in encoded["message"]


def test_prompts_longer_than_the_context_are_unscored_and_never_wrong(filled, finished):
    evaluation = filled.get(f"/api/v1/evaluations/{finished['evaluation_id']}").json
    assert (evaluation["score"]["scored"], evaluation["score"]["unscored"]) == (0, 8)
    assert evaluation["decision"] != "GO"
    items = filled.get(f"/api/v1/evaluations/{finished['evaluation_id']}/items").json["items"]
    assert all("exceed the model's context" in item["reason"] for item in items)


def test_whatever_failed_what_was_stored_is_still_there(filled, finished):
    assert len(filled.get("/api/v1/traces", limit=200).json["items"]) == 18
    assert {dataset["state"] for dataset in filled.get("/api/v1/datasets").json["items"]} == {"succeeded"}
    assert filled.get(f"/api/v1/runs/{finished['run_id']}").json["model_version"] == 1
