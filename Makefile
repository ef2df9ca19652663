# A newcomer types `make demo` or `make test`; both install into .venv first.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Waiting threads sleep instead of spinning, so that two processes can share the cores.
export GOMP_SPINCOUNT ?= 1000

.PHONY: setup demo test lint format types bench-index clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "tesserec needs Python 3.10 or newer; run: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,report,pandas,dev]'
	touch $@

# DATA=path runs the line on that log instead of the synthetic world; ARGS=--short makes it quick.
demo: $(STAMP)
	$(BIN)/tesserec demo --overwrite $(if $(DATA),--data '$(DATA)') $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=2 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy

# An hour the first time, most of it for building the graphs of other engines; what is measured is not measured again.
bench-index: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=2 $(BIN)/python -m benchmarks.index $(ARGS)

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
