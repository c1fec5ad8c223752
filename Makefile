# Everything a fresh clone needs: `make gate` (the main job), `make test`, `make lint`. Needs Python 3.11+ and git.
#
# torch is installed first and pinned, so that nothing else pulls in its CUDA build of several GB. The default wants the CPU
# build: where your package index offers only the CUDA build under that name, point TORCH_INDEX at PyTorch's CPU index.
# GPU users choose their own build: make gate TORCH=torch TORCH_INDEX=<url of the index for your CUDA version>

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
EXTRAS ?= embedded,dev

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: gate test test-slow test-oracle lint format compile-gate compile-gate-subset bench-client bench-engine install clean

gate: $(STAMP)
	$(BIN)/ds4bench gate long-context --target embedded --profile smoke --baseline here

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not oracle and not engine"

test-oracle: $(STAMP)
	$(PIP) -e ".[oracle]"
	$(BIN)/python -m pytest -m oracle tests/oracle

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every shipped kernel configuration for SM120 and SM121, without a GPU. The subset rotates by day and takes under 3 minutes.
compile-gate: $(STAMP)
	$(BIN)/ds4-kernels compile

compile-gate-subset: $(STAMP)
	$(BIN)/ds4-kernels compile --subset

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-client: $(STAMP)
	$(BIN)/python -m ds4bench.client.accuracy

bench-engine: $(STAMP)
	$(BIN)/python -m ds4bench.embedded.benchmark

install: $(STAMP)

$(STAMP): pyproject.toml kernels/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("ds4bench needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) -e ./kernels -e ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info kernels/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
