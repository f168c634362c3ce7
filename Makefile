# Every target makes .venv from the lock file when it is missing.
PYTHON ?= python3
BIN := .venv/bin
MXNET := .venv-mxnet/bin

.PHONY: demo examples test test-hosts test-mxnet lint soak mutants bench bench-hosts bench-frameworks bench-recovery bench-examples bench-pipeline lock lock-mxnet clean

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# MXNet needs numpy < 1.24: an environment of its own, without the other frameworks.
.venv-mxnet/installed: requirements-mxnet.lock pyproject.toml
	$(PYTHON) -m venv .venv-mxnet
	$(MXNET)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-mxnet.lock
	$(MXNET)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: .venv/installed
	$(BIN)/unisono train examples/digits_torch.py
	$(BIN)/unisono verify examples/digits_torch.py

# Trains every example whole: about an hour on two cores.
examples: .venv/installed
	$(BIN)/python benchmarks/train_examples.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint test-mxnet
	$(BIN)/python -m pytest -n 2 --dist worksteal

# What needs no torch: the contract with MXNet, and the core under the oldest numpy that it allows.
test-mxnet: .venv-mxnet/installed
	$(MXNET)/python -m pytest -n 2 --dist worksteal -W ignore::DeprecationWarning tests/frameworks/test_*.py \
		tests/partition tests/gradients tests/memory tests/observe tests/planner \
		tests/runtime/test_protocol.py tests/runtime/test_program.py tests/runtime/test_balance.py \
		tests/runtime/test_recovery.py tests/test_layering.py tests/test_platform_check.py \
		tests/test_docstrings.py

# Hosts, launchers and networks: as root, with the Debian packages in .ci/packages; what cannot be started here is
# skipped with a reason.
test-hosts: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m hosts -o timeout=600 -rs --durations=25

# Small mistakes put into the core, so many, drawn by a seed: do the tests notice? A second or two each.
SEED ?= 0
N ?= 100
mutants: .venv/installed
	PYTHONPATH=tools $(BIN)/python -m mutants --seed $(SEED) --count $(N)

soak: .venv/installed
	$(BIN)/python -m pytest -m soak

bench: .venv/installed
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/parts.py

bench-frameworks: .venv/installed
	$(BIN)/python benchmarks/frameworks.py --mxnet-python .venv-mxnet/bin/python
	$(BIN)/python docs/fill.py

bench-examples: .venv/installed
	$(BIN)/python benchmarks/applications.py

bench-recovery: .venv/installed
	$(BIN)/python benchmarks/recovery.py

bench-pipeline: .venv/installed
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python docs/fill.py

bench-hosts: .venv/installed
	$(BIN)/python benchmarks/hosts.py

lock: .venv/installed
	$(BIN)/pip freeze --exclude-editable | sed 's/+.*//' > requirements.lock  # +cpu: a build, not a version

lock-mxnet: .venv-mxnet/installed
	$(MXNET)/pip freeze --exclude-editable > requirements-mxnet.lock

clean:
	rm -rf .venv .venv-mxnet
