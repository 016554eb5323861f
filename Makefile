# What people type. `make help` lists it; every target installs what it needs, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?=
BENCH ?=
QUICK ?=
SOAK ?=
PROMISE ?=
OVERLOAD_S ?= 60
TESTS ?=
UPGRADE ?=
UV ?= $(BIN)/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header $(UPGRADE)

# Debian packages that tests call: command:package
SYSTEM := wrk:wrk /usr/lib/postgresql/*/bin/initdb:postgresql promtool:prometheus amtool:prometheus-alertmanager jsonnetfmt:jsonnet

.PHONY: help setup dev system demo test lint bench promise soak dashboards lock clean

help:
	@echo "make setup    what Gaugeway and its demo need, into $(VENV)"
	@echo "make demo     the demo; options: make demo DEMO=\"--days 30 --exit\""
	@echo "make test     every test; a part: make test TESTS=tests/test_record.py"
	@echo "make lint     ruff and mypy"
	@echo "make bench    Gaugeway beside its peers on the same models; five minutes: make bench QUICK=1;"
	@echo "              a part: make bench BENCH=\"--peers triton,gaugeway --rounds 3\""
	@echo "make promise  false alarms over a quarter beside KS, PSI, Evidently, alibi-detect and river; docs/promise.md;"
	@echo "              two minutes, below build/: make promise QUICK=1"
	@echo "make soak     ten minutes at 70 % of the capacity, a minute each far above it: what grows, what fails;"
	@echo "              shorter: make soak SOAK=\"--minutes 2\" OVERLOAD_S=20"
	@echo "make dashboards  jsonnet -> dashboards/out: Grafana's dashboards, Prometheus' rules and alerts"
	@echo "make lock     pin the dependencies anew; to the newest: make lock UPGRADE=--upgrade"
	@echo "make clean    remove $(VENV) and every cache"

setup: $(VENV)/.setup

dev: $(VENV)/.dev

demo: setup
	$(BIN)/gaugeway demo $(DEMO)

test: dev system
	$(BIN)/python -m pytest $(or $(TESTS),-n 2 --dist loadgroup --no-loadscope-reorder)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: dev system
	$(BIN)/python -m loadtests.bench $(if $(QUICK),--quick) $(BENCH)

promise: dev
	$(BIN)/python -m loadtests.promise $(if $(QUICK),--quick) $(PROMISE)

soak: dev
	GAUGEWAY_OVERLOAD_S=$(OVERLOAD_S) $(BIN)/python -m pytest -m "" tests/faults/test_overload.py
	$(BIN)/python -m pytest -m soak --deselect tests/faults/test_overload.py
	$(BIN)/python -m loadtests.soak $(SOAK)

dashboards: dev
	$(BIN)/python -m dashboards

# The lock of the tests holds only what the first does not, so `make demo` and `make test` share every pin.
lock: dev
	$(COMPILE) pyproject.toml --extra demo --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra demo --extra dev --constraint requirements.lock \
	    $$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock) --output-file tests/requirements.lock
	sed -i '/^# The following packages were excluded/,$$d' tests/requirements.lock
	for list in deploy/container/*.in; do \
	    $(COMPILE) $$list --constraint requirements.lock --constraint tests/requirements.lock \
	        --output-file $${list%.in}.lock || exit 1; \
	done
	for list in loadtests/peers/*.in; do \
	    $(UV) pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate $(UPGRADE) \
	        $$list --output-file $${list%.in}.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || { echo "Gaugeway needs Python 3.11 or newer as '$(PYTHON)'; another one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "'$(PYTHON)' cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.setup: $(VENV)/.python requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.setup tests/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock -r tests/requirements.lock
	@touch $@

system:
	@missing=; for pair in $(SYSTEM); do \
	    command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else \
	    echo "the tests also need these system packages:$$missing (Debian: apt-get install$$missing)"; exit 1; \
	fi
