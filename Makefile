# Each target sets up .venv on a fresh machine and then does its job.
PYTHON ?= python3
BIN := .venv/bin

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

.PHONY: train test test-slow test-all lint docs lock clean

train: .venv/installed
	$(BIN)/python train.py conf=full_duplex

test: .venv/installed
	$(PYTEST) -m "not slow"

test-slow: .venv/installed
	$(PYTEST) -m slow

test-all: test test-slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/mkdocs build --strict

# Files whose hash is not in the lock are refused. A CUDA build of torch does not import without its libraries.
.venv/installed: pyproject.toml requirements.lock requirements-cuda.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(BIN)/python -c "import torch" 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements-cuda.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# After a change of pyproject.toml or constraints.txt.
lock:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python .ci/lock.py

clean:
	rm -rf .venv runs
