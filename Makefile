# make demo    see the main job work on real radiographs (installs what it needs)
# make run     leave the feed running and point a PACS at it
# make test    everything that must hold, as CI runs it
# make lint    format check, lint, types, import floors
# make format  put the code in shape
# make bench   speed, as ratios to DCMTK, Orthanc and PyTorch

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo run test lint format bench clean

# pip, not another installer: torch is pinned and pip takes a local CPU build where there is one.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/python -m deploy.demo $(ARGS)

run: $(VENV)/.demo
	$(BIN)/python -m deploy.standalone $(ARGS)

# Three at a time on two cores: many tests wait for real servers.
test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.ingest $(ARGS)
	$(BIN)/python -m tests.benchmarks.feed $(ARGS)
	$(BIN)/python -m tests.benchmarks.engines

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output
