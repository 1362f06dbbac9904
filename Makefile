# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# They need Python 3.11, git and make; a second call installs nothing.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-slow lint install

demo: $(INSTALLED)
	dvc repro
	ssr metrics

test: $(INSTALLED)
	pytest

test-slow: $(INSTALLED)
	pytest -m slow

lint: $(INSTALLED)
	ruff format --check
	ruff check
	mypy
	lint-imports

install: $(INSTALLED)

# torch first, at its pinned version, so that nothing else chooses it; for a GPU, or to avoid one,
# install the build of your choice before (pytorch.org names the index of each)
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
