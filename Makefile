# Each target sets up .venv on a fresh machine and then does its job.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lint figures clean

train: .venv/installed
	$(BIN)/python train.py conf=full_duplex

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs
