import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from tunix_rt.commands.datasets import dataset_spec
from tunix_rt.commands.runspec import SPEC_OPTIONS, read_spec_file, run_spec
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import (
    EndpointSpec,
    EvalSpec,
    GatePolicy,
    LoraSpec,
    MeshSpec,
    OptimizerSpec,
    RunSpec,
    SamplingSpec,
    ScheduleSpec,
    SftSpec,
)

PARTS: dict[str, type[BaseModel]] = {
    "": RunSpec,
    "train": SftSpec,
    "train.lora": LoraSpec,
    "train.mesh": MeshSpec,
    "train.optimizer": OptimizerSpec,
    "train.optimizer.schedule": ScheduleSpec,
    "evaluate": EvalSpec,
    "evaluate.sampling": SamplingSpec,
    "evaluate.endpoint": EndpointSpec,
    "gate": GatePolicy,
}


def spec(base=None, *, evaluate=True, promote=True, **given) -> dict:
    """What would be sent for these options."""
    names = dict.fromkeys(option.name for option in SPEC_OPTIONS)
    built = run_spec(names | given, evaluate=evaluate, promote=promote, base=base or {})
    return built.model_dump(mode="json", exclude_unset=True)


def minimal(**given) -> dict:
    return {"dataset": "sums", "base_model": "tiny"} | given


@pytest.mark.parametrize("option", SPEC_OPTIONS, ids=lambda option: option.flag)
def test_every_option_sets_a_field_of_the_spec(option):
    parent, _, field = option.path.rpartition(".")
    assert field in PARTS[parent].model_fields


def test_every_field_that_users_tune_has_an_option():
    left_to_the_spec_file = {"beta1", "beta2", "epsilon", "final_fraction", "targets", "stop", "judge", "max_unscored"}
    paths = {option.path for option in SPEC_OPTIONS} | set(PARTS) | {"promote", "evaluate.sampling.seed"}
    fields = {f"{part}.{name}".lstrip(".") for part, kind in PARTS.items() for name in kind.model_fields}
    assert {path.rpartition(".")[2] for path in fields - paths} == left_to_the_spec_file


def test_nothing_is_sent_that_was_not_given():
    assert spec(**minimal()) == minimal()


def test_options_land_in_their_places():
    sent = spec(
        **minimal(epochs=2.0, packing=True, schedule="linear", lora_rank=4, temperature=0.7, margin=0.1, alias="best")
    )
    assert sent == minimal(
        train={"epochs": 2.0, "packing": True, "optimizer": {"schedule": {"kind": "linear"}}, "lora": {"rank": 4}},
        evaluate={"sampling": {"temperature": 0.7}},
        gate={"margin": 0.1},
        alias="best",
    )


def test_options_leave_the_rest_of_the_spec_file_alone():
    base = {"dataset": "old", "base_model": "tiny", "train": {"epochs": 3, "optimizer": {"beta1": 0.8}}}
    sent = spec(base, dataset="sums", learning_rate=0.1)
    assert sent == minimal(train={"epochs": 3.0, "optimizer": {"beta1": 0.8, "learning_rate": 0.1}})
    assert base["dataset"] == "old"


def test_no_evaluate_and_no_promote_are_said_explicitly():
    assert spec(**minimal(), evaluate=False, promote=False) == minimal(evaluate=None, promote=False)


def test_option_brings_back_a_judging_that_the_file_turned_off():
    assert spec({"evaluate": None}, **minimal(eval_limit=5))["evaluate"] == {"limit": 5}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_model": "tiny"}, "--dataset is missing"),
        ({"dataset": "sums"}, "--base-model is missing"),
        (minimal(lora_alpha=8.0), "--lora-rank"),
        (minimal(endpoint_retries=2), "--endpoint-retries needs --endpoint-url"),
        (minimal(endpoint_url="http://me:key@gpu/v1"), "evaluate.endpoint.url"),
        (minimal(endpoint_url="http://gpu/v1", endpoint_model="llama"), "whose weights"),
        (minimal(evaluate=False, eval_split="test"), "--eval-split and --no-evaluate"),
        (minimal(batch_size=3, accumulation=2), "not divisible by accumulation"),
        (minimal(learning_rate=-1.0), "train.optimizer.learning_rate"),
        (minimal(model_name="Sums!"), "model_name"),
    ],
)
def test_what_cannot_work_is_refused_by_name(given, message):
    with pytest.raises(InvalidInput, match=message):
        spec(**given)


def test_lora_alpha_tunes_adapters_of_the_spec_file():
    sent = spec({"train": {"lora": {"rank": 4}}}, **minimal(lora_alpha=8.0))
    assert sent["train"]["lora"] == {"rank": 4, "alpha": 8.0}


def test_local_model_folder_is_sent_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("llama").mkdir()
    assert spec(**minimal(base_model="llama"))["base_model"] == str(tmp_path / "llama")


@pytest.mark.parametrize("name", ["tiny", "sums@champion", "sums@2"])
def test_names_of_models_are_sent_as_they_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    assert spec(**minimal(base_model=name))["base_model"] == name


@pytest.mark.parametrize("text", ["{", "[]", "5"])
def test_spec_file_without_an_object_is_refused(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"run\.json"):
        read_spec_file(path)


def test_spec_file_is_read_as_written(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(minimal()))
    assert read_spec_file(path) == minimal()


def test_filters_and_source_select_together():
    built = dataset_spec("sums", ["meta.level=3", "meta.note=a=b"], "book", {"limit": 5, "seed": None})
    assert built.model_dump(exclude_unset=True) == {
        "name": "sums",
        "limit": 5,
        "filters": {"meta.level": "3", "meta.note": "a=b", "source": "book"},
    }
