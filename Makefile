# make train | test | lint | docs | tensorboard. Everything is installed into .venv on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/antmaze.yaml
RESUME ?=
ARGS ?=
PORT ?= 6006

.PHONY: train test test-slow lint docs docs-links tensorboard clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,plot,notebooks,docs]'
	touch $@

# Without a GPU the 64 critics of the paper take days: an overlay trains fewer of them, and says so.
CPU_OVERLAY = $(firstword $(wildcard $(CONFIG:.yaml=)/cpu.yaml) configs/cpu.yaml)
GPU_OVERLAY = $(firstword $(wildcard $(CONFIG:.yaml=)/gpu.yaml) configs/gpu.yaml)
train: $(BIN)/.installed
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  OVERLAY="$(GPU_OVERLAY)"; \
	  echo "GPU found: adding $(GPU_OVERLAY)"; \
	else \
	  OVERLAY="$(CPU_OVERLAY)"; \
	  echo "no GPU found: adding $(CPU_OVERLAY) (for antmaze.yaml: 2 critics instead of the paper's 64; the file says what differs and why)"; \
	fi; \
	exec $(BIN)/python -m edp_lightning fit --config $(CONFIG) --config $$OVERLAY $(if $(RESUME),--ckpt_path last) $(ARGS)

test: $(BIN)/.installed
	$(BIN)/python -m pytest -q --numprocesses auto --dist worksteal $(ARGS)

test-slow: $(BIN)/.installed
	$(BIN)/python -m pytest -q -m slow $(ARGS)

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pages of modules that are gone would be read again: the folder is made anew.
docs: $(BIN)/.installed
	rm -rf docs/api/generated
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --jobs auto -c docs . build/docs
	@echo "open build/docs/index.html"

docs-links: $(BIN)/.installed
	$(BIN)/python -m sphinx --builder linkcheck --quiet -c docs . build/docs-links

tensorboard: $(BIN)/.installed
	$(BIN)/tensorboard --logdir runs --port $(PORT)

clean:
	rm -rf $(VENV) *.egg-info build dist docs/api/generated .pytest_cache .mypy_cache .ruff_cache
