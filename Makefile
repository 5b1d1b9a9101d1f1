# Every target is safe to call again: what is already there is kept.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# TORCH=cpu installs PyTorch's own builds without CUDA, TORCH=auto what fits the graphics card; from PyTorch's index.
TORCH ?=
PIP := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt \
	$(if $(TORCH),--torch-backend $(TORCH))
export UV_HTTP_TIMEOUT ?= 300
# The jobs and the tests start hundreds of interpreters: without compiled modules, each would compile PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE

# The tests of two files run at once; those of one file stay together: they share what they started. Which other files
# do, and which begin first, stands in tests/scheduling.py.
TEST_PROCESSES ?= 2
PARALLEL := --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

PROFILES ?=
COMPOSE := $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) \
	$(foreach profile,$(PROFILES),--profile $(profile))

.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/laptop ## Install, fetch real images, extract, cluster, print the metrics, draw the groups
	$(BIN)/shoal demo

.PHONY: test
test: $(VENV)/dev ## Install what the tests need and run all of them but the long ones
	$(BIN)/python -m pytest $(PARALLEL)

.PHONY: test-faults
test-faults: $(VENV)/dev ## Break things for minutes: a fault at every step of every commit, chaos, memory
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist load -m faults_long

.PHONY: test-protections
test-protections: $(VENV)/dev ## Take each protection of the promises out of a copy of the code, and see its tests fail
	$(BIN)/python -m tests.faults.protections

.PHONY: test-native
test-native: $(VENV)/dev ## Test the kernels, compiled with AddressSanitizer and UndefinedBehaviorSanitizer; needs g++
	$(BIN)/python tests/programs/sanitized.py -q tests/clusterer/kmeans/test_fast.py tests/clusterer/map \
		tests/clusterer/neighbours tests/clusterer/search tests/extractor/images/test_resize.py

.PHONY: coverage
coverage: $(VENV)/dev ## Run all tests and say which lines and branches none of them runs, their processes included
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: test-fuzz
test-fuzz: $(VENV)/dev ## Send each service 2,000 generated requests
	SHOAL_FUZZ_CASES=2000 $(BIN)/python -m pytest tests/security/test_openapi.py --timeout 3600

.PHONY: test-online
test-online: $(VENV)/dev ## Let 64 clients send images for a minute while weights are replaced and the model host is killed
	SHOAL_FAULT_CLIENTS=64 SHOAL_FAULT_SECONDS=60 $(BIN)/python -m pytest -s tests/faults/test_online.py

SECONDS ?= 60
SEED ?=

.PHONY: chaos
chaos: $(VENV)/dev ## Break things at random under a mixed load, then check everything (SECONDS=600, SEED=1)
	$(BIN)/python -m tests.faults.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

.PHONY: up
up: ## Build the images and start the services with Docker (PROFILES="tf monitoring" for more)
	@mkdir -p data
	$(COMPOSE) up -d --build

.PHONY: images
images: ## Build the images alone (PROFILES=tf for TensorFlow's too)
	$(COMPOSE) build

.PHONY: down
down: ## Stop the services; data, models, store and queue are kept
	$(COMPOSE) down

.PHONY: test-compose
test-compose: $(VENV)/dev ## Run the main job on the real images, killing containers on the way
	SHOAL_REQUIRE_DOCKER=1 $(BIN)/python -m pytest tests/compose

.PHONY: check
check: $(VENV)/dev ## Formatting, lint, types, the budget of `Any`, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python deploy/typing_budget.py

.PHONY: audit
audit: $(VENV)/dev ## Look up known vulnerabilities of the pinned dependencies; needs PyPI's vulnerability service
	$(BIN)/python deploy/audit.py

.PHONY: fix
fix: $(VENV)/dev ## Format, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: docs
docs: $(VENV)/dev ## Build the documentation into build/site, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

.PHONY: install
install: $(VENV)/laptop ## Install everything a laptop needs into .venv (TORCH=cpu: PyTorch without CUDA, 5 GB less)

.PHONY: constraints
constraints: $(VENV)/uv ## Pin the newest versions that resolve together
	$(BIN)/uv pip compile --quiet --all-extras --upgrade --no-annotate --no-header --no-emit-index-url \
		--no-emit-find-links --python-version 3.11 --output-file constraints.txt pyproject.toml

.PHONY: dist
dist: $(VENV)/dev ## Build the source distribution and the wheel, with the compiled kernels, into dist/
	$(BIN)/uv build --no-build-isolation --python $(BIN)/python --out-dir dist

.PHONY: clean
clean: ## Remove the virtual environment, what was built, and the demo's output
	rm -rf $(VENV) build demo dist

$(VENV)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

$(VENV)/laptop: $(VENV)/uv pyproject.toml constraints.txt
	$(PIP) --editable ".[laptop]"
	@touch $@

$(VENV)/dev: $(VENV)/uv pyproject.toml constraints.txt
	$(PIP) --editable ".[dev]"
	@touch $@
