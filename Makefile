# What a developer runs. `make` alone says what there is.

VENV := .venv
PYTHON := $(VENV)/bin/python
MAILMAN := $(VENV)/mailman
UV_COMPILE := UV_CUSTOM_COMPILE_COMMAND='make lock' $(VENV)/bin/uv pip compile --quiet --universal \
	--python-version 3.11 --upgrade --generate-hashes --no-annotate
PYTEST_ARGS ?=
# Two more than there are processors, since tests wait half of their time.
JOBS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n + 2 : 6)))
SIZE ?= 1000000
BENCH_ARGS ?=
PREFIX ?= /opt/syncagent
DESTDIR ?=

PACKAGES := postfix postfix-lmdb postfix-cdb slapd ldap-utils systemd python3-venv zsh fish groff-base mandoc \
	dnsmasq-base faketime strace
SAMBA := samba samba-dsdb-modules samba-vfs-modules samba-ad-provision python3-samba ldb-tools
# Whole files go to one process, since what a file's tests share is made once.
PYTEST := $(PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Modules are compiled once, whatever the environment says: tests start the program a thousand times.
unexport PYTHONDONTWRITEBYTECODE
COMPILE = @$(PYTHON) -m compileall -q syncagent tests/support

.PHONY: help demo install check test proof lint bench man lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/ready ## sync a sample list into a Postfix map of its own and query it
	@.ci/setup postfix postfix-lmdb
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" contrib/demo/demo.sh

install: ## install on this host, with systemd units; starts nothing. PREFIX=/opt/syncagent DESTDIR=
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' contrib/systemd/install.sh

check: lint ## lint and the fast tests
	@.ci/setup $(PACKAGES)
	$(COMPILE)
	$(PYTEST) -m "not slow and not proof" $(PYTEST_ARGS)

test: lint $(MAILMAN)/ready ## lint and all tests but proof; PYTEST_ARGS='-k name' runs some of them
	@.ci/setup $(PACKAGES)
	@.ci/promtool $(VENV)/bin
	$(COMPILE)
	$(PYTEST) $(PYTEST_ARGS)

proof: $(MAILMAN)/ready ## the tests that take hours; adds their figures to contrib/docs/proof.md
	@.ci/setup $(PACKAGES) mmdebstrap $(SAMBA)
	$(COMPILE)
	$(PYTEST) -p tests.proof -m proof $(PYTEST_ARGS)

lint: $(VENV)/ready ## check style, format and types; changes nothing
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

bench: $(VENV)/ready ## measure with a list of SIZE addresses (1000000); BENCH_ARGS='--only ldap' for one table
	@.ci/setup postfix postfix-lmdb postfix-cdb slapd ldap-utils
	$(PYTHON) -m tests.bench --size $(SIZE) $(BENCH_ARGS)

man: $(VENV)/ready ## generate the manual pages from the program's own texts
	$(PYTHON) contrib/man/generate.py contrib/man

lock: $(VENV)/ready ## update requirements.lock and the lock of the Mailman that the tests use
	$(PYTHON) -m pip install --quiet --quiet uv
	$(UV_COMPILE) --extra dev --output-file requirements.lock pyproject.toml
	$(UV_COMPILE) --override tests/support/mailman-overrides.in \
		--output-file tests/support/mailman.lock tests/support/mailman.in

clean: ## remove everything these targets made
	rm -rf $(VENV) .demo dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Python and what it needs; made anew when what it needs has changed.
$(VENV)/ready: pyproject.toml requirements.lock
	@.ci/venv $(VENV)
	@touch $@

# A real Mailman for the tests, in an environment of its own. Where it cannot be had they go on: what needs it says so,
# and fails in CI. The lock is complete; without --no-deps pip would ask for a package that does not exist.
$(MAILMAN)/ready: tests/support/mailman.lock | $(VENV)/ready
	@echo "mailman: installing into $(MAILMAN)"
	@$(PYTHON) -m venv --clear $(MAILMAN)
	@if $(MAILMAN)/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input install \
		--require-hashes --no-deps --requirement tests/support/mailman.lock; then touch $@; \
	else echo "mailman: could not be installed (above: why); going on without" >&2; fi
