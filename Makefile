# make env    make the environment in .venv, by uv, which pip installs
# make demo   run a whole experiment on handwritten digits, through Ray: a table, report.json, a page
# make test   check lint, types and tests; installs Slurm's packages if it can (Debian, root)
# make test-nightly   run the tests that need longer
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
# The environment's folder, and its torch, which is remembered: make env VENV=$HOME/.venvs/edl TORCH='torch<2.11'
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from
TORCH_FILE := $(VENV)/.torch
TORCH ?= $(shell cat $(TORCH_FILE) 2>/dev/null || echo torch)

.PHONY: always env env-dev demo test test-quick test-nightly lint soak packages

env: $(STAMP)

$(TORCH_FILE): always
	@mkdir -p $(VENV)
	@echo '$(TORCH)' | cmp -s - $@ || echo '$(TORCH)' >$@

$(STAMP): requirements.txt pyproject.toml $(TORCH_FILE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raykd requires Python 3.11 or later, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --version &>/dev/null || $(BIN)/python -m ensurepip &>/dev/null # 'uv venv' installs no pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt '$(TORCH)' -e .
	touch $@
	@echo "made $(VENV); to use it: source $(VENV)/bin/activate"

env-dev: env
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements-dev.txt

demo: env
	$(BIN)/python experiments/digits.py

lint: env-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

packages:
	bash tests/install_packages.sh

# Lint, types and tests, with the seconds of each stage at the end.
test: env-dev packages
	$(BIN)/python tests/run_stages.py

# What needs longer: one more case of many claims, real searches, Prometheus, Chromium, preemption.
test-nightly: env-dev packages
	$(BIN)/python tests/run_stages.py nightly

test-quick: env-dev
	$(BIN)/python -m pytest -n auto -m "not ray and not slurm and not nightly and not soak"

soak: env-dev packages
	$(BIN)/python -m pytest -m soak --timeout 3600
