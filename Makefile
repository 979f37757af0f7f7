# `make help` lists the targets. Each sets up what it needs in .venv by itself.

SHELL := bash
export PYTHON ?= python3
VENV := .venv
VENV_MIN := .venv-min
ARGS :=
# A file's tests share what they set up.
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist loadfile

.PHONY: help demo docs test test-min campaign lint clean clean-all venv
.DEFAULT_GOAL := help

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 12
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter, 3.10 or later; ARGS="..." is handed on, e.g.'
	@echo "make test ARGS='-m \"not slow\"'"

demo: venv ## the whole job, offline, on handwritten digits
	@$(VENV)/bin/trex demo $(ARGS)

docs: venv ## the documentation as a site: build/docs/index.html
	@$(VENV)/bin/python -m sphinx -W --keep-going -E -q -c docs/site -b html . build/docs $(ARGS)
	@echo 'Open build/docs/index.html; it needs no server and no network.'

test: venv ## all tests
	@$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-min: ## all tests with the oldest supported libraries, in an environment of their own
	@.ci/venv $(VENV_MIN) --oldest
	@$(VENV_MIN)/bin/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

campaign: venv ## the long form of tests/hostile and tests/crash: hours
	@TREX_HOSTILE=100000 TREX_KILLS=300 $(VENV)/bin/python -m pytest -s -n 0 tests/hostile tests/crash $(ARGS)

lint: venv ## style, format and types
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

clean: ## remove caches and built packages; environments and runs/ stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +

clean-all: clean ## the same, and remove the environments
	@rm -rf $(VENV) $(VENV_MIN)

venv:
	@.ci/venv $(VENV)
