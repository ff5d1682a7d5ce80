# Everything runs in .venv, made once from requirements.lock. Another interpreter to make it with:
# make install PYTHON=/path/to/python3.11

PYTHON ?= python3.11
ROOT ?= var
SETTINGS ?= pipeline.toml
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARCHIVED := $(VENV)/.archived

# Stages start by the dozen a night, and by the hundred in the tests: Python keeps what it compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo night ui test all-tests test-scheduler check browser secrets up smoke down \
  bench-discovery bench-graph bench-train bench-quality clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(ARCHIVED) ## make .venv from requirements.lock, and get Java where there is none

demo: $(ARCHIVED) ## two nights on real purchases through Airflow, in minutes; again: nothing changes
	@$(BIN)/python -m demo.run --root "$(ROOT)"

night: $(ARCHIVED) ## one night on your own events: make night DS=2017-10-31 [ROOT=var] [SETTINGS=pipeline.toml]
	@test -n "$(DS)" || { echo "found no DS; expected a date; fix: make night DS=2017-10-31" >&2; exit 64; }
	@$(BIN)/python -m demo.run --nights $(DS) --root "$(ROOT)" --settings "$(SETTINGS)"

ui: $(ARCHIVED) ## Airflow and MLflow on 127.0.0.1 over the same ROOT; the demo's settings, or SETTINGS=pipeline.toml
	@$(BIN)/python -m demo.ui --root "$(ROOT)" $(if $(filter-out file,$(origin SETTINGS)),--settings "$(SETTINGS)")

secrets: ## .env with random secrets for docker-compose.yml; keeps those that are there
	@$(PYTHON) docker/make_secrets.py .env

up: ## everything in containers: build, start, wait until healthy, print addresses
	@$(PYTHON) docker/stack.py up

smoke: ## two nights in containers of their own, one with crashes, beside the same nights without
	@$(PYTHON) docker/smoke.py

down: ## remove the containers of `make up`, their network and volumes: tables and models too
	@$(PYTHON) docker/stack.py down

test: $(INSTALLED) browser ## everything but a backfill under a real scheduler: check, and all tests
	@$(MAKE) --no-print-directory --jobs=2 check all-tests

all-tests: $(ARCHIVED) ## what `make test` runs after its checks
	$(BIN)/python -m pytest -m "not backfill" -n 3 --dist loadfile --no-loadscope-reorder

test-scheduler: $(ARCHIVED) ## real nights under a real scheduler: faults, kills, a backfill (minutes)
	$(BIN)/python -m pytest -m scheduler tests/scheduler

# Only the tests of the report need it; without it they are skipped, and say what to install.
browser: ## Chromium for the tests that open the report, with apt as root where there is none
	@for name in chromium chromium-browser google-chrome-stable google-chrome; do \
	  if command -v $$name >/dev/null; then exit 0; fi; done; \
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
	  apt-get update -qq >/dev/null 2>&1; DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 && exit 0; fi; \
	echo "found no Chromium; the tests that open the report in it will be skipped; fix: install it" >&2

check: $(INSTALLED) ## ruff, mypy, and whether the generated documents are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m schemas.reference --check

bench-discovery: $(ARCHIVED) ## what each part of the demo's recipe brings, over nights and seeds (an hour)
	$(BIN)/python -m benchmarks.discovery

bench-graph: $(ARCHIVED) ## graph and propagation beside Spark joins, scipy and implicit, to 20 million (40 minutes)
	$(BIN)/python -m benchmarks.graph

bench-train: $(ARCHIVED) ## training steps, ranks and an epoch beside dense formulas, a sort and RecTools (20 minutes)
	$(BIN)/python -m benchmarks.training

bench-quality: $(ARCHIVED) ## soft targets beside baselines with as many trials on four data sets; resumes (days): make bench-quality DATA=folder
	@test -n "$(DATA)" || { echo "found no DATA; expected the folder of benchmarks/quality_data.py's files; fix: make bench-quality DATA=folder" >&2; exit 64; }
	$(BIN)/python -m benchmarks.quality all --data "$(DATA)" --root "$(ROOT)/quality"

clean: ## remove .venv and all caches; var, with its events, tables and models, stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis spark-warehouse
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an installation that broke off starts anew.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "found no Python 3.11 as $(PYTHON); expected one; fix: install it, or PYTHON=..." >&2; exit 69; }
	$(PYTHON) -m venv --clear $(VENV)
# Nothing is resolved where the lock is complete, and a pip of today takes half the time. A torch for
# GPUs, which is the package index's own, asks for libraries that the lock does not name.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep ^pip== requirements.lock)"
	$(BIN)/python -m pip install --quiet --no-compile --no-deps -r requirements.lock
	@$(BIN)/python -m pip check >/dev/null || \
	  $(BIN)/python -m pip install --quiet --no-compile -r requirements.lock
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	$(BIN)/python -m jobs.java --install
	@touch $@

# Saves time of every stage's start, which can do without; `check` runs beside it.
$(ARCHIVED): $(INSTALLED)
	-$(BIN)/python -m jobs.class_archive
	@touch $@
