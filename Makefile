# `make demo` and `make test` do all their own set-up in .venv; nothing but Python 3.10+ is needed beforehand.

PY ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
SETUP := setup.cfg pyproject.toml constraints.txt
# The constraints pin every version. An unpinned torch would also fetch gigabytes of CUDA libraries.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint hunt notebooks clean
.NOTPARALLEL:

demo: $(VENV)/demo.stamp
	$(BIN)/milpverify demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The laws of hypothesis use the same examples in every run; this looks at others, so it may find what no run before did.
# A failure comes again with SEED set to the number printed.
hunt: SEED := $(if $(SEED),$(SEED),$(shell date +%s))
hunt: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --law-seed $(SEED)

# Run every notebook and store it with its outputs.
notebooks: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/jupyter-execute --inplace notebooks/*.ipynb

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# setuptools comes first, pinned too, so that the editable install needs no isolated build environment.
$(VENV)/base.stamp: constraints.txt
	$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "make: Python 3.10 or later is needed; name one with PY=...")'
	$(PY) -m venv $(VENV)
	$(PIP) setuptools
	@touch $@

$(VENV)/demo.stamp: $(VENV)/base.stamp $(SETUP)
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp $(SETUP)
	$(PIP) --no-build-isolation --editable '.[test]'
	@touch $@
