# Neuron Atlas: `make run` goes the whole road; every step says what it does, and does nothing when its product is there.
# Written for GNU make 3.81 and later (macOS has 3.81) and any POSIX shell.

PYTHON ?= python3
PORT ?= 8501
MODEL ?= demo
CORPUS ?=
PIP_ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
# What was installed is kept beside it: compared by content, because a checkout changes the times of files.
RUN_STAMP := $(VENV)/atlas-requirements.txt
TEST_STAMP := $(VENV)/atlas-test-requirements.txt
CACHES := .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis tests/artefacts

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run index texts app reproduce test test-fast check audit format clean venv venv-test python

help: ## list the targets
	@echo "Neuron Atlas. Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo "Settings: PORT=$(PORT)  MODEL=$(MODEL) (demo, gemma-3-270m, a folder, a GGUF file or a hub id)  CORPUS=  PYTHON=$(PYTHON)  PIP_ARGS=  PYTEST_ARGS="

run: index app ## install, fetch the demo model, build its catalogue, serve the app

index: venv ## all of it but serving; MODEL=folder indexes another model
	@case "$(MODEL)" in demo|gemma-3-270m) $(PY) -m indexer fetch-demo --model "$(MODEL)";; esac
	@$(PY) -m indexer build "$(MODEL)"
	@if [ "$(MODEL)" = demo ]; then $(PY) -m app.attribution --generic >/dev/null; fi

texts: index ## then texts that activate each neuron; CORPUS=file, folder or data set instead of the model's own words
	@corpus="$(CORPUS)"; [ -n "$$corpus" ] || corpus=$$($(PY) -m indexer own-words "$(MODEL)") || exit $$?; \
	  $(PY) -m indexer texts "$(MODEL)" --corpus "$$corpus"
	@$(PY) -m indexer groups "$(MODEL)"

app: ## serve what is there on PORT
	@[ -f "$(RUN_STAMP)" ] || { echo "make app: nothing is installed in $(VENV) yet. Run: make run" >&2; exit 1; }
	@echo "Serving on port $(PORT); stop with Ctrl-C."
	@exec $(PY) -m streamlit run app/server.py --server.port "$(PORT)"

reproduce: venv ## the paper's published figures beside ours; MODEL=folder or hub id of GPT2-large or Llama-7B
	@$(PY) -m app.attribution.reproduce "$(MODEL)"

test: venv-test index ## run every test: unit, pages, browser; PYTEST_ARGS="-n 0" one after the other
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-fast: venv-test index ## the tests of some minutes: no browser, no faults, no fuzzing
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder --ignore=tests/browser --ignore=tests/faults \
	  -m "not (slow or fuzz)" $(PYTEST_ARGS)

check: venv-test ## format, lint, types, import contracts, documentation
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command as check; check()'
	$(PY) -m pytest -q tests/docs

audit: venv-test ## ask PyPI or OSV for known vulnerabilities of the pinned packages; needs a network
	@$(PY) -m tests.audit

format: venv-test ## format the code and mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove the virtualenv, models/, catalogue/ and caches
	@for made in $(VENV) models catalogue $(CACHES); do \
	  if [ -e "$$made" ] || [ -L "$$made" ]; then echo "removing $$made ($$(du -sh "$$made" | cut -f 1))"; rm -rf "$$made"; fi; \
	done
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "removed what make had made; the code is as it was"

venv: python
	@cmp -s requirements.txt "$(RUN_STAMP)" || { \
	  echo "Installing requirements.txt into $(VENV) (once; some minutes on a slow line) ..."; \
	  rm -f "$(RUN_STAMP)" "$(TEST_STAMP)"; \
	  $(PIP) install $(PIP_ARGS) -r requirements.txt || { $(INSTALL_FAILED); }; \
	  cp requirements.txt "$(RUN_STAMP)"; }

venv-test: venv
	@cat requirements.txt tests/requirements.txt | cmp -s - "$(TEST_STAMP)" || { \
	  echo "Installing tests/requirements.txt into $(VENV) ..."; \
	  rm -f "$(TEST_STAMP)"; \
	  $(PIP) install $(PIP_ARGS) -r tests/requirements.txt || { $(INSTALL_FAILED); }; \
	  cat requirements.txt tests/requirements.txt > "$(TEST_STAMP)"; }

INSTALL_FAILED = { \
  echo; \
  echo "make: the step 'install requirements' failed; pip's own message stands above."; \
  echo "Check the network, or the package index and proxy that pip is set to, and run the same command again:"; \
  echo "it goes on from here. Extra options for pip go into PIP_ARGS=\"...\"."; } >&2; exit 1

# A virtualenv that was half made, moved, or made for a Python that is gone has no working pip, and is made again.
IS_NEW_ENOUGH = -c 'import sys; sys.exit(sys.version_info < (3, 11))'
python:
	@{ $(PY) $(IS_NEW_ENOUGH) && $(PY) -c 'import pip, encodings'; } >/dev/null 2>&1 || { \
	  "$(PYTHON)" -c '' >/dev/null 2>&1 || { \
	    echo "make: no Python was found as '$(PYTHON)'. Install Python 3.11 or newer, or name one: PYTHON=/path/to/python3" >&2; exit 1; }; \
	  "$(PYTHON)" $(IS_NEW_ENOUGH) || { \
	    echo "make: Python 3.11 or newer is needed, and '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1). Name another: PYTHON=python3.12" >&2; exit 1; }; \
	  echo "Making $(VENV) with $$("$(PYTHON)" --version 2>&1) ..."; \
	  { "$(PYTHON)" -m venv --clear "$(VENV)" && $(PY) -c 'import pip'; } || { rm -rf "$(VENV)"; \
	    echo "make: the step 'make $(VENV)' failed. On Debian and Ubuntu, install python3-venv; then run the same command again." >&2; exit 1; }; \
	}
