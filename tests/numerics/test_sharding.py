"""A mesh changes where numbers lie, and not what they are."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import MeshSpec
from tunix_rt_modeling import sharding
from tunix_rt_modeling.config import PRESETS

EIGHT_DEVICES = Path(__file__).with_name("eight_devices.py")
HELD = {
    "fsdp": 1 / 8,
    "data": 1,
    "fsdp and tensor": 1 / 8,
    "all three": 1 / 4,
    "tensor beyond the heads": 1 / 8,
}


@pytest.fixture(scope="module")
def on_eight_devices():
    ran = subprocess.run([sys.executable, EIGHT_DEVICES], check=True, capture_output=True, timeout=300)
    return json.loads(ran.stdout)


@pytest.mark.parametrize("mesh", HELD)
def test_a_mesh_computes_the_same_loss_and_gradients(on_eight_devices, mesh):
    assert on_eight_devices[mesh]["loss"] < 1e-5
    assert on_eight_devices[mesh]["gradient"] < 1e-5


@pytest.mark.parametrize("mesh", HELD)
def test_a_device_holds_its_share_of_a_matrix(on_eight_devices, mesh):
    assert on_eight_devices[mesh]["held"] == HELD[mesh]


@pytest.mark.parametrize("spec", [MeshSpec(tensor=2), MeshSpec(data=3), MeshSpec(fsdp=4)])
def test_a_mesh_that_is_not_of_all_devices_is_refused(spec):
    with pytest.raises(InvalidInput, match=r"makes \d+ devices, and there are 1: choose axes") as refused:
        sharding.make_mesh(spec, jax.devices()[:1])
    assert refused.value.field == "train.mesh"


def test_one_device_needs_no_mesh():
    mesh = sharding.make_mesh(MeshSpec(), jax.devices()[:1])
    weights = {"norm": {"scale": jnp.ones(4)}}
    assert sharding.place(mesh, PRESETS["tiny"], weights) is weights
    with sharding.use(mesh):
        assert jax.sharding.get_abstract_mesh().empty
