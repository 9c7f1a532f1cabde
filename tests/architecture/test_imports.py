"""Who may import whom: by what is written, and by what a fresh interpreter really loads."""

import subprocess
import sys
from pathlib import Path

from tunix_rt_common.specs import PRESET_NAMES
from tunix_rt_modeling.config import PRESETS

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax")
LIGHT_MODULES = (
    "tunix_rt.cli",
    "tunix_rt_api.main",
    "tunix_rt_embedded.world",
    "tunix_rt_evaluator.worker",
    "tunix_rt_registry.worker",
    "tunix_rt_trainer.worker",
)


def test_import_contracts_are_kept():
    check = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stdout


def test_processes_that_do_not_compute_load_no_jax():
    program = f"""
import importlib, sys
for module in {LIGHT_MODULES}:
    importlib.import_module(module)
    print(*[f"{{module}} loads {{name}}" for name in {HEAVY} if name in sys.modules])
"""
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_presets_that_a_spec_may_name_are_those_that_can_be_built():
    assert set(PRESET_NAMES) == set(PRESETS)
