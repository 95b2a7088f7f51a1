# `make help` lists the targets. Dependencies are installed into .venv and .venv-tools, from lock files with hashes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .venv-tools
BENCH := .venv-bench
FLASK := $(BIN)/flask --app wsgi
PYTEST := $(BIN)/pytest -n auto --dist worksteal
# The first that works: the docker command may have no engine.
IMAGE_BUILDER ?= $(firstword $(foreach tool,docker podman buildah,$(shell $(tool) info >/dev/null 2>&1 && echo $(tool))))

.DEFAULT_GOAL := help

# Otherwise every server and command that a test starts would compile the service again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  %-18s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is required; select it with make PYTHON=…")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.development: requirements-dev.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@ $(VENV)/.runtime

$(TOOLS)/.installed: requirements-tools.lock tests/external/package-lock.json tests/external/.npmrc | $(BIN)/python
	$(BIN)/python -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-tools.lock
	cd tests/external && PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" npm ci --silent
	@touch $@

.PHONY: run
run: db ## Migrate, add demo data if empty, and serve on http://127.0.0.1:8000 (ARGS='-b …' to change)
	$(FLASK) seed --if-empty
	INVENTORY_AUTH=$${INVENTORY_AUTH:-off} $(BIN)/gunicorn wsgi:app $(ARGS)

.PHONY: db
db: $(VENV)/.runtime ## Upgrade the database to the latest migration
	$(FLASK) db upgrade

.PHONY: test
test: $(VENV)/.development ## Run the tests on SQLite, and on PostgreSQL if reachable (ARGS='-k csv' selects tests)
	$(BIN)/coverage erase
	$(PYTEST) -m 'not reliability and not external' --cov --cov-report=term $(if $(ARGS),--cov-fail-under=0) $(ARGS)

.PHONY: test-fast
test-fast: $(VENV)/.development ## Run the fast tests on SQLite, without coverage
	TEST_ENGINES=sqlite $(PYTEST) -m 'not slow and not reliability and not external' $(ARGS)

.PHONY: external
external: $(VENV)/.development tools ## Test the service with third-party tools and generated clients
	TEST_REQUIRE_TOOLS=1 $(PYTEST) -m external $(ARGS)

.PHONY: tools
tools: $(TOOLS)/.installed ## Install the third-party tools for tests/external

$(BENCH)/.installed: requirements-bench.lock | $(BIN)/python
	$(BIN)/python -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

.PHONY: bench
bench: $(BENCH)/.installed ## Compare CPU per request with two rivals, on both engines (ARGS='--help' lists options)
	$(BENCH)/bin/python -m benchmarks compare $(ARGS)

.PHONY: bench-quick
bench-quick: $(BENCH)/.installed ## The same ratios on PostgreSQL within two minutes, less exact
	$(BENCH)/bin/python -m benchmarks compare --quick $(ARGS)

.PHONY: bench-growth
bench-growth: $(BENCH)/.installed ## CPU per request as the ledger grows to 2,000,000 rows; plots benchmarks/growth.png
	$(BENCH)/bin/python -m benchmarks growth $(ARGS)

.PHONY: bench-limits
bench-limits: $(BENCH)/.installed ## Memory of a worker, start-up time, and waiting beside an import
	$(BENCH)/bin/python -m benchmarks limits $(ARGS)

.PHONY: bench-overhead
bench-overhead: $(BENCH)/.installed ## What access control and observation add to a request
	$(BENCH)/bin/python -m benchmarks overhead $(ARGS)

.PHONY: bench-retail
bench-retail: $(BENCH)/.installed ## Load a year of real sales into the empty database at DATABASE_URL
	@test -n "$(DATABASE_URL)" || { echo "Set DATABASE_URL: make bench-retail DATABASE_URL=postgresql://…/new"; exit 2; }
	DATABASE_URL="$(DATABASE_URL)" $(BENCH)/bin/flask --app wsgi db upgrade
	$(BENCH)/bin/python -m benchmarks.online_retail "$(DATABASE_URL)"

.PHONY: profile
profile: $(BENCH)/.installed ## Flame graph of a worker: make profile WORKLOAD=detail
	$(BENCH)/bin/python -m benchmarks profile $(WORKLOAD) $(ARGS)

.PHONY: reliability
reliability: $(VENV)/.development ## Run the fault bench on both engines (TEST_RELIABILITY_SCALE=10 for a longer run)
	mkdir -p build && rm -f build/reliability.jsonl
	TEST_REQUIRE_ENGINES=sqlite,postgresql TEST_RELIABILITY_FIGURES=build/reliability.jsonl $(PYTEST) tests/reliability $(ARGS)

.PHONY: reliability-report
# Published figures are of tests that ran one after another, and in their order.
reliability-report: PYTEST := $(BIN)/pytest
reliability-report: reliability ## Run the fault bench and write its results to docs/reliability.md
	$(BIN)/python -m tests.reliability.table build/reliability.jsonl docs/reliability.md

.PHONY: sbom
sbom: $(VENV)/.runtime tools ## List the dependencies (CycloneDX) and their licences, in build/
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-file build/sbom.json
	$(TOOLS)/bin/pip-licenses --python $(BIN)/python --format markdown --output-file build/licences.md \
		--packages $$(sed -nE 's/^([a-z0-9._-]+)==.*/\1/p' requirements.lock)

.PHONY: audit
audit: tools ## Compare the dependencies with the advisories of the Python Package Index
	$(TOOLS)/bin/pip-audit --requirement requirements-otel.lock --require-hashes --disable-pip --strict

.PHONY: mutation
mutation: $(VENV)/.development ## Run mutation tests on the code of the ledger
	$(BIN)/mutmut run $(ARGS)
	$(BIN)/mutmut results

.PHONY: image
image: ## Build the image "inventory" with docker, podman or buildah (IMAGE_BUILDER selects, ARGS='--build-arg …')
	@test -n "$(IMAGE_BUILDER)" || { echo "Install docker, podman or buildah."; exit 2; }
	BUILDAH_FORMAT=docker $(IMAGE_BUILDER) build --tag inventory $(ARGS) .

.PHONY: try-image
try-image: image ## Build the image, run it read-only and without capabilities, and use it
	$(PYTHON) deploy/try_image.py $(IMAGE_BUILDER:buildah=podman) inventory

.PHONY: lint
lint: $(VENV)/.development ## Check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: format
format: $(VENV)/.development ## Fix lint errors and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: types
types: $(VENV)/.development ## Check types with mypy in strict mode
	$(BIN)/mypy

.PHONY: lock
lock: ## Update the lock files (requires uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade -c requirements.lock --extra otel pyproject.toml -o requirements-otel.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade -c requirements-otel.lock --extra dev pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade --group tools -o requirements-tools.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade -c requirements.lock -c requirements-dev.lock pyproject.toml --group bench -o requirements-bench.lock

.PHONY: clean
clean: ## Remove environments and caches, but not the database in instance/
	rm -rf $(VENV) $(TOOLS) $(BENCH) tests/external/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov .coverage* build mutants
