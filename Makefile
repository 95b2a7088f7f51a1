# `make help` lists the targets. Everything is installed into .venv, from hash-pinned lock files.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLASK := $(BIN)/flask --app wsgi

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; say which with make PYTHON=…")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.development: requirements-dev.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@ $(VENV)/.runtime

.PHONY: run
run: db ## Migrate, fill in a small demo if empty, and serve on http://127.0.0.1:8000 (ARGS='-b …' elsewhere)
	$(FLASK) seed --if-empty
	$(BIN)/gunicorn wsgi:app $(ARGS)

.PHONY: db
db: $(VENV)/.runtime ## Bring the database to the newest migration
	$(FLASK) db upgrade

.PHONY: test
test: $(VENV)/.development ## Run all tests, on SQLite and on PostgreSQL where one is reachable, with coverage
	$(BIN)/coverage erase
	$(BIN)/pytest -n auto --dist worksteal --cov --cov-report=term $(ARGS)

.PHONY: bench
bench: $(VENV)/.development ## Load a year of real sales into the new database that DATABASE_URL names
	@test -n "$(DATABASE_URL)" || { echo "Say where: make bench DATABASE_URL=postgresql://…/a_new_database"; exit 2; }
	$(FLASK) db upgrade
	$(BIN)/python -m benchmarks.online_retail "$(DATABASE_URL)"

.PHONY: reliability
reliability: $(VENV)/.development ## Run the fault bench and write its figures into docs/reliability.md (TEST_RELIABILITY_SCALE=10: more)
	mkdir -p build && rm -f build/reliability.jsonl
	TEST_REQUIRE_ENGINES=sqlite,postgresql TEST_RELIABILITY_FIGURES=build/reliability.jsonl $(BIN)/pytest tests/reliability $(ARGS)
	$(BIN)/python -m tests.reliability.table build/reliability.jsonl docs/reliability.md

.PHONY: mutation
mutation: $(VENV)/.development ## Change the ledger's code in small ways and see that the tests notice
	$(BIN)/mutmut run $(ARGS)
	$(BIN)/mutmut results

.PHONY: lint
lint: $(VENV)/.development ## Check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: format
format: $(VENV)/.development ## Put the code into its standard form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: types
types: $(VENV)/.development ## Check types, strictly
	$(BIN)/mypy

.PHONY: lock
lock: ## Renew the lock files (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade --extra dev pyproject.toml -o requirements-dev.lock

.PHONY: clean
clean: ## Remove the environment and caches; the database in instance/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov .coverage*
