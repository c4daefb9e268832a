# make env    the environment in .venv (uv, itself from pip)
# make demo   a whole experiment on handwritten digits, through Ray: a table, report.json, a page
# make test   lint, types and every test; installs Slurm's packages where it may (Debian, root)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
# Where the environment is made, and what torch it holds, which it remembers: make env VENV=$HOME/.venvs/edl TORCH='torch<2.11'
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from
WANTED := $(VENV)/.torch
TORCH ?= $(shell cat $(WANTED) 2>/dev/null || echo torch)

.PHONY: always env env-dev demo test test-quick lint soak packages

env: $(STAMP)

$(WANTED): always
	@mkdir -p $(VENV)
	@echo '$(TORCH)' | cmp -s - $@ || echo '$(TORCH)' >$@

$(STAMP): requirements.txt pyproject.toml $(WANTED)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raykd wants Python 3.11 or later, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --version &>/dev/null || $(BIN)/python -m ensurepip &>/dev/null # as 'uv venv' leaves it
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

# Cheap tests first and side by side; then those that share one Ray; real clusters last.
test: env-dev lint packages
	$(BIN)/python -m pytest -n 2 -m "not ray and not slurm and not soak"
	$(BIN)/python -m pytest -m "ray and not slurm and not soak" tests/orchestration
	$(BIN)/python -m pytest -m "slurm and not soak" tests/cluster

test-quick: env-dev
	$(BIN)/python -m pytest -n auto -m "not ray and not slurm and not soak"

soak: env-dev packages
	$(BIN)/python -m pytest -m soak --timeout 3600
