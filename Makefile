# make demo | test | lint | clean. Needs python3 (3.11 or newer) and make; the rest goes to .venv.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The repository as it looks once installed: models/ and strategies/ under autoshard/. Type checker
# and import linter read the file system, and would not find them otherwise.
TREE := build/tree
SOURCES := autoshard models strategies tests benchmarks

.PHONY: demo test lint format tree clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "autoshard needs Python 3.11 or newer with venv; set PYTHON=" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/python -m autoshard.cli._demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 15 $(ARGS)

lint: $(READY) tree
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	cd $(TREE) && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache
	cd $(TREE) && ../../$(BIN)/lint-imports --config ../../pyproject.toml --no-cache

format: $(READY)
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

tree:
	@rm -rf $(TREE) && mkdir -p $(TREE)
	@cp -Rp autoshard $(TREE)/autoshard
	@cp -Rp models $(TREE)/autoshard/models
	@cp -Rp strategies $(TREE)/autoshard/strategies

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(wildcard $(SOURCES)) -name __pycache__ -type d -prune -exec rm -rf {} +
