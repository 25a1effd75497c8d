# The commands of the house. Each target says what it does.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test soak check format openapi layers bench clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

$(VENV)/.serve: pyproject.toml constraints.txt
	@echo "installing camserve into $(VENV) (once; some minutes, mostly for torch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable '.[client,embedded,worker,onnx,telemetry]'
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo "installing what the tests need into $(VENV)"
	@$(INSTALL) --editable '.[client,embedded,worker,onnx,telemetry,timm,torchvision,dev]'
	@touch $@

serve: $(VENV)/.serve ## Start the API, the workers and a private server on 127.0.0.1:8000
	@exec $(BIN)/python -m camserve serve

test: $(VENV)/.dev ## Run the test suite, some files at once
	@$(BIN)/python -m tests.neighbours.environment
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

soak: $(VENV)/.dev ## Run the long tests
	@$(BIN)/python -m pytest -m soak

check: $(VENV)/.dev ## Check format, lint, types, layers, OpenAPI document and changelog
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m app.openapi --check
	$(BIN)/python tests/changelog.py

format: $(VENV)/.dev ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: $(VENV)/.dev ## Write openapi/openapi.json from the code
	$(BIN)/python -m app.openapi

layers: $(VENV)/.dev ## Write docs/layers.md, the table of automatically chosen layers
	$(BIN)/python -m tests.engine.layer_table

bench: $(VENV)/.dev ## Measure all that is claimed; BENCH=--quick: the short form, some 20 minutes
	@$(BIN)/python -m benchmarks $(BENCH)

clean: ## Remove the virtual environment, caches and the private server's data
	rm -rf $(VENV) .venv-neighbours .venv-rivals .camserve .mypy_cache .ruff_cache .pytest_cache *.egg-info
