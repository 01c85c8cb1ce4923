# `make demo` and `make test` set up .venv by themselves. See `make help`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PEERS ?= .venv-peers
VLLM ?= .venv-vllm
PIP_FLAGS ?= --quiet --disable-pip-version-check
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-vllm check lint lint-quick format types bench docs clean

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY)  ## Make .venv with everything in it (torch first: pinned, so that no CUDA packages come along)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "unirl needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV) (a few minutes, once) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[all]'
	@touch $@

demo: $(READY)  ## The same parts train a robot and a language model, side by side: out/demo/report.html
	$(BIN)/unirl compare preset=demo out=out/demo

test: $(READY)  ## The whole test suite (at most 12 minutes on 2 cores)
	$(BIN)/pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(READY)  ## Learning tests with several seeds
	$(BIN)/pytest -m slow -n 2 --dist worksteal

test-vllm: $(VLLM)/.installed  ## The tests of vLLM, in an environment of its own (2 to 4 minutes; a few more to make it, once)
	$(VLLM)/bin/pytest tests/vllm_engines -n 2 --dist loadfile

check: lint-quick types  ## While editing: linter, types, the import rule, the tests of parts and numbers (under a minute)
	$(BIN)/pytest -m "not slow" -n 2 tests/numbers tests/parts tests/core

lint: lint-quick types  ## Style and types (the import rule is a test)
	$(BIN)/ruff format --check .

lint-quick: $(READY)
	$(BIN)/ruff check .

types: $(READY)  ## mypy, on links laid out as the package is installed (it does not follow the package-dir mapping)
	@rm -rf build/types && mkdir -p build/types/unirl
	@cd build/types/unirl && ln -s ../../../unirl/* ../../../control ../../../llm ../../../preference ../../../configs .
	$(BIN)/mypy

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) $(PEERS)/.installed  ## Compare speed and memory with other libraries: benchmarks/results.md
	$(BIN)/python benchmarks/run.py --peers $(PEERS)/bin/python

$(PEERS)/.installed: benchmarks/peers.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install $(PIP_FLAGS) -c constraints.txt torch
	$(PEERS)/bin/pip install $(PIP_FLAGS) -c constraints.txt -r benchmarks/peers.txt
	$(PEERS)/bin/pip install $(PIP_FLAGS) --no-deps d3rlpy==2.8.1
	@touch $@

# On processors, vLLM's build brings three packages that do not load beside torch's and break its import.
$(VLLM)/.installed: pyproject.toml constraints.txt
	@echo "Setting up $(VLLM) (a few minutes, once) ..."
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install $(PIP_FLAGS) -c constraints.txt torch
	$(VLLM)/bin/pip install $(PIP_FLAGS) -c constraints.txt -e '.[llm,vllm]' pytest pytest-xdist pytest-timeout hypothesis
	$(VLLM)/bin/pip uninstall $(PIP_FLAGS) --yes torchvision torchaudio torchcodec
	@touch $@

docs: $(READY)  ## Build the documentation site into site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## Remove what can be made again (not .venv)
	rm -rf build site out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
