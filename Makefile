# make figures   environment + every figure of the quick profile
# make test      environment + notebooks and library in step and clean + all tests
# make test-data  the notebooks and tests that need real BloodMNIST (BLOOD_UNET_DATA names its folder)
# make test-browser  the explorer in JupyterLab and a real browser (needs Chromium)
# make book      run the notebooks in place, outputs kept for reading
# make clean     remove the environment and everything built
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
FIGURES ?= --profile quick --out figures

SHELL := /bin/bash
BIN := $(VENV)/bin
ABS := $(abspath $(BIN))
FROM := settings.ini setup.py $(wildcard $(CONSTRAINTS))
BOOK := $(sort $(wildcard nbs/[0-9][0-9]*_*.ipynb))
# notebooks with cells that need real data
FLAGGED := $(notdir $(shell grep -lE '"\# ?\| (bloodmnist|experts)' $(BOOK)))
empty :=
space := $(empty) $(empty)
# nothing is read from or written to Jupyter's folders of the user
export JUPYTER_PREFER_ENV_PATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# two recipes at a time
SIDE_BY_SIDE := $(MAKE) --no-print-directory --jobs=2

.PHONY: figures test test-notebooks test-library test-data test-data-notebooks test-data-library test-browser check book clean
.DEFAULT_GOAL := figures

figures: $(VENV)/.installed-notebooks
	$(BIN)/blood-unet figures $(FIGURES)

# Notebooks and tests run side by side; each can be run alone.
# tests/test_plain_kernel.py runs the notebooks once more, each in a Jupyter of its own, their slow cells too
test: $(VENV)/.installed-dev check
	+@$(SIDE_BY_SIDE) test-notebooks test-library

test-notebooks: $(VENV)/.installed-dev
	$(BIN)/nbdev_test --n_workers 0 --do_print --timing

test-library: $(VENV)/.installed-dev
	$(BIN)/pytest -q --durations=8 tests

test-data: $(VENV)/.installed-dev
	+@$(SIDE_BY_SIDE) test-data-notebooks test-data-library

test-data-notebooks: $(VENV)/.installed-dev
	$(BIN)/nbdev_test --n_workers 0 --do_print --timing --flags "bloodmnist experts slow" --file_re '^($(subst $(space),|,$(FLAGGED)))$$'

test-data-library: $(VENV)/.installed-dev
	$(BIN)/pytest -q -m bloodmnist tests || { s=$$?; [ $$s -eq 5 ] && echo "no test in tests/ is marked bloodmnist"; exit $$(( s == 5 ? 0 : s )); }

test-browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit 0; done; \
	echo "make test-browser needs Chromium, and finds none on the PATH. Install it (Debian: apt-get install chromium) and try again."; exit 1
	@$(MAKE) --no-print-directory $(VENV)/.installed-dev
	$(BIN)/pytest -q -m browser tests

# Format and lint; then, in a scratch copy: does an export change the library, does cleaning change a notebook?
check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check -q nbs bench tests setup.py || { echo "Not formatted: run $(BIN)/ruff format nbs bench tests setup.py."; exit 1; }
	$(BIN)/ruff check -q nbs bench tests setup.py
	@set -e; copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	cp -r settings.ini nbs blood_unet "$$copy"; find "$$copy" -name .ipynb_checkpoints -prune -exec rm -rf {} +; \
	(cd "$$copy" && "$(ABS)/nbdev_export" && "$(ABS)/nbdev_clean" --fname nbs); \
	diff -rq -x __pycache__ blood_unet "$$copy/blood_unet" || { echo "Notebooks and library are out of step: run $(BIN)/nbdev_export."; exit 1; }; \
	diff -rq -x .ipynb_checkpoints nbs "$$copy/nbs" || { echo "Notebooks are not clean: run $(BIN)/nbdev_clean."; exit 1; }; \
	echo "Notebooks and library are in step, and clean."

# The published parameters are the notebooks' own; a kernel of this environment, and of no other, runs them.
book: $(VENV)/.installed-dev
	$(BIN)/blood-unet book $(BOOK)
	$(BIN)/nbdev_clean

clean:
	rm -rf $(VENV) build dist *.egg-info _docs _proc figures/executed .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "blood_unet needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)."; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-notebooks: $(FROM) | $(BIN)/python
	$(BIN)/python -m pip install -q --use-pep517 $(if $(wildcard $(CONSTRAINTS)),-c $(CONSTRAINTS)) -e '.[notebooks]'
	@touch $@

$(VENV)/.installed-dev: $(FROM) | $(BIN)/python
	$(BIN)/python -m pip install -q --use-pep517 $(if $(wildcard $(CONSTRAINTS)),-c $(CONSTRAINTS)) -e '.[dev]'
	@touch $@ $(VENV)/.installed-notebooks
