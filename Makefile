# Everything happens in a virtual environment of its own: a fresh machine needs Python >= 3.11 with pip and venv, and make.
#   make demo     environment, install, and the main job on a real model
#   make test     environment, install, and the tests
# Elsewhere: `make VENV=/tmp/env test`, `make PYTHON=python3.12 test`, `make JOBS=4 test`, `make ARGS="-k sweep" test`.

PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys; sys.version_info >= (3, 11) and print("$(python)")' 2>/dev/null)))
VENV ?= .venv
JOBS ?= 2
ARGS ?=
FUZZ ?= 5000
FROM ?= 1000
BIN := $(abspath $(VENV))/bin
TREE := build/tree
BENCH := $(abspath build/bench/venv)
QUANTIZERS := $(abspath build/bench/quantizers)
PEERS ?=
PUBLISH ?=
SOURCES := graphopt passes backends models
METADATA := setup.py setup.cfg pyproject.toml
PYTHON_FILES = $(shell find $(SOURCES) tests docs benchmarks -name '*.py' -not -path '*/__pycache__/*')

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz coverage lint format types layers bench bench-quantize docs torch clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^## \([a-z-]*\): */  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

## demo: optimise, verify and measure a real model, and write the report
demo: $(VENV)/.installed
	$(BIN)/graphopt demo $(ARGS)

## test: all tests (no torch and no network needed)
test: $(VENV)/.tested
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

## fuzz: random whole graphs, for as long as it takes: make fuzz FUZZ=20000 FROM=7
fuzz: $(VENV)/.tested
	GRAPHOPT_FUZZ=$(FUZZ) GRAPHOPT_FUZZ_FROM=$(FROM) $(BIN)/python -m pytest tests/fuzz -n $(JOBS) $(ARGS)

## coverage: all tests, and which lines none of them runs
coverage: $(VENV)/.tested
	$(BIN)/python -m pytest -n $(JOBS) --cov --cov-report=term $(ARGS)

## lint: style, naming, documentation strings, imports
lint: $(VENV)/.tested
	$(BIN)/ruff check $(SOURCES) tests docs benchmarks setup.py
	$(BIN)/ruff format --check $(SOURCES) tests docs benchmarks setup.py

## format: rewrite the sources as `make lint` wants them
format: $(VENV)/.tested
	$(BIN)/ruff check --fix-only $(SOURCES) tests docs benchmarks setup.py
	$(BIN)/ruff format $(SOURCES) tests docs benchmarks setup.py

## types: every annotation checked, on the installed tree
types: $(VENV)/.tested $(TREE)/.made
	$(BIN)/pyright --pythonpath $(BIN)/python

## layers: a file imports only from floors below
layers: $(VENV)/.tested $(TREE)/.made
	cd $(TREE) && $(BIN)/lint-imports --config ../../setup.cfg --no-cache

## bench: graphopt beside other optimisers (half an hour; tables, no test)
# In an environment of its own: torch and the peers are large, and no part of what is tested. ARGS are those of
# simplify.py; `make bench PUBLISH=--publish` puts the tables into docs/benchmarks.md.
bench: $(BENCH)/.installed
	@failed=0; for script in "startup.py" "simplify.py $(ARGS)" "scale.py"; do \
		echo "benchmarks/$$script" $(PUBLISH); \
		$(BENCH)/bin/python benchmarks/$$script $(PUBLISH) || failed=1; \
	done; exit $$failed

## bench-quantize: graphopt's quantisation beside others' (an hour; tables, no test)
# PEERS="quark aimet" gives these an environment each, of several GB; where one cannot be made, its rows are left out.
# ARGS are those of quantize.py: ARGS="--feeds FOLDER" has samples, without which the catalogue's few must do.
bench-quantize: $(QUANTIZERS)/.installed
	@for peer in $(PEERS); do \
		env=$(abspath build/bench)/$$peer; \
		test -e $$env/.installed && continue; \
		$(PYTHON) -m venv --clear $$env && $$env/bin/python -m pip install --quiet --disable-pip-version-check \
			-r benchmarks/requirements-$$peer.txt && touch $$env/.installed || { \
			rm -rf $$env; echo "make: no environment for $$peer: its rows are left out" >&2; }; \
	done
	$(QUANTIZERS)/bin/python benchmarks/quantize.py $(PUBLISH) $(ARGS)

## docs: write the pass pages from the passes, and run the documentation's examples
docs: $(VENV)/.tested
	$(BIN)/python docs/pass_pages.py
	$(BIN)/python -m pytest tests/test_docs.py $(ARGS)

## torch: add the exporters to the environment; tests that need them then run
torch: $(VENV)/.tested
	$(BIN)/python -m pip install --quiet -e '.[torch]'

## clean: remove what make made
clean:
	rm -rf $(VENV) build dist *.egg-info .coverage* .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; say which: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "make: $(PYTHON) cannot create environments; install its venv module (Debian: python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The stamps name what the environment holds; a change of the metadata installs again.
$(VENV)/.installed: $(VENV)/.made $(METADATA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.made $(METADATA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $(VENV)/.installed $@

$(BENCH)/.installed: $(METADATA) benchmarks/requirements.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; say which: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt -e .
	@touch $@

$(QUANTIZERS)/.installed: $(METADATA) benchmarks/requirements-quantize.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; say which: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(QUANTIZERS)
	$(QUANTIZERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-quantize.txt -e .
	@touch $@

# The tree as a user has it: only there are passes, backends and models packages of graphopt.
$(TREE)/.made: $(VENV)/.tested $(PYTHON_FILES) $(METADATA)
	rm -rf $(TREE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(TREE) .
	@touch $@
