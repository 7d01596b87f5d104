# What a developer runs. `make` alone says what there is.

VENV := .venv
PYTHON := $(VENV)/bin/python
PYTEST_ARGS ?=
SIZE ?= 1000000
BENCH_ARGS ?=

.PHONY: help demo test lint bench lock clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/ready ## sync a sample list into a Postfix map of its own, and ask that map
	@.ci/setup postfix postfix-lmdb
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" contrib/demo/demo.sh

test: lint ## lint, then all tests; PYTEST_ARGS='-k name' for some
	@.ci/setup postfix postfix-lmdb postfix-cdb slapd ldap-utils
	$(PYTHON) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/ready ## style, format and types, without changing anything
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

bench: $(VENV)/ready ## measure with a list of SIZE addresses (1000000); BENCH_ARGS='--only ldap' for one table
	@.ci/setup postfix postfix-lmdb postfix-cdb slapd ldap-utils
	$(PYTHON) -m tests.bench --size $(SIZE) $(BENCH_ARGS)

lock: $(VENV)/ready ## renew requirements.lock from pyproject.toml
	$(PYTHON) -m pip install --quiet --quiet uv
	UV_CUSTOM_COMPILE_COMMAND='make lock' $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 \
		--upgrade --extra dev --generate-hashes --no-annotate --output-file requirements.lock pyproject.toml

clean: ## remove all that these targets made
	rm -rf $(VENV) .demo dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Python and what it needs; made anew when what it needs has changed.
$(VENV)/ready: pyproject.toml requirements.lock
	@.ci/venv $(VENV)
	@touch $@
