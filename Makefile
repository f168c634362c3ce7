# Every target makes the environment that it needs when that is missing: .venv, or .venv-mxnet (MXNet needs numpy < 1.24).
PYTHON ?= python3
BIN := .venv/bin
MXNET := .venv-mxnet/bin
BEAT := $(PYTHON) tools/heartbeat.py

# Another index for torch, instead of the build on this machine's disk or PyTorch's CPU build: see docs/using.md.
export TORCH_INDEX ?=
# Bytecode is written when a module is first imported: pip makes none, and the demo finds what it needs.
export PYTHONDONTWRITEBYTECODE =

PYTEST := -m pytest -n 2 --dist worksteal --durations=20
PYTEST_MXNET := $(PYTEST) -W ignore::DeprecationWarning -W "ignore:Setuptools is replacing distutils:UserWarning"
QUICK := "not thorough and not hosts"
CONTRACT_WITH_MXNET := tests/frameworks/test_contract.py tests/frameworks/test_plain_loop.py tests/frameworks/test_mxnet*.py
WITHOUT_TORCH := tests/frameworks/test_*.py tests/partition tests/gradients tests/memory tests/observe tests/machine \
	tests/runtime/rules/test_plan.py tests/runtime/rules/test_rounds.py tests/runtime/rules/test_balance.py \
	tests/runtime/rules/test_crew.py tests/test_layering.py tests/test_docstrings.py
# One part of the thorough tests: SHARE=3/8.
SHARE ?= 1/1

.PHONY: demo examples lint test test-mxnet test-thorough test-all test-hosts mutants campaign test-versions bench bench-hosts bench-frameworks bench-recovery bench-examples bench-pipeline bench-startup bench-large bench-worlds bench-scripts bench-batch-norm recording lock clean

.venv/demo: requirements/demo.lock pyproject.toml
	@echo ".venv takes torch and 25 small packages: 0.3 GB to download and 0.9 GB on disk, if torch is its CPU build"
	$(BEAT) venv $(PYTHON) -m venv .venv
	$(BEAT) pip $(BIN)/python tools/install.py $<
	$(BEAT) bytecode $(BIN)/python -c "import sklearn.datasets, torch._dynamo, unisono.api, unisono.cli"
	touch $@

.venv/test: requirements/test.lock .venv/demo
	@echo ".venv takes the other frameworks and the tools: 0.7 GB to download and 2.5 GB on disk"
	$(BEAT) pip $(BIN)/python tools/install.py $<
	touch $@

.venv-mxnet/test: requirements/mxnet.lock pyproject.toml
	@echo ".venv-mxnet takes MXNet: 0.1 GB to download and 0.4 GB on disk"
	$(BEAT) "venv for MXNet" $(PYTHON) -m venv .venv-mxnet
	$(BEAT) "pip for MXNet" $(MXNET)/python tools/install.py $<
	touch $@

demo: .venv/demo
	$(BIN)/python tools/demo.py

# Trains every example whole: about an hour on two cores.
examples: .venv/test
	$(BIN)/python benchmarks/train_examples.py

lint: .venv/test
	$(BEAT) ruff $(BIN)/ruff check .
	$(BEAT) ruff $(BIN)/ruff format --check .
	$(BEAT) mypy $(BIN)/mypy

# Every promise once, and each framework under the contract. What takes one core goes beside something else.
test:
	$(MAKE) --no-print-directory --jobs=2 .venv/test .venv-mxnet/test
	$(MAKE) --no-print-directory --jobs=2 lint test-mxnet
	$(BEAT) tests $(BIN)/python $(PYTEST) -m $(QUICK)

test-mxnet: .venv-mxnet/test
	$(BEAT) mxnet $(MXNET)/python $(PYTEST_MXNET) -m $(QUICK) $(CONTRACT_WITH_MXNET)

# The same promises in more combinations and for longer; what needs no torch, under the oldest numpy that is allowed.
test-thorough: .venv/test .venv-mxnet/test
	$(BEAT) mxnet $(MXNET)/python $(PYTEST_MXNET) -m "not hosts" --share=$(SHARE) $(WITHOUT_TORCH)
	$(BEAT) tests $(BIN)/python $(PYTEST) -m thorough --share=$(SHARE)

test-all: test test-thorough

# Hosts, launchers and networks: as root, with the Debian packages in .ci/packages; what cannot be started here is
# skipped with a reason.
test-hosts: .venv/test
	$(BEAT) hosts $(BIN)/python $(PYTEST) -m "hosts and not thorough" -rs

# Small mistakes put into the core, so many, drawn by a seed: do the tests notice? A second or two each.
DRAWN = $(if $(SEED),--seed $(SEED)) $(if $(N),--count $(N))
mutants: .venv/test
	$(BIN)/python -m tools.mutants $(DRAWN)

# Unisono disturbed in every way that tests/reliability knows: N trials, drawn by SEED; or one again, TRIAL=damage/1/7.
campaign: .venv/test
	PYTHONPATH=tests $(BIN)/python -m reliability $(DRAWN) $(if $(TRIAL),--trial $(TRIAL))

# A fixed quarter of the tests at the lowest and the newest versions, each in an environment under .venv-versions;
# VERSIONS="torch-2.8 jax-0.11" chooses among them.
test-versions: .venv/demo
	$(BIN)/python tools/versions.py $(VERSIONS)
	$(BIN)/python docs/fill.py

bench: .venv/test
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/parts.py

bench-frameworks: .venv/test
	$(BIN)/python benchmarks/frameworks.py --mxnet-python .venv-mxnet/bin/python
	$(BIN)/python docs/fill.py

bench-examples: .venv/test
	$(BIN)/python benchmarks/applications.py

bench-recovery: .venv/test
	$(BIN)/python benchmarks/recovery.py

# How long small jobs wait for their first step.
bench-startup: .venv/test
	$(BIN)/python benchmarks/startup.py

# How long a large model waits for its first step, and after its last.
bench-large: .venv/test
	$(BIN)/python benchmarks/large_model.py

bench-pipeline: .venv/test
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python docs/fill.py

# README's picture: one job on 1, 2 and 4 workers under DDP and under Unisono.
bench-worlds: .venv/test
	$(BIN)/python benchmarks/worlds.py

# Scripts with their own loop: unisono.parallel beside the plain script, DDP and a Job.
bench-scripts: .venv/test
	$(BIN)/python benchmarks/scripts.py

# What batch statistics of microbatches do to accuracy.
bench-batch-norm: .venv/test
	$(BIN)/python benchmarks/batch_norm.py

bench-hosts: .venv/test
	$(BIN)/python benchmarks/hosts.py

# What `make demo` shows, as docs/demo.gif.
recording: .venv/test
	$(BIN)/python tools/recording.py

# On the oldest Python that is supported; with TORCH_INDEX where no CPU build of torch lies on the disk.
lock: .venv/demo
	$(BEAT) lock $(BIN)/python tools/lock.py $(TORCH_INDEX)

clean:
	rm -rf .venv .venv-mxnet .venv-versions
