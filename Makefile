# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# They need Python 3.11, git and make; a second call installs nothing.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

# as many processes as there are processors, up to four, of one thread each; a file's tests share one
IN_PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all lint install

demo: $(INSTALLED)
	dvc repro  # SSR, and its report
	ssr train --out runs/daformer -S train.validate_every=0 -S 'train.regularizer.on=[]'
	ssr evaluate --out runs/daformer
	ssr train --out runs/guided -S train.validate_every=0 -S train.regularizer.kind=guided \
		-S train.regularizer.student_drop=0.5 -S train.optimizer.regularizer_lr_factor=3
	ssr evaluate --out runs/guided
	ssr compare runs/daformer runs runs/guided

# what a change is likely to break, in minutes
test: $(INSTALLED)
	OMP_NUM_THREADS=1 pytest $(IN_PARALLEL)

# and everything else but what needs a GPU or a browser
test-all: test
	OMP_NUM_THREADS=1 pytest $(IN_PARALLEL) -m 'slow and not gpu and not browser'

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
