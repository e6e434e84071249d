# make test | demo | lint: each sets up what it needs on a fresh machine with Python 3.11 or later, in .venv.
#   make demo SLIDE=path/to/slide.svs OUT=demo     encodes that slide, or without SLIDE a generated one

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TYPED := build/mypy
OUT ?= demo
PACKAGES := inrwsi formats cli benchmarks tests

.DEFAULT_GOAL := help
.PHONY: help setup test lint types unit demo

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 2

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; give another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: lint unit

unit: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(READY) types
	$(BIN)/python -m ruff check $(PACKAGES)
	$(BIN)/python -m ruff format --check $(PACKAGES)

# formats/ and cli/ are installed as inrwsi.formats and inrwsi.cli; mypy has to see them under those names.
types: $(READY)
	@rm -rf $(TYPED) && mkdir -p $(TYPED)/inrwsi
	@for entry in inrwsi/*.py inrwsi/*/ formats cli; do \
		ln -s ../../../$${entry%/} $(TYPED)/inrwsi/$$(basename $$entry); done
	@ln -s ../../benchmarks $(TYPED)/benchmarks
	cd $(TYPED) && MYPYPATH=. $(CURDIR)/$(BIN)/python -m mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p inrwsi -p benchmarks

demo: $(READY)
	$(BIN)/python -m benchmarks.demo --out "$(OUT)" $(if $(SLIDE),--slide "$(SLIDE)")
