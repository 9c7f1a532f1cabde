"""The rules of the house that a parser can check."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in REPOSITORY.glob("*/*/pyproject.toml"))
SOURCES = sorted(chain.from_iterable(package.glob("src/**/*.py") for package in PACKAGES))
TREES = {source: ast.parse(source.read_text()) for source in SOURCES}
PIPELINE = "tunix_rt_common/pipeline.py"
LONGEST_FUNCTION, LONGEST_FILE = 80, 500
STATEFUL = {"JobRecord", "RunRecord"}
HANDED_OUT_BY = {"markupsafe": "jinja2", "starlette": "fastapi"}
"""Packages whose objects are part of another package's own interface."""
ELSEWHERE = {"peer.py"}
"""Programs that run in another environment than their package's."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def place(source, node):
    return f"{source.relative_to(REPOSITORY)}:{node.lineno}"


def length(node):
    return node.end_lineno - node.lineno + 1


def assigned(node):
    """What an assignment writes to."""
    if isinstance(node, ast.Assign):
        return chain.from_iterable(
            target.elts if isinstance(target, ast.Tuple) else [target] for target in node.targets
        )
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []


def writes_state(node):
    """`something.state = …`, an UPDATE's `values(state=…)`, or setattr(…, "state", …)."""
    if any(isinstance(target, ast.Attribute) and target.attr == "state" for target in assigned(node)):
        return True
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called == "setattr":
        return any(isinstance(argument, ast.Constant) and argument.value == "state" for argument in node.args)
    if called not in {"values", "update"}:
        return False
    keys = [key for argument in node.args if isinstance(argument, ast.Dict) for key in argument.keys]
    named = {keyword.arg for keyword in node.keywords} | {ast.unparse(key).strip("'\"") for key in keys if key}
    return bool(named & {"state", "JobRecord.state", "RunRecord.state"})


def test_sources_are_where_these_tests_look():
    assert len(PACKAGES) == 8
    assert len(SOURCES) > 100


def test_nothing_but_the_pipeline_moves_a_state():
    writers = {
        place(source, node)
        for source, tree in TREES.items()
        if not str(source).endswith(PIPELINE)
        for node in ast.walk(tree)
        if writes_state(node)
    }
    assert writers == set()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("job.state = 'failed'", True),
        ("job.claim_id, job.state = None, 'failed'", True),
        ("job.state: str = 'failed'", True),
        ("update(JobRecord).where(x).values(state='failed')", True),
        ("update(JobRecord).values({'state': 'failed'})", True),
        ("query.update({JobRecord.state: 'failed'})", True),
        ("setattr(job, 'state', 'failed')", True),
        ("app.state.services = services", False),
        ("shown = job.state", False),
        ("Shown(state=job.state)", False),
        ("update(JobRecord).values(step=3)", False),
    ],
)
def test_rule_about_states_knows_a_write_when_it_sees_one(code, found):
    assert any(writes_state(node) for node in ast.walk(ast.parse(code))) == found


def test_jobs_are_made_by_the_pipeline_alone():
    makers = {
        place(source, node)
        for source, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "JobRecord"
    }
    assert {maker.rpartition(":")[0] for maker in makers} == {f"libs/common/src/{PIPELINE}"}


def test_no_file_is_a_drawer_for_everything():
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert [source for source in SOURCES if source.stem in drawers] == []


def test_files_are_short():
    lengths = {str(source.relative_to(REPOSITORY)): source.read_text().count("\n") for source in SOURCES}
    assert {name: count for name, count in lengths.items() if count > LONGEST_FILE} == {}


def test_functions_are_short():
    long = {
        f"{place(source, node)} {node.name}": length(node)
        for source, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and length(node) > LONGEST_FUNCTION and "migrations" not in source.parts
    }
    assert long == {}


def test_nothing_is_pickled():
    picklers = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    users = {
        place(source, node)
        for source, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and imported_roots(node) & picklers
    }
    assert users == set()


def imported_roots(node):
    """The top-level packages that an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {node.module.split(".")[0]} if node.module and not node.level else set()


def normalized(requirement):
    """A requirement's distribution: `Pydantic_Settings>=2` asks for pydantic-settings."""
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower().replace("_", "-").replace(".", "-")


def extras(requirement):
    """The extras that a requirement names: `tunix-rt-common[server]` asks for `server`."""
    named = re.match(r"[A-Za-z0-9._-]+\[([^]]*)\]", requirement)
    return {extra.strip() for extra in named.group(1).split(",")} if named else set()


def declared(package, with_extras=None):
    """What a package asks for, by itself, by the named extras (all of its own unless given) and through ours."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    optional = project.get("optional-dependencies", {})
    chosen = optional.keys() if with_extras is None else with_extras
    asked = [*project["dependencies"], *chain.from_iterable(optional[extra] for extra in chosen)]
    ours = {distribution_of(one): one for one in PACKAGES}
    through = [declared(ours[normalized(one)], extras(one)) for one in asked if normalized(one) in ours]
    return {normalized(one) for one in asked}.union(*through)


def distribution_of(package):
    return normalized(tomllib.loads((package / "pyproject.toml").read_text())["project"]["name"])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_package_asks_for_what_it_imports(package):
    """A shared virtual environment hides a missing dependency."""
    own = next((package / "src").iterdir()).name
    sources = [source for source in package.glob("src/**/*.py") if source.name not in ELSEWHERE]
    statements = [node for source in sources for node in ast.walk(TREES[source])]
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    roots = {HANDED_OUT_BY.get(name, name) for node in imports for name in imported_roots(node)}
    foreign = roots - set(sys.stdlib_module_names) - {own}
    providers = packages_distributions()
    asked = declared(package)
    missing = {name for name in foreign if not {normalized(one) for one in providers.get(name, [name])} & asked}
    assert missing == set()
