# Every target makes its own environment: a fresh machine needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
# Tests and lint run one thread per process: two cores, and the same bits on every run.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
CHECKED := src tests $(wildcard examples) $(wildcard benchmarks)

.PHONY: help demo test lint pytest format bench clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo     train a private captioner on built-in data, evaluate it, write its report'
	@echo 'make test     every check: ruff, pyright, import-linter, pytest with doctests'
	@echo 'make format   let ruff rewrite the sources'
	@echo 'make bench    time and memory: prints ratios, writes benchmarks/results/'
	@echo 'make clean    remove the environment and caches (never runs/)'
	@echo 'VENV=folder uses that environment; PYTHON=python3.12 makes it with that interpreter.'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'sfumato needs Python >= 3.11; name one with PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo 'This Python cannot make environments (on Debian: apt-get install python3-venv).' >&2; exit 1; }

# A stamp per extra: installed once, and again when pyproject.toml changes. torch and torchvision are resolved together
# in one call, because torchvision pins the torch that it was built against.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/python -m sfumato demo

test: lint pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(ONE_THREAD) $(BIN)/pyright --pythonpath $(BIN)/python
	$(ONE_THREAD) $(BIN)/lint-imports --no-cache

pytest: $(VENV)/.installed-test
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS)

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

bench: $(VENV)/.installed-test
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit; done

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
