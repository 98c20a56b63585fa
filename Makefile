# Each target is enough alone: it makes the environment first if that is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?= -n auto --dist worksteal
T ?= tests
SLOWEST := --durations=30 --durations-min=1
MUTATE_ARGS ?=
BUNDLE ?= gpu-bundle
DEPLOY_ARGS ?= -n 2 --dist loadfile --timeout 1500
# Where the tests of deployments are: each worker collects for itself, and all of tests takes half a minute of a core.
DEPLOY_TESTS := tests/deploy tests/simulations/bench/test_bench_deploy.py
DEPLOY_LOG ?= docs/benchmarks/fault-matrix.log
SHELL := /bin/bash

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install $(PIP_ARGS)
STAMP := $(VENV)/.yoriai-installed

.PHONY: help setup demo test test-fast test-deploy test-deploy-full gpu-bundle test-gpu mutate check clean

help:
	@echo "make demo       install, then what training together is worth to five machines, at three epsilons"
	@echo "make test       install, then run every test but those of deployments; the slowest are named at the end"
	@echo "                make test T=tests/privacy/test_dpsgd.py runs one file, T=tests/privacy one folder"
	@echo "make test-fast  the same without the tests marked slow; T as above, for test-deploy too"
	@echo "make test-deploy       install, then real servers and sites on this machine, a hostile bundle, and seven failures"
	@echo "make test-deploy-full  the same with every failure of the matrix; its log goes to $(DEPLOY_LOG)"
	@echo "make gpu-bundle  what make test-gpu needs, into $(BUNDLE): packages for this system, and the packaged base"
	@echo "make test-gpu    on a machine with a GPU, from $(BUNDLE) and without a network: tests there, and the table of a step"
	@echo "make mutate     break the security checks one by one; a test has to notice (hours; MUTATE_ARGS='--sample 10 client/offer/policy.py')"
	@echo "make check      ruff, mypy and the import contracts"
	@echo "make setup      install only"
	@echo "make clean      remove the environment, caches and built distributions"
	@echo "Settings: PYTHON=$(PYTHON) VENV=$(VENV) PIP_ARGS='$(PIP_ARGS)' PYTEST_ARGS='$(PYTEST_ARGS)'"

setup: $(STAMP)

# torch comes first and keeps out of the second step's constraints, so that a build that is already there stays.
$(STAMP): pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "Yoriai needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is none of them; try: make setup PYTHON=python3.12"; \
	    exit 1; }; \
	  $(PYTHON) -m venv $(VENV); }
	$(PY) -c 'import torch' 2>/dev/null || $(PIP) -c constraints.txt torch
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(PIP) -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/yoriai demo

# Dozens of tests start Yoriai as a process of its own; without cached bytecode each would compile all of it again.
test test-fast test-deploy test-deploy-full: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)
	$(PY) -m pytest -q -m "not deploy" $(SLOWEST) $(PYTEST_ARGS) $(T)

# Each file has a deployment of its own, and most of a deployment's time is waiting: two at once share two cores well.
test-deploy: $(STAMP)
	$(PY) -m pytest -q -m "deploy and not deploy_full" $(SLOWEST) $(DEPLOY_ARGS) $(if $(filter tests,$(T)),$(DEPLOY_TESTS),$(T))

test-deploy-full: $(STAMP)
	{ echo "$$(date -u +%F), commit $$(git rev-parse --short HEAD), $$(nproc) cores"; \
	  $(PY) -m pytest -m deploy -v --no-header --disable-warnings --durations=0 --durations-min=1 $(DEPLOY_ARGS) $(DEPLOY_TESTS) 2>&1; } \
	  | sed -u 's|$(CURDIR)|.|g' | tee $(DEPLOY_LOG); exit $${PIPESTATUS[0]}

test-fast: $(STAMP)
	$(PY) -m pytest -q -m "not slow and not deploy" $(SLOWEST) $(PYTEST_ARGS) $(T)

gpu-bundle: $(STAMP)
	$(PIP) download -d $(BUNDLE)/wheels -c constraints.txt '.[test]' wheel
	YORIAI_CACHE=$(CURDIR)/$(BUNDLE)/cache $(VENV)/bin/yoriai fetch

test-gpu:
	@test -d $(BUNDLE)/wheels || { echo "$(BUNDLE) is not there; make gpu-bundle makes it where there is a network"; exit 1; }
	$(PYTHON) -m venv $(BUNDLE)/venv
	$(BUNDLE)/venv/bin/python -m pip install --no-index --find-links $(BUNDLE)/wheels setuptools wheel
	$(BUNDLE)/venv/bin/python -m pip install --no-index --find-links $(BUNDLE)/wheels --no-build-isolation -e '.[test]'
	$(BUNDLE)/venv/bin/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("torch finds no GPU here")'
	$(BUNDLE)/venv/bin/python -m pytest -q -m gpu tests/client/test_gpu.py
	YORIAI_CACHE=$(CURDIR)/$(BUNDLE)/cache HF_HUB_OFFLINE=1 $(BUNDLE)/venv/bin/python -m tests.gpu_table $(BUNDLE)/gpu.json

mutate: $(STAMP)
	$(PY) -m tests.mutation $(MUTATE_ARGS)

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo

clean:
	rm -rf $(VENV) build dist yoriai.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
