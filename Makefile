# Everything that people, the README and CI run. `make` alone says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-all check bench format docs clean

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check
LOG := $(VENV)/install.log
# What is shown of pip's words: the larger downloads, and when it begins to unpack.
PROGRESS := 's/^ *(Downloading|Using cached) (.*[0-9] [MG]B\))/   \2/p; s/^Installing collected.*/   unpacking/p'
# Name another interpreter with `make demo PYTHON=/path/to/python3.12`.
PYTHON := python3 python3.14 python3.13 python3.12 python3.11 python3.10
# Workers of the test suite; more than eight only wait for each other's imports.
WORKERS := auto --maxprocesses=8
# Where the random inputs of `make test-all` begin; a test that fails names the seed of its case.
SEED = $(shell date +%Y%m%d)

help:
	@echo "make demo     set up, export a small trained model, and find the shapes in a picture with it"
	@echo "make test     set up and run the tests that take a few minutes"
	@echo "make test-all set up and run all tests, with other random inputs each day"
	@echo "make check    set up and run the formatter, the linter and the type checker, changing nothing"
	@echo "make format   format the code"
	@echo "make bench    on a machine with a GPU: measure all that docs/results.md holds figures of, in build/measured"
	@echo "make docs     set up and build the documentation's pages into build/docs"
	@echo "make clean    remove what the above made"

demo: $(VENV)/package
	@echo "== exporting weights/yolo26n-shapes.pt, with the best backend of this machine"
	@$(PY) -m yolo26_executorch export --models weights/yolo26n-shapes.pt --base-path demo
	@echo "== finding the shapes in a picture drawn by code"
	@$(PY) tools/draw.py scene demo/drawn/scene.jpg
	@$(PY) -m yolo26_executorch predict demo/yolo26n-shapes demo/drawn/scene.jpg --save --save-dir demo/found \
		2> demo/predict.log || { cat demo/predict.log >&2; exit 1; }
	@echo "picture: demo/found/scene.jpg"

test: $(VENV)/development
	@$(PY) -m pytest -n $(WORKERS) --dist loadgroup -m "not slow"

test-all: $(VENV)/development
	@YOLO26_ET_TEST_SEED=$(SEED) $(PY) -m pytest -n $(WORKERS) --dist loadgroup

check: $(VENV)/development
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(PY) -m mypy

bench: $(VENV)/package
	@$(PY) tools/measure.py build/measured

format: $(VENV)/development
	$(PY) -m ruff format
	$(PY) -m ruff check --fix

docs: $(VENV)/development
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "site: build/docs/index.html"

clean:
	rm -rf $(VENV) demo build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache

# --- Set-up: a virtual environment, filled again whenever pyproject.toml changes ---------------------------------------

$(VENV)/package: WHAT := .
$(VENV)/development: WHAT := .[dev]

# One resolution for everything: left to themselves, some of the libraries would take a PyTorch that others cannot use.
$(VENV)/package $(VENV)/development: pyproject.toml | $(PY)
	@echo "== installing (a few minutes; with PyTorch's CUDA build, several GB); details: $(LOG)"
	@$(PIP) --progress-bar off --editable '$(WHAT)' 2>&1 | tee $(LOG) | sed -nE $(PROGRESS) \
		|| { tail -n 20 $(LOG) >&2; exit 1; }
	@# OpenCV's usual build wants a desktop's libraries (libGL), which servers lack.
	@$(PY) -c 'import cv2' 2>> $(LOG) || $(PIP) --quiet --force-reinstall --no-deps opencv-python-headless
	@touch $@

$(PY):
	@for python in $(PYTHON); do \
		if $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' 2> /dev/null; then \
			echo "== making $(VENV) with $$($$python --version)"; \
			$$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
			exit 0; \
		fi; \
	done; \
	echo "no Python from 3.10 to 3.14 found; install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; \
	exit 1
