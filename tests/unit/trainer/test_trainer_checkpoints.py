import json
import subprocess
import sys

import numpy as np
import pytest

from tunix_rt_common.errors import InvalidInput
from tunix_rt_trainer.engine import checkpoints
from tunix_rt_trainer.engine.loop import TrainingData


@pytest.fixture
def saved(small, tmp_path):
    """A checkpoint of an untouched state, and its inputs."""
    inputs = small.inputs(small.SPEC)
    metadata = checkpoints.save(small.fresh_state(small.SPEC), tmp_path / "saved", seed=small.SPEC.seed, inputs=inputs)
    return tmp_path / "saved", inputs, metadata


@pytest.mark.parametrize("kind", ["full", "lora", "qlora", "dpo", "orpo", "distill"])
def test_run_resumed_in_another_process_ends_with_the_same_bytes(small, tmp_path, kind):
    spec, snapshots = small.SPECS[kind], {}

    def save(info, state):
        snapshots[info.step] = checkpoints.snapshot(state)

    _, last = small.finish(spec, small.fresh_state(spec), TrainingData(small.data_for(spec, 10)), save)
    checkpoints.save(snapshots[11], tmp_path / "step-11", seed=spec.seed, inputs=small.inputs(spec))
    command = [sys.executable, small.path, kind, tmp_path / "step-11", tmp_path / "resumed.npz"]
    subprocess.run(command, check=True, timeout=120)
    straight, resumed = small.as_arrays(last), np.load(tmp_path / "resumed.npz")
    assert set(straight) == set(resumed)
    assert [name for name, leaf in straight.items() if leaf.tobytes() != resumed[name].tobytes()] == []


def test_checkpoint_of_a_lora_run_leaves_the_base_out(small, tmp_path):
    for kind in ("full", "lora"):
        spec = small.SPECS[kind]
        checkpoints.save(small.fresh_state(spec), tmp_path / kind, seed=5, inputs=small.inputs(spec))
    names = json.loads((tmp_path / "lora" / "state" / "_METADATA").read_text())["tree_metadata"]
    assert any("q_proj" in name for name in names)
    assert not any("embed_tokens" in name for name in names)
    assert any("embed_tokens" in name for name in (tmp_path / "full" / "state" / "_METADATA").read_text().splitlines())


def test_metadata_says_whose_the_checkpoint_is_and_what_wrote_it(small, saved):
    directory, inputs, metadata = saved
    assert checkpoints.read_metadata(directory) == metadata
    assert (metadata.step, metadata.seed, metadata.inputs) == (0, 5, inputs)
    assert {"jax", "optax", "orbax-checkpoint"} <= set(metadata.versions)
    assert metadata.device_kind


def test_checkpoint_never_overwrites_another(small, saved):
    directory, inputs, _ = saved
    with pytest.raises(FileExistsError):
        checkpoints.save(small.fresh_state(small.SPEC), directory, seed=5, inputs=inputs)


@pytest.mark.parametrize("part", ["spec", "dataset", "tokenizer", "base_model"])
def test_checkpoint_of_another_run_is_refused(small, saved, part):
    directory, inputs, _ = saved
    other = inputs.model_copy(update={f"{part}_sha256": "other"})
    with pytest.raises(InvalidInput, match=f"its {part} differ"):
        checkpoints.load(directory, small.fresh_state(small.SPEC), inputs=other)


def rewrite_version(directory, library, number):
    file = directory / checkpoints.METADATA_FILE
    document = json.loads(file.read_text())
    document["versions"][library] = number
    file.write_text(json.dumps(document))


def test_checkpoint_of_an_incompatible_library_is_refused_with_the_release_to_install(small, saved):
    directory, inputs, _ = saved
    rewrite_version(directory, "jax", "0.4.38")
    with pytest.raises(InvalidInput, match=r"Install jax 0\.4\.\*"):
        checkpoints.load(directory, small.fresh_state(small.SPEC), inputs=inputs)


def test_patch_release_of_a_library_may_continue(small, saved):
    directory, inputs, metadata = saved
    rewrite_version(directory, "jax", ".".join([*metadata.versions["jax"].split(".")[:2], "99"]))
    assert int(checkpoints.load(directory, small.fresh_state(small.SPEC), inputs=inputs).step) == 0


def test_directory_without_metadata_is_no_checkpoint(small, saved):
    directory, inputs, _ = saved
    (directory / checkpoints.METADATA_FILE).unlink()
    with pytest.raises(InvalidInput, match="no complete checkpoint"):
        checkpoints.load(directory, small.fresh_state(small.SPEC), inputs=inputs)
