# Every verb works on a fresh clone: uv is fetched into the project folder where it is missing.

UV_VERSION := 0.13.9
export UV_PROJECT_ENVIRONMENT := .venv
# Every service and job is a process of its own: without kept bytecode each of them compiles its imports anew.
unexport PYTHONDONTWRITEBYTECODE
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN := $(UV) run --frozen
PACKAGES := common:tunix-rt-common modeling:tunix-rt-modeling client:tunix-rt api:tunix-rt-api \
            trainer:tunix-rt-trainer evaluator:tunix-rt-evaluator registry:tunix-rt-registry
ALONE := env -u UV_PROJECT_ENVIRONMENT $(UV) run --frozen --isolated --exact --no-default-groups \
         --with coverage --with pytest --with pytest-timeout --with pytest-xdist --with hypothesis
PYTEST := coverage run -m pytest -q -m "not long"
SIDE_BY_SIDE := -n auto --maxprocesses 4
TUNIX := .tools/peers/tunix
WITH_TUNIX := PEER_TUNIX_PYTHON=$(CURDIR)/$(TUNIX)/bin/python

.DEFAULT_GOAL := help
BENCHMARKS := quickstart_speed training_speed start_speed generation_speed checkpoint_stall memory_use device_speed \
  dispatch_speed store_speed telemetry_cost

.PHONY: help quickstart up env lint format servers test test-alone test-together test-tunix test-long faults bench

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

env: ## Random secrets for docker compose, in .env
	python3 deploy/compose/make_env.py

lint: .venv/synced ## Style, types, and who may import whom
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

format: .venv/synced ## Put the code into the house's form
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

servers: .venv/synced ## Postgres, Redis, MinIO and a second S3 server for the tests, installed where they are missing
	$(RUN) python -m tests.servers.binaries

test: servers ## All tests but the long ones, with the coverage gate
	$(RUN) coverage erase
	$(MAKE) test-alone test-together
	$(RUN) coverage combine --quiet
	$(RUN) coverage json --quiet -o coverage.json
	$(RUN) python tests/coverage_gate.py coverage.json

test-alone: .venv/synced ## Each package's unit tests with that package synced alone
	@set -e; for pair in $(PACKAGES); do \
	  echo "== $${pair#*:} alone"; \
	  extra=$$([ "$${pair%%:*}" = common ] && echo "--extra server" || true); \
	  beside=$$([ "$${pair%%:*}" = trainer ] && echo "$(SIDE_BY_SIDE) --dist loadfile" || true); \
	  $(ALONE) --package "$${pair#*:}" $$extra $(PYTEST) "tests/unit/$${pair%%:*}" $$beside; \
	done

test-together: servers ## Tests that need more than one package
	$(RUN) $(PYTEST) --ignore tests/unit --ignore tests/faults/suite $(SIDE_BY_SIDE) --dist loadfile

faults: servers ## Kill, stop, cut and fill real services, and audit what is left; FULL=1 for the long form
	$(RUN) pytest tests/faults/suite -q $(SIDE_BY_SIDE) --dist worksteal $(if $(FULL),,-m "not long")

$(TUNIX)/installed.txt: benchmarks/peers/requirements/tunix.txt | .venv/synced
	$(UV) venv --quiet --clear --python .venv/bin/python $(TUNIX)
	$(UV) pip install --quiet --python $(TUNIX)/bin/python -r $<
	@cp $< $@

test-tunix: .venv/synced $(TUNIX)/installed.txt ## Our engine beside google-tunix, which is installed where it is missing
	$(WITH_TUNIX) $(RUN) pytest -q tests/engines

test-long: export JAX_DISABLE_MOST_OPTIMIZATIONS := 0
test-long: servers $(TUNIX)/installed.txt ## The forms that take minutes: quickstart twice, five kills, real data
	$(WITH_TUNIX) $(RUN) pytest -m long --ignore tests/faults/suite
	$(RUN) pytest -q tests/numerics tests/unit/trainer -m "not long"

bench: servers ## Measure ours and its peers, one after the other, for about 20 minutes; writes benchmarks/results.json
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; PYTHONPATH=. $(RUN) python "benchmarks/$$name.py"; done
