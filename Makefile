# The README's commands, from a fresh checkout on: `make sample` makes images, `make test` checks everything.
# Both build .venv where it is missing, and again when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
START := $(shell date +%s)
# Test processes side by side. A file's tests stay together; files come as tests/conftest.py has them, the slowest first.
JOBS ?= 2
SIDE_BY_SIDE = --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

# Lines of Python, C and JavaScript in a folder, without the ONNX runtime that others wrote.
count = $$(find $(1) \( -name '*.py' -o -name '*.[ch]' -o -name '*.js' \) -not -path '*/onnxruntime-web/*' \
	-exec cat {} + | wc -l)

# What the tests need: `dev` and every extra whose feature exists.
EXTRAS := dev,tb,perceptual,data,plot,export,diffusers

INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
SOURCES := pyproject.toml constraints.txt

.PHONY: help sample test test-plain lines soak bench bench-losses format clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo "make sample   samples.png by the embedded model, or by the newest of your runs"
	@echo "make test     lint, types, fast and slow tests"
	@echo "make test-plain  the fast tests without the project's own kernels, which few processors can run"
	@echo "make lines    lines of the package and of its tests"
	@echo "make soak     the long tests"
	@echo "make bench    measure speed on this machine: a quarter of an hour, best on one that does nothing else"
	@echo "make bench-losses  train twice, plainly and fast, and compare the losses: half an hour"
	@echo "make format   format, and mend what the linter can"
	@echo "make clean    remove .venv and caches; runs stay"
	@echo "PYTHON=python3.12 before or after any of them picks another Python (3.11 or newer)"

sample: $(INSTALLED)
	@$(BIN)/spherectl sample --count 40 --out samples.png
	@echo "The image is $(CURDIR)/samples.png"

test: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "fast or slow" $(SIDE_BY_SIDE)
	@$(MAKE) --no-print-directory lines
	@seconds=$$(($$(date +%s) - $(START))); echo "make test took $$((seconds / 60)) min $$((seconds % 60)) s in all"

test-plain: $(INSTALLED_DEV)
	SPHERECTL_KERNELS=0 $(BIN)/pytest -m fast $(SIDE_BY_SIDE)

lines:
	@awk -v package=$(call count,spherectl) -v tests=$(call count,tests) \
		'BEGIN { printf "%d lines of package, %d of tests: %.2f for one\n", package, tests, tests / package }'

soak: $(INSTALLED_DEV)
	$(BIN)/pytest -m soak

bench: $(INSTALLED_DEV)
	$(BIN)/python -m benchmarks.speed

bench-losses: $(INSTALLED_DEV)
	$(BIN)/python -m benchmarks.training_equality

format: $(INSTALLED_DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spherectl needs Python 3.11 or newer; this is %s. Try: make PYTHON=python3.12 sample" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(INSTALLED): $(SOURCES) | $(BIN)/python
	@echo "Installing spherectl into $(VENV); PyTorch is large, so the first time takes minutes."
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(INSTALLED_DEV): $(SOURCES) | $(BIN)/python
	@echo "Installing spherectl and its tools into $(VENV); PyTorch is large, so the first time takes minutes."
	$(PIP) install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $(INSTALLED) $@
