"""Without google-tunix, or beyond what it does: refused at the door, and by the trainer where the two disagree."""

import sys
from importlib.util import find_spec

import pytest
from tests.e2e.world import serving_api, serving_world
from tests.engines.conftest import SPEC, Heard

from tunix_rt_common.engines import check_tunix_spec
from tunix_rt_common.errors import EngineMissing, UnusableModel
from tunix_rt_modeling.config import LinearRope, Rope
from tunix_rt_trainer.tunixengine.fit import fit

ASKED = {"dataset": "sums", "base_model": "tiny"}
INSTALL = "pip install google-tunix=="


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """An API that believes that google-tunix is installed."""
    with serving_api(tmp_path_factory.mktemp("api") / "home", tunix_python=sys.executable) as server:
        server.import_traces(
            *(
                {"prompt": f"{n}", "steps": [{"i": 0, "type": "a", "content": "b"}], "final_answer": "c"}
                for n in range(20)
            )
        )
        assert server.build("sums")["state"] == "succeeded"
        yield server


def test_engine_that_is_not_installed_is_501_with_the_command(tmp_path):
    assert find_spec("tunix") is None
    with serving_api(tmp_path / "home") as server:
        detail = server.post("/api/v1/runs", ASKED | {"train": {"engine": "tunix"}}).problem(501)["detail"]
    assert INSTALL in detail
    assert "TUNIX_RT_TUNIX_PYTHON" in detail
    assert "engine 'jax'" in detail


def test_engine_that_is_installed_elsewhere_is_accepted(api):
    assert api.post("/api/v1/runs", ASKED | {"train": {"engine": "tunix"}}).status == 202


@pytest.mark.parametrize(
    ("train", "field"),
    [
        ({"packing": True}, "train.packing"),
        ({"lora": {"rank": 2}}, "train.lora"),
        ({"accumulation": 2}, "train.accumulation"),
        ({"precision": "bfloat16"}, "train.precision"),
        ({"remat": "dots"}, "train.remat"),
        ({"mesh": {"fsdp": 2}}, "train.mesh"),
        ({"lora": {"rank": 2, "base": "nf4"}}, "train.lora"),
        ({"method": "dpo"}, "train.method"),
        ({"method": "orpo"}, "train.method"),
        ({"method": "distill", "teacher": "sums@1"}, "train.method"),
    ],
)
def test_what_tunix_does_not_do_is_refused_with_a_remedy(api, train, field):
    problem = api.post("/api/v1/runs", ASKED | {"train": train | {"engine": "tunix"}}).problem(422)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert "or use engine 'jax'" in problem["detail"]


def test_plan_for_tunix_is_refused(api):
    problem = api.post("/api/v1/plans", ASKED | {"train": {"engine": "tunix"}}).problem(422)
    assert [error["field"] for error in problem["errors"]] == ["train.engine"]


def test_trainer_without_tunix_fails_the_run_with_the_command(tmp_path, monkeypatch):
    """The API is told that it is installed, and the trainer finds that it is not."""
    monkeypatch.setenv("TUNIX_RT_TUNIX_PYTHON", sys.executable)
    with serving_world(tmp_path / "home") as world:
        world.import_traces(
            *(
                {"prompt": f"{n}", "steps": [{"i": 0, "type": "a", "content": "b"}], "final_answer": "c"}
                for n in range(20)
            )
        )
        assert world.build("sums")["state"] == "succeeded"
        train = {"engine": "tunix", "max_steps": 1, "max_tokens": 64}
        run = world.wait(world.start("sums", "tiny", train=train))
        assert run["state"] == "failed"
        assert INSTALL in run["failure"]
        assert [job["attempt"] for job in run["jobs"]] == [1]


@pytest.mark.parametrize("python", [sys.executable, "/nowhere/bin/python"])
def test_interpreter_without_tunix_is_named_for_what_it_is(inputs_of, tmp_path, python):
    inputs = inputs_of()
    with pytest.raises(EngineMissing, match="engine 'tunix' is not installed"):
        fit(Heard(), *inputs, tmp_path / "model", python=python, leave=pytest.fail)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("traits", "words"),
    [
        ({"family": "mistral"}, "model_type 'mistral'"),
        ({"rope": Rope(scaling=LinearRope(factor=2.0))}, "rope_scaling"),
        ({"family": "qwen3", "normed_queries": True, "sliding_layers": (True, False), "sliding_window": 8}, "sliding"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"qkv_bias": True, "output_bias": True}, "attention_bias"),
    ],
)
def test_model_that_tunix_would_compute_otherwise_is_refused(inputs_of, tmp_path, traits, words):
    inputs = inputs_of(**traits)
    with pytest.raises(UnusableModel, match=words):
        fit(Heard(), *inputs, tmp_path / "model", python="", leave=pytest.fail)


def test_spec_of_the_tests_is_one_that_both_engines_train():
    check_tunix_spec(SPEC)
