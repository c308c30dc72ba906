# The environment is made once, in .venv, from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test faults lint format benchmark same-numbers new-numbers record-run clean

demo: .venv/.installed
	$(BIN)/snakemake --cores all
	@echo && $(BIN)/trak-steps show results/demo/summary.json

# Most tests wait for processes that they start; so many at a time.
WORKERS ?= 2
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# Kills the real workflow at random moments of every stage, FAULTS times, which takes half an hour.
FAULTS ?= 33
faults: .venv/.dev
	FAULTS=$(FAULTS) $(BIN)/python -m pytest -rA tests/faults

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check workflow
	$(BIN)/python .ci/lint_workflow.py
	$(call biome,ci)

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt workflow
	$(call biome,check --write)

# The report's program and style; npx comes with Node.js, which nothing else needs.
biome = if command -v npx > /dev/null; then npx --yes @biomejs/biome@2.6.8 $(1); \
	else echo "WARNING: there is no npx; the report's program and style are not linted"; fi

# After a change of code that a step's numbers depend on: are they the same, or does its version rise?
STEPS ?= all
same-numbers: .venv/.dev
	PYTHONPATH=.:tests $(BIN)/python -m versions.record same $(STEPS)

new-numbers: .venv/.dev
	PYTHONPATH=.:tests $(BIN)/python -m versions.record new $(STEPS)

# The run that the upgrade's test has from the version before.
record-run: .venv/.dev
	HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python tests/workflow/record_run.py

# FEATURES="--rows train.parquet --model folder" measures without the hub.
benchmark: demo .venv/.dev
	$(BIN)/python benchmarks/features.py $(FEATURES)
	$(BIN)/python benchmarks/checks.py $(FEATURES)
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python -m benchmarks.scores run
	$(BIN)/python benchmarks/demo.py

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

# traker, the reference that tests compare with, and kronfluence, a baseline of the benchmarks, ask for
# packages that they do not need here.
.venv/.dev: .venv/.installed
	$(PIP) --editable '.[dev,slurm]'
	$(PIP) --no-deps traker kronfluence
	touch $@

clean:
	rm -rf .venv .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
