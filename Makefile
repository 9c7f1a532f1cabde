# Every verb works on a fresh clone: uv is fetched into the project folder where it is missing.

UV_VERSION := 0.13.9
export UV_PROJECT_ENVIRONMENT := .venv
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN := $(UV) run --frozen
PACKAGES := common:tunix-rt-common modeling:tunix-rt-modeling client:tunix-rt api:tunix-rt-api \
            trainer:tunix-rt-trainer evaluator:tunix-rt-evaluator registry:tunix-rt-registry
ALONE := env -u UV_PROJECT_ENVIRONMENT $(UV) run --frozen --isolated --exact --no-default-groups \
         --with coverage --with pytest --with pytest-timeout --with hypothesis
PYTEST := coverage run -m pytest -q -m "not long"

.DEFAULT_GOAL := help
.PHONY: help quickstart up lint format test test-alone test-together test-long bench

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.tools/bin/uv:
	@mkdir -p .tools/bin
	python3 -m venv .tools/python
	.tools/python/bin/python -m pip install --quiet "uv==$(UV_VERSION)"
	@ln -sf ../python/bin/uv $@

.venv/synced: $(UV) pyproject.toml uv.lock
	$(UV) sync --frozen
	@touch $@

quickstart: .venv/synced ## Traces to a better model with proof, in a few minutes
	$(RUN) tunix-rt quickstart

up: .venv/synced ## Serve API, pages and workers on this machine
	$(RUN) tunix-rt up

lint: .venv/synced ## Style, types, and who may import whom
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

format: .venv/synced ## Put the code into the house's form
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

test: .venv/synced ## All tests but the long ones, with the coverage gate
	$(RUN) coverage erase
	$(MAKE) test-alone test-together
	$(RUN) coverage combine --quiet
	$(RUN) coverage json --quiet -o coverage.json
	$(RUN) python tests/coverage_gate.py coverage.json

test-alone: .venv/synced ## Each package's unit tests with that package synced alone
	@set -e; for pair in $(PACKAGES); do \
	  echo "== $${pair#*:} alone"; \
	  $(ALONE) --package "$${pair#*:}" $(PYTEST) "tests/unit/$${pair%%:*}"; \
	done

test-together: .venv/synced ## Tests that need more than one package
	$(RUN) $(PYTEST) --ignore tests/unit

test-long: .venv/synced ## The forms that take minutes: quickstart twice, five kills, real data
	$(RUN) pytest -m long

bench: .venv/synced ## Measure, and write what was measured to benchmarks/results.json
	$(RUN) python benchmarks/quickstart_speed.py
