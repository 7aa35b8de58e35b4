# Every target makes its own environment: a fresh machine needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
# What is installed: the versions of this file, on any day. Empty: the newest that pyproject.toml allows.
LOCK ?= constraints.txt
# In the lock the two are a pair that moves by hand: torch decides the bits of every run, torchvision is built for one torch.
PAIR ?= torch==2.14.1 torchvision==0.29.1
BIN := $(VENV)/bin
# Tests and lint run one thread per process: two cores, and the same bits on every run.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
CHECKED := src tests $(wildcard examples) $(wildcard benchmarks)

.PHONY: help demo test test-latest test-lowest lock lint pytest format bench clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo     train a private captioner on built-in data, evaluate it, write its report'
	@echo 'make test     every check: ruff, pyright, import-linter, pytest with doctests'
	@echo 'make test-latest   the same with the newest versions of everything, in .venv-latest'
	@echo 'make test-lowest   pytest with the lowest versions of pyproject.toml, in .venv-lowest'
	@echo 'make lock     renew constraints.txt, which demo and test install from'
	@echo 'make format   let ruff rewrite the sources'
	@echo 'make bench    time and memory: prints ratios, writes benchmarks/results/'
	@echo 'make clean    remove the environment and caches (never runs/)'
	@echo 'VENV=folder uses that environment; PYTHON=python3.12 makes it with that interpreter.'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'sfumato needs Python >= 3.11; name one with PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo 'This Python cannot make environments (on Debian: apt-get install python3-venv).' >&2; exit 1; }

# A stamp per extra: installed once, and again when pyproject.toml or the lock changes. What builds sfumato is locked too:
# up to version 26.1 pip reads the first variable for that, from 25.3 on the second.
$(VENV)/.installed-%: pyproject.toml $(LOCK) | $(BIN)/python
	$(if $(LOCK),PIP_CONSTRAINT='$(LOCK)' PIP_BUILD_CONSTRAINT='$(LOCK)') \
		$(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/python -m sfumato demo

test: lint pytest

test-latest:
	rm -rf .venv-latest
	$(MAKE) test VENV=.venv-latest LOCK=

test-lowest:
	rm -rf .venv-lowest
	$(MAKE) pytest VENV=.venv-lowest LOCK=build/lowest.txt

# Every lower bound of pyproject.toml as an exact version.
build/lowest.txt: pyproject.toml
	@mkdir -p build
	grep -oE '"[A-Za-z0-9_-]+(\[[a-z,]+\])?>=[^,"]+' $< | sed -E 's/"//; s/\[.*\]//; s/>=/==/' > $@

# uv resolves for all platforms at once; installing from the lock needs pip alone.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --no-input --disable-pip-version-check --upgrade uv
	printf '%s\n' $(PAIR) hatchling editables | .venv-lock/bin/uv pip compile --quiet --universal --upgrade \
		--python-version 3.11 --prerelease disallow --no-annotate --custom-compile-command 'make lock' \
		--extra demo --extra test --output-file constraints.txt pyproject.toml -

lint: $(VENV)/.installed-test
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(ONE_THREAD) $(BIN)/pyright --pythonpath $(BIN)/python
	$(ONE_THREAD) $(BIN)/lint-imports --no-cache

pytest: $(VENV)/.installed-test
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

bench: $(VENV)/.installed-test
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit; done

clean:
	rm -rf .venv .venv-latest .venv-lowest .venv-lock .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
