"""The services' Dockerfiles, and what they would put into an image."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from tests.deploy import compose
from tests.deploy.dockerfile import replay, stages

FILES = {file.parent.name: file for file in sorted(compose.REPOSITORY.glob("services/*/Dockerfile"))}
ACCELERATED = {"trainer", "evaluator"}
JAX = {"jax", "jaxlib"}
NUMERICS = JAX | {"flax", "numpy", "optax", "orbax-checkpoint", "scipy"}
IMPORT_ALL = """
import importlib, pkgutil, {package} as package
for module in pkgutil.walk_packages(package.__path__, "{package}."):
    importlib.import_module(module.name)
"""
LIST = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"

each_service = pytest.mark.parametrize("service", FILES)


def workspace_packages(folder):
    """A package of the workspace and those of ours that it stands on, by folder."""
    project = tomllib.loads((compose.REPOSITORY / folder / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", one).group() for one in project["dependencies"]]
    ours = [f"libs/{name.removeprefix('tunix-rt-')}" for name in names if name.startswith("tunix-rt-")]
    return {folder}.union(*map(workspace_packages, ours))


def modules_run_by(service):
    """The `python -m MODULE` of an image: its own command, its health check, and those of compose."""
    image = stages(FILES[service])[-1]
    dockerfile = f"services/{service}/Dockerfile"
    users = [one for one in compose.services().values() if one.get("build", {}).get("dockerfile") == dockerfile]
    commands = [" ".join(user.get("command", [])) for user in users]
    text = " ".join([*image.all("CMD"), *image.all("HEALTHCHECK"), *commands]).replace('", "', " ")
    return set(re.findall(r"-m (\w+)", text))


@pytest.fixture(scope="module", params=FILES)
def built(request, tmp_path_factory):
    """An image's name, and its virtual environment, made as its Dockerfile makes it."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "src").mkdir()
    replay(FILES[request.param], folder / "src", folder / "venv")
    return request.param, folder / "venv" / "bin" / "python"


def run(python, code):
    return subprocess.run([python, "-I", "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout


def test_each_service_has_one():
    assert FILES.keys() == {path.name for path in (compose.REPOSITORY / "services").iterdir() if path.is_dir()}


@each_service
def test_image_holds_the_build_and_not_its_tools(service):
    *_, build, image = stages(FILES[service])
    assert build.image.endswith(" AS build")
    assert image.copied() == []
    assert image.all("COPY") == ["--from=build /opt/tunix-rt /opt/tunix-rt"]


@each_service
def test_image_runs_without_root(service):
    user, group = stages(FILES[service])[-1].all("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


@each_service
def test_image_is_built_from_what_its_package_needs(service):
    *_, build, _ = stages(FILES[service])
    assert set(build.copied()) == {"pyproject.toml", "uv.lock"} | workspace_packages(f"services/{service}")


@each_service
def test_uv_is_the_one_that_everybody_uses(service):
    version = re.search(r"UV_VERSION := (\S+)", (compose.REPOSITORY / "Makefile").read_text()).group(1)
    assert stages(FILES[service])[0].image == f"ghcr.io/astral-sh/uv:{version} AS uv"


@each_service
def test_accelerator_is_chosen_where_jax_runs_and_nowhere_else(service):
    *_, build, _ = stages(FILES[service])
    assert build.all("ARG") == (["ACCELERATOR=cpu"] if service in ACCELERATED else [])


@pytest.mark.parametrize("service", sorted(ACCELERATED))
def test_package_knows_every_accelerator(service):
    project = tomllib.loads((FILES[service].parent / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"].keys() >= {"cpu", "cuda12", "cuda13", "tpu"}


def test_build_context_holds_sources_and_no_secrets():
    first, *rest = (compose.REPOSITORY / ".dockerignore").read_text().split()
    assert first == "*"
    assert {line for line in rest if line.startswith("!")} == {"!pyproject.toml", "!uv.lock", "!libs", "!services"}


def test_package_set_of_an_image_imports_what_the_image_runs(built):
    service, python = built
    modules = modules_run_by(service)
    assert f"tunix_rt_{service}" in modules
    for module in modules:
        run(python, f"import {module}.__main__")
    run(python, IMPORT_ALL.format(package=f"tunix_rt_{service}"))


def test_image_holds_jax_only_where_it_runs(built):
    service, python = built
    held = NUMERICS & set(run(python, LIST).split())
    assert held >= JAX if service in ACCELERATED else held == set()


def test_image_holds_copies_and_no_links_into_the_build(built):
    service, python = built
    package = Path(run(python, f"import tunix_rt_{service} as package; print(package.__file__)"))
    assert "site-packages" in package.parts


def test_image_holds_no_tools_of_development(built):
    _, python = built
    assert {"pytest", "ruff", "mypy", "hypothesis"}.isdisjoint(run(python, LIST).split())
