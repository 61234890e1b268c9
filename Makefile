# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS := benchmarks/results

help: ## what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## a virtual environment with everything pinned

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

demo: setup ## a million tokens, a window of 1,024: questions, answers, a table and a picture
	$(BIN)/megacontext demo --out demo-output

test: setup ## every test
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: setup ## format, lint, strict types, floor plan
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## what CI runs: lint and test

$(VENV)/.bench-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

bench: $(VENV)/.bench-installed ## every benchmark, a table of targets, JSON under benchmarks/results
	$(BIN)/python benchmarks/run_all.py --out $(RESULTS)

docs: setup ## the documentation as a site under site/
	$(BIN)/mkdocs build --strict

clean: ## remove what was built, keep memories
	rm -rf $(VENV) site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

.PHONY: help setup demo test lint check bench docs clean
