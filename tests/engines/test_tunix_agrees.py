"""Both engines on one spec: the same batches, the same loss at each step, the same model at the end."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.e2e.world import serving_world
from tests.engines.conftest import SPEC, Heard

from tunix_rt_common.engines import TUNIX_RELEASE
from tunix_rt_modeling.config import Rope
from tunix_rt_trainer import training
from tunix_rt_trainer.tunixengine.fit import fit

pytestmark = pytest.mark.long

FAMILIES = {
    "llama": {},
    "llama, tied": {"tie_embeddings": True, "rope": Rope(theta=500_000.0)},
    "qwen2": {"family": "qwen2", "qkv_bias": True, "rope": Rope(theta=1_000_000.0), "rms_norm_eps": 1e-6},
    "qwen3": {"family": "qwen3", "normed_queries": True, "tie_embeddings": True, "rms_norm_eps": 1e-6},
}


SAME_NUMBER = 1e-5
"""Relative. Float32 sums in another order differ by less than 1e-6 here; rotating by another base, by 2e-3."""
SAME_WEIGHT = 2e-4
"""Absolute. Adam divides by the gradient's own size, so noise in gradients near zero moves weights by up to a rate."""


class Nowhere:
    """A keeper that keeps nothing."""

    is_waiting = False

    def restore(self, like):
        return None

    def keep(self, info, snapshot):
        """Nobody asks for it again."""

    def poll(self):
        """Nothing waits."""

    def drain(self):
        """Nothing waits."""


def by_us(inputs, folder):
    voice = Heard()
    return voice.steps, training.fit(voice, *inputs, folder, Nowhere())


def by_tunix(inputs, folder, python):
    voice = Heard()
    return voice.steps, fit(voice, *inputs, folder, python=python, leave=pytest.fail)


def numbers(steps, name):
    return {step: told[name] for step, told in steps.items() if told[name] is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_both_engines_take_the_same_steps(inputs_of, tunix_python, tmp_path, family):
    traits = FAMILIES[family]
    ours, we = by_us(inputs_of(**traits), tmp_path / "ours")
    theirs, they = by_tunix(inputs_of(**traits), tmp_path / "theirs", tunix_python)
    assert sorted(ours) == sorted(theirs) == list(range(SPEC.max_steps + 1))
    for name in ("loss", "gradient_norm", "validation_loss", "learning_rate"):
        assert numbers(theirs, name) == pytest.approx(numbers(ours, name), rel=SAME_NUMBER), name
        assert they.numbers[name] == pytest.approx(we.numbers[name], rel=SAME_NUMBER)
    assert numbers(ours, "validation_loss").keys() == {0, 5, 10, 12}
    assert (we.numbers["tokens"], we.numbers["trained_tokens"]) == (
        they.numbers["tokens"],
        they.numbers["trained_tokens"],
    )
    our_weights, their_weights = (load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert our_weights.keys() == their_weights.keys()
    for name, tensor in our_weights.items():
        np.testing.assert_allclose(their_weights[name], tensor, atol=SAME_WEIGHT, err_msg=name)
    assert (tmp_path / "ours" / "config.json").read_bytes() == (tmp_path / "theirs" / "config.json").read_bytes()


def test_weights_of_step_types_count_alike(inputs_of, tunix_python, tmp_path):
    spec = SPEC.model_copy(update={"step_weights": {"sum": 0.25}, "max_steps": 4})
    ours, _ = by_us(inputs_of(spec), tmp_path / "ours")
    theirs, _ = by_tunix(inputs_of(spec), tmp_path / "theirs", tunix_python)
    assert numbers(theirs, "loss") == pytest.approx(numbers(ours, "loss"), rel=SAME_NUMBER)


def test_run_that_is_told_to_leave_goes_at_once(inputs_of, tunix_python, tmp_path):
    class Left(Exception):
        pass

    class Leaving(Heard):
        def progress(self, step, total_steps=None, **numbers):
            super().progress(step, total_steps, **numbers)
            if step == 2:
                self.leaving.set()

    def leave():
        raise Left

    voice, inputs = Leaving(), inputs_of(SPEC.model_copy(update={"max_steps": 100_000}))
    with pytest.raises(Left):
        fit(voice, *inputs, tmp_path / "model", python=tunix_python, leave=leave)
    assert max(voice.steps) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert "no_checkpoints" in voice.stories


def test_run_by_tunix_ends_as_any_other(tunix_python, tmp_path, dataset, monkeypatch):
    """Through the platform: trained by the other engine, judged and registered as usual."""
    monkeypatch.setenv("TUNIX_RT_TUNIX_PYTHON", tunix_python)
    with serving_world(tmp_path / "home") as world:
        world.import_lines((dataset / "traces.txt").read_bytes(), source="sums")
        assert world.build("sums", test_fraction=0.3)["state"] == "succeeded"
        train = {"engine": "tunix", "max_steps": 3, "epochs": 100.0, "batch_size": 4, "max_tokens": 64}
        evaluate = {"limit": 4, "sampling": {"max_new_tokens": 4}}
        run = world.wait(world.start("sums", "tiny", train=train, evaluate=evaluate, gate={"min_items": 1}))
        assert run["state"] == "succeeded", run["failure"]
        version = world.get("/api/v1/models/sums/versions/1").json
        assert version["metrics"]["steps"] == 3
        assert version["metrics"]["validation_loss"]
        assert run["training"]["environment"]["google-tunix"] == TUNIX_RELEASE
        metrics = world.get(f"/api/v1/runs/{run['run_id']}/metrics").json
        assert [row["step"] for row in metrics] == [0, 1, 2, 3]
