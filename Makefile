# Every target sets up what it needs: a virtual environment in .venv, from the pinned versions in constraints.txt.
# Needs only git, make and a Python from 3.10 to 3.12; PYTHON=... names another one than the first found.

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help demo test lint types bench clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "expected a Python from 3.10 to 3.12 (with venv and pip), found none; install one or pass PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## drive 4 environments on the embedded simulator; pictures in runs/demo/
	$(BIN)/zmqcarla demo

test: $(STAMP)  ## run the tests, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict and pyright strict
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(STAMP)  ## measure the vector env against its peers, and the simulator
	$(BIN)/python tools/bench_latency.py
	$(BIN)/python tools/bench_sim.py

clean:  ## remove the environment, caches and pictures
	rm -rf .venv runs build .mypy_cache .pytest_cache .ruff_cache *.egg-info
