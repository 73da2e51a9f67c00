# All that a machine needs: Python 3.11 or newer, make, and a package registry that pip knows.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9

# One environment, two stamps: what develops also runs, so a development environment is never taken back.
DEV := $(VENV)/dev.stamp
RUN := $(if $(wildcard $(DEV)),$(DEV),$(VENV)/run.stamp)

# As many processes run the tests as the machine has cores, up to four.
PYTEST := $(BIN)/pytest --numprocesses logical --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help run up test test-deploy test-slow test-long bench study drift-study check check-format check-lint check-types check-imports check-definitions \
	format lock clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUN) ## Land a quarter of real data, train and judge both models, predict two weeks of April; again: only what changed
	@$(BIN)/ml-platform run

up: $(RUN) ## Serve the Dagster UI with its sensors, the MLflow UI and the reports, until Ctrl-C
	@exec $(BIN)/ml-platform up

test: $(DEV) ## Every test of at most a minute or so
	$(PYTEST) -m "not slow and not deploy"

test-deploy: $(DEV) ## What is shipped to run elsewhere: shared stores on real servers, Kubernetes, image, chart
	$(PYTEST) -m deploy --timeout 1800

test-slow: $(DEV) ## The tests that drive daemons for days of landing, kill processes, or take minutes
	$(PYTEST) -m "slow and not long and not deploy" --timeout 1800

test-long: $(DEV) ## A week of landing killed at every write and at random, a fortnight of flights: real daemons, an hour
	$(BIN)/pytest -m long --timeout 1800

bench: $(DEV) ## Measure the platform beside its references, and write docs/benchmarks.md; hours
	$(BIN)/ml-platform bench --write docs

study: $(DEV) ## Compare habits of retraining on the year (docs/retraining.md); takes an hour or so, and goes on where it was stopped
	$(BIN)/python -W ignore -m ml_platform_tests.retraining_study .ml_platform/study

drift-study: $(DEV) ## What drift's alarms are worth, on what `make run` left (docs/drift.md); 20 minutes
	$(BIN)/python -W ignore -m ml_platform_tests.drift_study

check: check-format check-lint check-types check-imports check-definitions ## What pre-commit runs

check-format: $(DEV)
	$(BIN)/ruff format --check --quiet .

check-lint: $(DEV)
	$(BIN)/ruff check --quiet .

check-types: $(DEV)
	$(BIN)/mypy

check-imports: $(DEV)
	$(BIN)/lint-imports --no-logo

check-definitions: $(DEV)
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && mkdir "$$home/dagster" && touch "$$home/dagster/dagster.yaml" && \
	ML_PLATFORM_HOME="$$home" DAGSTER_HOME="$$home/dagster" DAGSTER_DISABLE_TELEMETRY=1 PYTHONWARNINGS=ignore \
	$(BIN)/dagster definitions validate --workspace workspace.yaml --log-level warning && echo "Definitions are valid."

format: $(DEV) ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Versions that are locked stay unless pyproject.toml excludes them; delete a lock file to move everything.
lock: $(VENV)/bin/uv ## Lock the dependencies of pyproject.toml: versions and hashes, no addresses
	$(call compile,requirements.lock)
	$(call compile,requirements-dev.lock,--extra dev --constraint requirements.lock)

clean: ## Remove the environment and every cache (the platform's own state is .ml_platform/, and stays)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/dev.stamp: requirements-dev.lock pyproject.toml | $(VENV)/bin/uv
	$(call install,$<)

$(VENV)/run.stamp: requirements.lock pyproject.toml | $(VENV)/bin/uv
	$(call install,$<)

$(VENV)/bin/uv:
	@$(if $(PYTHON),,echo "No Python found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python" && exit 1;) \
	$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("$(PYTHON) is Python %d.%d: 3.11 or newer is needed" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# pip is slower but reads pip.conf, which uv does not: where a mirror is configured there, pip succeeds.
define install
	@echo "Installing $(1) into $(VENV)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(1) || \
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(1)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e . || \
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
endef

define compile
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-strip-extras --no-annotate --no-header \
		$(2) --output-file $(1) pyproject.toml
endef
