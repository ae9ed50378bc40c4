# `make` alone lists what there is. Every target sets up what it needs in .venv, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
JOB ?= configs/digits.yml
OUT ?=
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help run test lint clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/run.stamp ## Train on handwritten digits over 100 phones (JOB=... for another job file)
	@echo "muster is $(BIN)/muster here; 'source $(BIN)/activate' makes it just 'muster'"
	@$(BIN)/muster run $(JOB) $(if $(OUT),--out $(OUT))

test: .venv/dev.stamp ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: .venv/dev.stamp ## Check format, lint, types and who imports whom
	$(BIN)/ruff format --check src tests examples benchmarks tools
	$(BIN)/ruff check src tests examples benchmarks tools
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## Remove .venv and what tools have cached (your runs stay)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Muster needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

# A stamp is younger than pyproject.toml once what it names has been installed.
.venv/run.stamp: pyproject.toml | $(BIN)/python
	@[ -e .venv/dev.stamp ] && [ .venv/dev.stamp -nt pyproject.toml ] || \
		$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[report]'
	@touch $@

.venv/dev.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@
