"""Adapters and teachers that do not go with the base model: refused at the door, and nothing of them is stored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from safetensors.numpy import load_file, save_file

from tunix_rt_common.specs import LoraSpec
from tunix_rt_modeling.huggingface import read_config
from tunix_rt_modeling.lora import init_lora, write_peft

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def config(**changes: Any) -> Callable[[Path], object]:
    def broken(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return broken


def without_a_layer(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if ".layers.4." not in name}, folder / WEIGHTS)


def of_a_narrower_model(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor[:, :2].copy() for name, tensor in tensors.items()}, folder / WEIGHTS)


ADAPTERS = {
    "no config": (lambda folder: (folder / CONFIG).unlink(), "no adapter_config.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no adapter_model.safetensors"),
    "config is not JSON": (lambda folder: (folder / CONFIG).write_text("{"), "adapter_config.json is not JSON"),
    "pickle": (lambda folder: (folder / WEIGHTS).write_bytes(b"\x80\x04" + bytes(99)), "is a pickle"),
    "another method": (config(peft_type="IA3"), "peft_type 'IA3' is not supported"),
    "dora": (config(use_dora=True), "use_dora True is not supported"),
    "unknown target": (config(target_modules=["q_proj", "lm_head"]), "unknown target 'lm_head'"),
    "missing target": (config(target_modules=["q_proj", "v_proj", "k_proj"]), "lacks"),
    "rank above the width": (config(r=65), "rank 65 exceeds q_proj, which is 64 x 64: use at most 64"),
    "rank of no tensor": (config(r=3), "the config makes it (3, 64)"),
    "fewer layers": (without_a_layer, "lacks base_model.model.model.layers.4"),
    "narrower": (of_a_narrower_model, "has shape"),
}


@pytest.fixture(scope="module")
def sums(standing_api):
    steps = [{"i": 0, "type": "sum", "content": "one and one"}]
    standing_api.import_traces({"prompt": "1+1=", "steps": steps, "final_answer": "2"})
    standing_api.build("sums", validation_fraction=0, test_fraction=0)
    return standing_api


@pytest.fixture(scope="module")
def base(sums, stories):
    return shutil.copytree(stories, sums.models / "base", copy_function=shutil.copyfile)


@pytest.fixture(scope="module")
def adapter(sums, stories):
    spec, model = LoraSpec(rank=2, targets=("q_proj", "v_proj")), read_config(stories)
    write_peft(sums.models / "adapter", model, init_lora(model, spec, jax.random.key(0)), spec, "base")
    return sums.models / "adapter"


def refusal(api, **spec: Any) -> tuple[str, str]:
    """Field and text of a refused run, of which nothing is kept."""
    before = sorted(api.home.rglob("blobs/sha256/*/*"))
    problem = api.post("/api/v1/runs", {"dataset": "sums", "evaluate": None, **spec}).problem(422)
    assert api.get("/api/v1/runs").json["items"] == []
    assert sorted(api.home.rglob("blobs/sha256/*/*")) == before
    return problem["errors"][0]["field"], problem["detail"]


@pytest.mark.parametrize(("broken", "told"), ADAPTERS.values(), ids=ADAPTERS)
def test_adapter_that_does_not_fit_its_base_is_refused(sums, base, adapter, request, broken, told):
    folder = sums.models / request.node.callspec.id.replace(" ", "-")
    broken(shutil.copytree(adapter, folder) and folder)
    field, detail = refusal(sums, base_model=str(base), train={"lora": {"adapter": str(folder)}})
    assert field == "train.lora.adapter"
    assert told in detail


def test_rank_above_the_width_is_refused(sums, base):
    field, detail = refusal(sums, base_model=str(base), train={"lora": {"rank": 40}})
    assert field == "train.lora.rank"
    assert "LoRA rank 40 exceeds k_proj, which is 64 x 32: use at most 32" in detail


def test_adapter_in_the_place_of_a_base_is_refused_with_where_it_belongs(sums, adapter):
    field, detail = refusal(sums, base_model=str(adapter))
    assert field == "base_model"
    assert "train.lora.adapter" in detail


def test_teacher_of_another_size_of_vocabulary_is_refused(sums, base, broken_copy):
    def grown(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 1024}))

    teacher = broken_copy(sums.models / "larger-vocabulary", grown)
    field, detail = refusal(sums, base_model=str(base), train={"method": "distill", "teacher": str(teacher)})
    assert field == "train.teacher"
    assert "teacher 'larger-vocabulary' scores 1024 words, the base model 512" in detail


def test_teacher_with_another_tokenizer_is_refused(sums, base, broken_copy):
    def swapped(folder: Path) -> None:
        path = folder / "tokenizer.json"
        document = json.loads(path.read_text())
        words = document["model"]["vocab"]
        words["a"], words["b"] = words["b"], words["a"]
        path.write_text(json.dumps(document))

    teacher = broken_copy(sums.models / "other-words", swapped)
    field, detail = refusal(sums, base_model=str(base), train={"method": "distill", "teacher": str(teacher)})
    assert field == "train.teacher"
    assert "gives 'a' the number" in detail
    assert "sft" in detail
