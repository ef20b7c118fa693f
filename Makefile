# `make demo` and `make test` work in a fresh checkout: they install what they need into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# The frameworks of `usage_worker.integrations` pin packages that ours must not depend on.
INTEGRATIONS := .venv-integrations

# Debian's programs: its oldest PostgreSQL (the embedded one is the newest) and its Redis.
SYSTEM_POSTGRES := $(patsubst %/postgres,%,$(firstword $(sort $(wildcard /usr/lib/postgresql/*/bin/postgres))))
SYSTEM_REDIS    := $(wildcard /usr/bin/redis-server)
SYSTEM_POOLER   := $(wildcard /usr/sbin/pgbouncer)
NODE            := $(shell command -v node)
CHROMIUM        := $(shell command -v chromium)
PROMETHEUS      := $(and $(shell command -v prometheus),$(shell command -v promtool))
MMDEBSTRAP      := $(shell command -v mmdebstrap)
RABBITMQ        := $(wildcard /usr/lib/rabbitmq/lib/rabbitmq_server-*)
# The tests that depend most on the versions of the servers: schema, dumps, access, ingest and publisher.
ON_SYSTEM := $(wildcard tests/access tests/integration/test_migrate*.py) tests/integration/test_dump_restore.py \
	tests/integration/test_hot.py tests/integration/test_ingest.py tests/integration/test_publisher.py \
	tests/integration/test_vanished.py tests/integration/test_redis_server.py tests/integration/test_redis_users.py

# The tests start hundreds of Python processes; without its cache each compiles the package again, in 0.09 s.
unexport PYTHONDONTWRITEBYTECODE

RANDOM_FAULTS := tests/faults/test_random_faults.py
# One for each kind of servers.
CHAOS_SEEDS := 1,2,3,4,5

.PHONY: help demo check lint unit test test-more test-integrations reference schema screenshot bench bench-graph bench-http bench-sizing bench-nodes migrate-traffic fuzz soak chaos dist clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

$(INTEGRATIONS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(INTEGRATIONS)
	$(INTEGRATIONS)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[integrations-test]'
	touch $@

demo: $(STAMP)  ## run everything on embedded servers, kill a worker, and compare every counter with an oracle
	$(BIN)/usage-worker demo

check: $(STAMP)  ## lint and run the unit tests: no server, less than a minute
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint unit

lint: $(STAMP)  ## run ruff, mypy, import-linter and squawk
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/squawk migrations/*.sql

unit: $(STAMP)  ## run the tests that need no server
	$(BIN)/pytest -n 2 tests/unit

test: check  ## run every check that needs only what pip installs: at most 15 minutes on two cores
	# test-more has what test_breaking shows: that the tests of access fail where a right is wrong.
	# Four processes on two cores, since tests also wait: for locks, servers and deadlines. In the order of collection, which
	# begins with the longest files, so that no core is idle at the end.
	TEST_STOPS=0 $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder -m 'not size' --ignore tests/access/test_breaking.py \
		tests/acceptance tests/faults tests/access tests/integration
	$(BIN)/pytest -n 2 -m size tests/integration

test-more: $(STAMP)  ## run what needs the Debian packages that .ci/run installs: at most 20 minutes
	$(if $(SYSTEM_POSTGRES),,$(error apt-get install postgresql: there is none in /usr/lib/postgresql))
	$(if $(SYSTEM_REDIS),,$(error apt-get install redis-server: there is no /usr/bin/redis-server))
	$(if $(SYSTEM_POOLER),,$(error apt-get install pgbouncer: there is no /usr/sbin/pgbouncer))
	$(if $(CHROMIUM),,$(error apt-get install chromium: there is no chromium))
	$(if $(PROMETHEUS),,$(error apt-get install prometheus: there is no prometheus, or no promtool))
	$(if $(MMDEBSTRAP),,$(error apt-get install mmdebstrap: there is no mmdebstrap))
	$(if $(RABBITMQ),,$(error apt-get install rabbitmq-server: there is none in /usr/lib/rabbitmq))
	# The default alternates tests between the processes, and so makes the servers of each module twice.
	TEST_STOPS=12 $(BIN)/pytest -n 3 --dist worksteal -m 'not size' --postgres-bin $(SYSTEM_POSTGRES) --redis-server $(SYSTEM_REDIS) \
		$(ON_SYSTEM) tests/system tests/pooler
	# Side by side; each prints its seed, which pytest shows where it fails.
	USAGE_FAULT_SECONDS=90 $(BIN)/pytest -n 2 $(RANDOM_FAULTS) tests/chaos
	$(MAKE) --no-print-directory test-integrations

test-integrations: $(INTEGRATIONS)/.installed  ## run the integrations with their frameworks, the examples and the pages about them: at most 3 minutes; needs nodejs
	$(if $(NODE),,$(error apt-get install nodejs: there is no node))
	$(INTEGRATIONS)/bin/mypy --strict examples/*.py
	$(INTEGRATIONS)/bin/pytest -n 2 --dist loadfile tests/integrations

reference: $(STAMP)  ## generate docs/reference from the code
	$(BIN)/python -m tools.reference

schema: $(STAMP)  ## generate docs/schema.md from a database on an embedded server
	$(BIN)/python -m tools.schema

screenshot: $(STAMP)  ## take PICTURE (report.png, flower.png, page.png) of the file or address PAGE for the documents; needs chromium
	$(BIN)/python -m tools.screenshot $(or $(PAGE),$(error PAGE=report.html is missing)) $(PICTURE)

bench: $(STAMP)  ## measure a bare COPY, one task for each event, COPY and roll-up, and usage-worker, side by side
	$(BIN)/usage-worker bench

bench-nodes: $(STAMP)  ## count one backlog with one, two and four nodes of four processes in all, for docs/nodes.md
	$(BIN)/python -m tests.system.bench_nodes

bench-sizing: $(STAMP)  ## measure what an event costs at a steady 1,000 a second, for docs/sizing.md: 3 minutes
	$(BIN)/usage-worker bench sizing

bench-graph: $(STAMP)  ## count the pairs of agents of 100,000 users and walk to related ones, for docs/related-agents.md
	USAGE_GRAPH_USERS=100000 $(BIN)/pytest -q -s --timeout=0 tests/system/test_graph_recommendations.py

bench-http: $(STAMP)  ## measure usage-worker serve with wrk: single events and batches of 500; needs Debian's wrk
	$(BIN)/python -m tools.bench_http

migrate-traffic: $(STAMP)  ## migrate 300,000 rows to 4.0.0, and repair them, under 200 transactions a second; prints the waits
	USAGE_MIGRATE_USERS=1500 $(BIN)/pytest -q -n 0 -s tests/integration/test_migrate_traffic.py -k 'up_to_4 or repair'

fuzz: $(STAMP)  ## try a million examples of each property of entries, values, files and settings; takes hours
	$(BIN)/pytest -n 2 --timeout=0 --hypothesis-profile fuzz tests/unit/test_fuzz.py tests/unit/test_wire.py tests/unit/test_values.py \
		tests/unit/test_fold.py tests/unit/test_kept.py

soak: $(STAMP)  ## cause random faults for SECONDS (600), with a printed seed
	USAGE_FAULT_SECONDS=$(or $(SECONDS),600) $(BIN)/pytest -q --timeout=0 -s $(RANDOM_FAULTS)

chaos: $(STAMP)  ## kill everything at random for SECONDS (2880) with each SEED (1,2,3,4,5): four hours in all
	USAGE_CHAOS_SECONDS=$(or $(SECONDS),2880) USAGE_CHAOS_SEED=$(or $(SEED),$(CHAOS_SEEDS)) $(BIN)/pytest -q --timeout=0 -s tests/chaos

dist: $(STAMP)  ## build dist/*.whl and *.tar.gz, and run the command of the wheel from an empty environment
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m tools.dist

clean:  ## remove the virtual environment and every cache
	rm -rf $(VENV) $(INTEGRATIONS) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
