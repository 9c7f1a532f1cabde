import json
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from tunix_rt.commands.datasets import dataset_spec
from tunix_rt.commands.runspec import SPEC_OPTIONS, WeightsByName, read_spec_file, run_spec
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import (
    METHODS,
    EndpointSpec,
    EvalSpec,
    GatePolicy,
    LoraSpec,
    MeshSpec,
    OptimizerSpec,
    RunSpec,
    SamplingSpec,
    ScheduleSpec,
)

PARTS: dict[str, list[type[BaseModel]]] = {
    "": [RunSpec],
    "train": list(METHODS.values()),
    "train.lora": [LoraSpec],
    "train.mesh": [MeshSpec],
    "train.optimizer": [OptimizerSpec],
    "train.optimizer.schedule": [ScheduleSpec],
    "evaluate": [EvalSpec],
    "evaluate.sampling": [SamplingSpec],
    "evaluate.endpoint": [EndpointSpec],
    "gate": [GatePolicy],
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
    assert any(field in kind.model_fields for kind in PARTS[parent])


def test_every_field_that_users_tune_has_an_option():
    left_to_the_spec_file = {"beta1", "beta2", "epsilon", "final_fraction", "targets", "stop", "judge", "max_unscored"}
    paths = {option.path for option in SPEC_OPTIONS} | set(PARTS) | {"promote", "evaluate.sampling.seed"}
    fields = {
        f"{part}.{name}".lstrip(".") for part, kinds in PARTS.items() for kind in kinds for name in kind.model_fields
    }
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
        (minimal(lora_alpha=8.0), "--lora-alpha needs --lora-rank"),
        (minimal(lora_base="nf4"), "--lora-base needs --lora-rank"),
        (minimal(lora_adapter="mine@1", lora_rank=4), "train.lora: .*brings its own rank"),
        (minimal(method="distill"), "train.teacher"),
        (minimal(method="orpo", beta=0.1), "train.beta"),
        (minimal(method="dpo", packing=True), "train.packing"),
        (minimal(teacher="mine@1"), "train.teacher"),
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


@pytest.mark.parametrize(
    ("given", "train"),
    [
        ({"step_weights": {"verify": 2.0}}, {"step_weights": {"verify": 2.0}}),
        ({"method": "dpo", "beta": 0.2}, {"method": "dpo", "beta": 0.2}),
        ({"method": "orpo", "ratio_weight": 0.2}, {"method": "orpo", "ratio_weight": 0.2}),
        (
            {"method": "distill", "teacher": "mine@1", "distill_temperature": 3.0, "distill_alpha": 0.9},
            {"method": "distill", "teacher": "mine@1", "temperature": 3.0, "alpha": 0.9},
        ),
        (
            {"lora_rank": 4, "lora_rslora": True, "lora_base": "nf4"},
            {"lora": {"rank": 4, "rslora": True, "base": "nf4"}},
        ),
    ],
)
def test_each_method_has_the_options_that_it_needs(given, train):
    assert spec(**minimal(**given))["train"] == train


@pytest.mark.parametrize(
    ("text", "weights"), [("verify=2", {"verify": 2.0}), ("verify=2, a=b=.5", {"verify": 2.0, "a=b": 0.5})]
)
def test_weights_are_read_by_name(text, weights):
    assert WeightsByName().convert(text, None, None) == weights


@pytest.mark.parametrize("text", ["", "verify", "verify=x", "verify=1,"])
def test_weights_that_are_no_pairs_are_refused(text):
    with pytest.raises(click.BadParameter, match="verify=2"):
        WeightsByName().convert(text, None, None)


@pytest.mark.parametrize("given", [{}, {"method": "distill", "teacher": "llama"}, {"lora_adapter": "llama"}])
def test_local_model_folder_is_sent_absolute(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    Path("llama").mkdir()
    sent = json.dumps(spec(**minimal(base_model="llama", **given)))
    assert sent.count(str(tmp_path / "llama")) == 1 + ("llama" in given.values())


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
