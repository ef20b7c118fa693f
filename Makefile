# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test lint bench soak clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## from nothing to exact counters on real servers
	$(BIN)/usage-worker demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/squawk migrations/*.sql

test: lint  ## every check that CI runs
	$(BIN)/pytest

bench: $(STAMP)  ## the ceiling, the usual way and the product, side by side
	$(BIN)/usage-worker bench

soak: $(STAMP)  ## random faults for SECONDS, with a printed seed
	USAGE_FAULT_SECONDS=$(or $(SECONDS),600) $(BIN)/pytest -q --timeout=0 -s tests/faults/test_random_faults.py

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
