# make demo | test | bench | lint | clean. Each sets up what it needs in .venv, and only what has changed.
#   PYTHON=python3.12      another Python (3.10 or newer)
#   CXX=clang++            another C++20 compiler
#   TORCH_INDEX=URL        the package index to take torch from, e.g. PyTorch's own with CPU-only builds;
#                          otherwise pip's own configuration decides
#   ARGS="-k projection"   passed on to pytest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo test bench lint clean help
.DEFAULT_GOAL := help

PYTHON ?= python3
export CXX
ARGS ?=
TORCH_INDEX ?=

STAMPS := .venv/.stamps
VENV_PYTHON := .venv/bin/python
# -qq: only errors of pip are shown. The constraints make every set-up the same.
PIP_INSTALL := $(VENV_PYTHON) -m pip --disable-pip-version-check install -qq --constraint constraints.txt
# Python modules may come and go without a new installation; a new package has to be made known by one.
SOURCES := CMakeLists.txt pyproject.toml $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.* desc_ext/*/__init__.py)

help:
	@echo "make demo    cluster the bundled digits and compare with k-means (under 3 minutes)"
	@echo "make test    run the tests"
	@echo "make bench   measure the kernels"
	@echo "make lint    check style and formatting"
	@echo "make clean   remove everything that make made, .venv too"

demo: $(STAMPS)/package
	@echo "== Clustering the digits; results and pictures go to demo-output/"
	@.venv/bin/desc-ext fit digits --model desc --clusters 10 --seed 0 --baselines --out demo-output --overwrite

test: $(STAMPS)/package
	@echo "== Testing"
	@$(VENV_PYTHON) -m pytest $(ARGS)

bench: $(STAMPS)/bench
	@echo "== Measuring the kernels"
	@PYTHONPATH=build/bench $(VENV_PYTHON) -m pytest benchmarks/kernels --benchmark-enable $(ARGS)

lint: $(STAMPS)/lint
	@echo "== Checking style and formatting"
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .

clean:
	rm -rf .venv build dist demo-output .pytest_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The set-up, one step after the other; a finished step leaves a stamp.

$(STAMPS)/compiler:
	@mkdir -p $(STAMPS)
	@command -v "$(CXX)" >/dev/null || { \
	  echo "Missing: the C++ compiler $(CXX) (Debian, Ubuntu: apt-get install g++), or name one: make CXX=..."; exit 1; }
	@printf '#include <concepts>\n#include <source_location>\nconsteval int one() { return 1; }\nint main() { return one() - 1; }\n' | \
	  "$(CXX)" -std=c++20 -x c++ -o $(STAMPS)/c++20 - 2>$(STAMPS)/compiler.log || { cat $(STAMPS)/compiler.log; \
	  echo "Too old or incomplete: $$("$(CXX)" --version | head -n 1) does not build C++20 (g++ must be 11 or newer): make CXX=..."; exit 1; }
	@rm -f $(STAMPS)/c++20 $(STAMPS)/compiler.log && touch $@

$(STAMPS)/venv: | $(STAMPS)/compiler
	@echo "== Setting up .venv with $(PYTHON)"
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "Missing: $(PYTHON) is not on the PATH. Install Python 3.10 or newer, or name one: make PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Too old: $(PYTHON) is $$("$(PYTHON)" --version 2>&1); Python 3.10 or newer is needed: make PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Missing: the venv module of $(PYTHON) (Debian, Ubuntu: apt-get install python3-venv)."; exit 1; }
	@"$(PYTHON)" -m venv .venv
	@touch $@

$(STAMPS)/torch: constraints.txt | $(STAMPS)/venv
	@echo "== Installing torch"
	@$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") torch
	@touch $@

$(STAMPS)/tools: pyproject.toml | $(STAMPS)/torch
	@echo "== Installing the build tools"
	@$(PIP_INSTALL) scikit-build-core cmake ninja
	@touch $@

$(STAMPS)/package: $(SOURCES) $(STAMPS)/torch $(STAMPS)/tools
	@echo "== Compiling the operators and installing desc_ext with what its tests need"
	@$(PIP_INSTALL) --no-build-isolation --editable '.[test]'
	@touch $@

$(STAMPS)/bench: $(STAMPS)/package benchmarks/kernels/peak.cpp
	@echo "== Compiling the measurement of the machine's peak"
	@$(PIP_INSTALL) pybind11
	@PATH="$$PWD/.venv/bin:$$PATH" cmake -S . -B build/bench -G Ninja -DDESC_EXT_BENCH=ON \
	  -DPython_EXECUTABLE="$$PWD/$(VENV_PYTHON)" >build/bench.log || { cat build/bench.log; exit 1; }
	@PATH="$$PWD/.venv/bin:$$PATH" cmake --build build/bench --target _peak >build/bench.log || { cat build/bench.log; exit 1; }
	@touch $@

$(STAMPS)/lint: constraints.txt | $(STAMPS)/venv
	@$(PIP_INSTALL) ruff
	@touch $@
