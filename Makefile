# A newcomer types `make demo` or `make test`; both install into .venv first.
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Waiting threads sleep instead of spinning, so that two processes can share the cores.
export GOMP_SPINCOUNT ?= 1000
# Compiled modules are kept, whatever the environment says: the suite starts a hundred processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test deep fuzz audit serve-install screenshots lint format types bench-index clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "tesserec needs Python 3.10 or newer; run: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,report,pandas,serve,redis,faiss,qdrant,milvus,dev]'
	touch $@

# DATA=path runs the line on that log instead of the synthetic world; ARGS=--short makes it quick.
demo: $(STAMP)
	$(BIN)/tesserec demo --overwrite $(if $(DATA),--data '$(DATA)') $(ARGS)

# A file's tests stay with one worker, so what they share is made once.
test: $(STAMP)
	OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 NUMBA_NUM_THREADS=2 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# Further settings and faults of what the suite checks under one, of those that take seconds each.
deep: $(STAMP)
	$(MAKE) test ARGS='-m deep $(ARGS)'

# A longer fuzzing of the service from its own description than the suite has.
fuzz: $(STAMP)
	FUZZ_EXAMPLES=300 $(BIN)/python -m pytest tests/serving/test_fuzz.py $(ARGS)

# Known vulnerabilities of what is installed; says so and passes where the database cannot be reached.
audit: $(STAMP)
	deploy/audit.sh $(BIN)/python

# The extra `serve` in a fresh environment, without PyTorch: does it serve, how large is it, how fast does it start.
serve-install: $(STAMP)
	$(BIN)/python benchmarks/service.py install

# Pictures of the explorer for the docs, of the bundles under DATA.
screenshots: $(STAMP)
	$(BIN)/python -m tests.serving.screenshots '$(DATA)' docs/images

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)
	$(BIN)/mypy

# Ours beside nearest-neighbour libraries; ARGS='--items 1000000 --engine tesserec' for a part of it.
bench-index: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.index $(ARGS)

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
