# `make quick` and `make test` need Python 3.11 or newer, and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
QUICK ?=
DATA ?= ../shared/data/KuaiRand-Pure

.PHONY: quick test test-setup test-slow test-long compat lint format bench bench-answer statistics results faults clean

# The main job: P(divergence | lr) of five methods on the embedded stream. QUICK="--seeds 0-1" passes options on.
quick: $(VENV)/installed
	$(BIN)/study run quick $(QUICK)

test-setup: $(VENV)/installed-dev

# tests/device tells torch of a device that computes nothing, which other tests must not see: a process of its own.
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 tests/device -m "not slow"
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not long"

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 tests/device -m slow
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

test-long: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m long

# A short quick with the oldest and the newest ray, mlflow, torch, pandas and optuna that pyproject.toml allows.
compat:
	$(PYTHON) tests/benchmarks/compat.py $(COMPAT)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed-dev
	$(BIN)/python tests/benchmarks/bench.py --data-dir $(DATA)
	$(BIN)/python tests/benchmarks/bench.py --data-dir $(DATA) --model large --runs 80 --plain-runs 20

# What an answer costs beside a plain Ray Tune script: LR50 of five methods to within a factor of 1.25. Five minutes.
bench-answer: $(VENV)/installed-dev
	$(BIN)/python tests/benchmarks/answer.py --data-dir $(DATA)

# The tables of docs/statistics.md, from rows in docs/statistics/: hours of two cores; an interrupted run continues, and
# cells that have as many simulations stay. SIMULATIONS="--simulations 200" makes it quick.
statistics: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/helpers/simulation_edges.py $(SIMULATIONS)
	OMP_NUM_THREADS=1 $(BIN)/python tests/helpers/simulation_claims.py $(SIMULATIONS)
	$(BIN)/python tests/helpers/statistics_page.py

# Every table and figure of the pages of findings again, from the rows in docs/results/.
results: $(VENV)/installed
	$(BIN)/python -m analysis.findings.pages docs/results.md docs/causes.md --rows docs/results

# Kills everything that a study runs on, at random moments, a hundred times: half an hour. FAULTS="--kills 30 --seed 9"
faults: $(VENV)/installed-dev
	$(BIN)/python tests/helpers/faults.py $(FAULTS)

clean:
	rm -rf $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
