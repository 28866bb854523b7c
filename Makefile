# `make demo` shows the whole path on this machine, `make check` is for every edit, and `make test` runs all that there
# is. All of them set up first.

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
STAMP := .venv/.set-up
DEBIAN := ngspice libngspice0-dev dataset-fashion-mnist

# Two test workers with two threads each would fight over two cores. A worker that has nothing left takes tests from
# the other one, because tests take from a millisecond to a minute.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# DEMO=quick is the demo at the size that continuous integration runs.
DEMO ?= full
OUT := out/demo
ifeq ($(DEMO),quick)
DEMO_EPOCHS := 10
DEMO_IMAGES := 100
DEMO_CIRCUIT_IMAGES := 10
else
DEMO_EPOCHS := 60
DEMO_IMAGES := 1000
DEMO_CIRCUIT_IMAGES := 100
endif

.DEFAULT_GOAL := help
.PHONY: help setup system lint check test demo clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: system $(STAMP)  ## virtual environment in .venv, and ngspice and Fashion-MNIST where apt-get can install

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "geniex needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1 || true);" \
	       "name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[spice,plot,parquet,dev]"
	@# Ray has no wheels for every Python and machine; only --executor ray needs it.
	$(BIN)/python -m pip install --quiet --editable ".[ray]" \
	  || echo "going on without Ray (geniex doctor says what it is for)"
	@touch $@

# Packages are installed one by one, so that one which this distribution lacks does not cost the others.
system:
	@has() { dpkg-query -W -f '$${db:Status-Abbrev}' "$$1" 2>/dev/null | grep -q '^ii'; }; \
	install() { DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$$1" >/dev/null 2>&1; }; \
	missing=; updated=; \
	for package in $(DEBIAN); do \
	  has $$package && continue; \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "installing the Debian package $$package"; \
	    install $$package && continue; \
	    [ -n "$$updated" ] || { updated=yes; apt-get update -qq >/dev/null 2>&1 || true; install $$package && continue; }; \
	  fi; \
	  missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] || echo "going on without the Debian packages$$missing (geniex doctor says what they are for)"

lint: $(STAMP)  ## style, types and the order of the rooms
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: setup lint  ## lint and the fast tests: for every edit, two minutes on two cores
	$(PYTEST) -m "not slow"

test: setup lint  ## lint, all tests and the notebooks: before every merge, ten minutes on two cores
	$(PYTEST) --nbmake --nbmake-timeout=300

demo: setup  ## circuit, sweep, surrogate, network and predicted accuracy (DEMO=quick: a small one)
	@mkdir -p $(OUT)
	$(BIN)/geniex doctor
	$(BIN)/geniex sweep spice_data/demo.yaml --out $(OUT)/sweep.h5 --verify 20
	$(BIN)/geniex train $(OUT)/sweep.h5 --out $(OUT)/surrogate --epochs $(DEMO_EPOCHS)
	$(BIN)/geniex evaluate $(OUT)/sweep.h5 --surrogate $(OUT)/surrogate --held-out --json $(OUT)/evaluate.json
	$(BIN)/geniex predict --preset geniex-16 --surrogate $(OUT)/surrogate --images $(DEMO_IMAGES) \
	  --circuit-images $(DEMO_CIRCUIT_IMAGES) --out $(OUT)/report

clean:  ## remove what was built and computed, keep the environment
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find geniex tests -name __pycache__ -type d -exec rm -rf {} +
