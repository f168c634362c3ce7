# Every target makes .venv from the lock file when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint soak bench bench-frameworks bench-recovery lock clean

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: .venv/installed
	$(BIN)/unisono train examples/digits.py
	$(BIN)/unisono verify examples/digits.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

soak: .venv/installed
	$(BIN)/python -m pytest -m soak

bench: .venv/installed
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/parts.py

bench-frameworks: .venv/installed
	$(BIN)/python benchmarks/frameworks.py --mxnet-python .venv-mxnet/bin/python
	$(BIN)/python docs/fill.py

bench-recovery: .venv/installed
	$(BIN)/python benchmarks/recovery.py

lock: .venv/installed
	$(BIN)/pip freeze --exclude-editable > requirements.lock

clean:
	rm -rf .venv
