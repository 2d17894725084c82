# One screen: `make help`.
PYTHON ?= python3
VENV ?= .venv
TAPE ?=
FORMAT ?=
SECONDS ?= 60
SEED ?= 1

PY := $(VENV)/bin/python
# The environment belongs to one interpreter: another PYTHON makes it anew.
MADE_FOR := $(VENV)/made-for-$(notdir $(PYTHON))
PIP := $(PY) -m pip --disable-pip-version-check -q

.DEFAULT_GOAL := help
.PHONY: help install demo test system lint format types bench chaos golden ext ext-debug up down clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 picks the interpreter; make demo TAPE=<file or folder> FORMAT=lean trains on your trades"

$(MADE_FOR):
	@if [ "$$($(PY) -V 2>/dev/null)" != "$$($(PYTHON) -V)" ]; then \
		echo "making $(VENV) with $$($(PYTHON) -V)"; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); fi
	@$(PIP) install -U pip
	@touch $@

$(VENV)/run: $(MADE_FOR) pyproject.toml ext/hatch_build.py $(wildcard $(addprefix ext/tapeline/*/*.,pyx pxd pxi h))
	@echo "installing what runs need (TensorFlow among them: a minute or two)"
	@$(PIP) install -e '.[assets,train]'
	@touch $@

$(VENV)/dev: $(VENV)/run
	@echo "installing what tests need"
	@$(PIP) install -e '.[dev]'
	@touch $@

install: $(VENV)/dev ## set up .venv with everything that runs and tests need

demo: $(VENV)/run ## the main job: ticks to a named model that predicts
	@$(VENV)/bin/tapeline demo $(if $(TAPE),--tape '$(TAPE)') $(if $(FORMAT),--format '$(FORMAT)')

# Three workers on two cores: much of the suite waits for servers, leases and kills.
test: $(VENV)/dev ## set up, and pass the tests: unit, contract, service, system
	@$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not long'

system: $(VENV)/dev ## the system tests alone, the long ones among them
	@$(PY) -m pytest tests/system

format: $(VENV)/dev ## ruff format
	@$(VENV)/bin/ruff format services shared ext tests
	@$(VENV)/bin/ruff check --fix services shared ext tests

lint: $(VENV)/dev ## ruff: rules and format
	@$(VENV)/bin/ruff check services shared ext tests
	@$(VENV)/bin/ruff format --check services shared ext tests

types: $(VENV)/dev ## mypy strict, pyright
	@$(VENV)/bin/mypy
	@$(VENV)/bin/pyright

bench: $(VENV)/dev ## the figures of the README, measured here and now
	@for file in tests/bench/*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

chaos: $(VENV)/dev ## kill everything at random: SECONDS=60 SEED=1
	@TAPELINE_CHAOS_SECONDS=$(SECONDS) TAPELINE_CHAOS_SEED=$(SEED) $(PY) -m pytest -s tests/system -k kill -m 'not long'

golden: $(VENV)/dev ## write the golden files of event types that have none; changes no other
	@$(PY) -m tapeline.testing.golden tests/assets/events

ext: $(VENV)/dev ## compile the kernels in place
	@$(PY) ext/hatch_build.py

ext-debug: $(VENV)/dev ## compile them with every check on
	@$(PY) ext/hatch_build.py --debug --force

up: $(VENV)/run ## start the embedded instance in the background
	@$(VENV)/bin/tapeline up --detach

down: ## stop it
	@$(VENV)/bin/tapeline down

clean: ## remove what was built
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find ext -name '*.so' -delete -o -name '*.c' -delete
