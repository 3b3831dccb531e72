# The commands of the project. They need Python 3.11, make and git.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test conformance check format ui bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; install it, or name another Python with 'make PYTHON=python3'"; exit 1; }
	@echo "make setup: installs soundvid and its packages into $(VENV), a few minutes and 2 GB the first time"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
	@echo "make setup: done; $(BIN)/soundvid --help, make demo, make ui"

demo: setup
	$(BIN)/soundvid demo

# Three workers keep two cores busy: some tests wait for Dagster's intervals, a browser or the disk. One thread each:
# threads of torch that wait for each other on busy cores take the time of all.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: setup
	$(BIN)/python -m pipelines.ui

conformance: setup
	SOUNDVID_CONFORMANCE=1 $(BIN)/python -m pytest tests/conformance

bench: setup
	$(BIN)/python -m benchmarks.alignment
	$(BIN)/python -m benchmarks.incremental
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.feed
	$(BIN)/python -m benchmarks.ranges
	$(BIN)/python -m benchmarks.orchestration
	$(BIN)/python -m benchmarks.loader
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.generate
	$(BIN)/python -m benchmarks.denoise

clean:
	rm -rf $(VENV) .cache demo
