# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# The oldest PostgreSQL that the system has; the embedded one is the newest.
SYSTEM_POSTGRES := $(patsubst %/postgres,%,$(firstword $(sort $(wildcard /usr/lib/postgresql/*/bin/postgres))))
# What depends most on the version: the schema, its doors, the ingest.
ON_SYSTEM_POSTGRES := $(wildcard tests/access tests/integration/test_migrate*.py) tests/integration/test_hot.py \
	tests/integration/test_ingest.py

.PHONY: demo test test-system lint bench soak clean
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
	$(BIN)/pytest -n 2 -m 'not size' tests/unit tests/access tests/integration
	$(BIN)/pytest -m size tests/integration
	$(BIN)/pytest tests/acceptance tests/faults
	$(MAKE) --no-print-directory test-system

test-system: $(STAMP)  ## the schema on the system's PostgreSQL, too
ifneq ($(SYSTEM_POSTGRES),)
	$(BIN)/pytest -n 2 -m 'not size' --postgres-bin $(SYSTEM_POSTGRES) $(ON_SYSTEM_POSTGRES)
else
	@echo "NOT RUN on the system's PostgreSQL: there is none in /usr/lib/postgresql (Debian: apt-get install postgresql)"
endif

bench: $(STAMP)  ## the ceiling, one task per event (naive) and the product, side by side
	$(BIN)/usage-worker bench

soak: $(STAMP)  ## random faults for SECONDS, with a printed seed
	USAGE_FAULT_SECONDS=$(or $(SECONDS),600) $(BIN)/pytest -q --timeout=0 -s tests/faults/test_random_faults.py

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
