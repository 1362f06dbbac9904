# Two commands set everything up on a fresh machine: `make demo` and `make test`.
# They need Python 3.11, git and make; a second call installs nothing.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

# as many processes as there are processors, up to four, of one thread each; a file's tests share one
IN_PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile

# the target of the example, as if it had labels to train on
ORACLE := -S prepare.source.style=dusk -S prepare.source.strength=0.7 -S prepare.source.seed=2 \
	-S prepare.source.root=../../data/drawn -S prepare.target.root=../../data/drawn \
	-S train.init=../../examples/drawn/start

.PHONY: demo test test-all lint install

# the best arm, then the same student without adaptation, without a teacher, and with target labels
demo: $(INSTALLED)
	dvc repro
	for arm in source-only daformer; do \
		ssr init --preset drawn --arm $$arm --params runs/$$arm.yaml --force && \
		ssr train --params runs/$$arm.yaml --out runs/$$arm && \
		ssr evaluate --params runs/$$arm.yaml --out runs/$$arm || exit 1; done
	cd runs && mkdir -p oracle && cd oracle && \
		ssr prepare --params ../source-only.yaml $(ORACLE) && \
		ssr train --params ../source-only.yaml $(ORACLE) --out . && \
		ssr evaluate --params ../source-only.yaml $(ORACLE) --out .
	ssr compare runs/source-only runs/daformer runs runs/oracle
	ssr report --compare runs/source-only --compare runs/daformer --compare runs --compare runs/oracle

# what a change is likely to break, in minutes
test: $(INSTALLED)
	OMP_NUM_THREADS=1 pytest $(IN_PARALLEL)

# and everything else but what needs a GPU
test-all: test
	OMP_NUM_THREADS=1 pytest $(IN_PARALLEL) -m 'slow and not gpu'

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
