# make run and make test are all a fresh clone needs. Every target begins with `setup`, which fills .venv
# once and again only when pyproject.toml, constraints.txt or the sources of the native library change.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup run test test-long lint bench bench-model bench-engine bench-gpu clean

BIN := .venv/bin
# Another interpreter: make setup PYTHON=/path/to/python3.12
PYTHON ?=
# Arguments for glmbot run, pytest and the benchmarks: make test ARGS="-k telegram"
ARGS ?=

native := model/kernels/native
sources := $(sort $(wildcard $(addprefix $(native)/*.,cpp hpp h inl)))
inputs := $(shell cat pyproject.toml constraints.txt setup.py $(sources) | cksum | tr ' ' '-')
here := $(shell pwd | cksum | tr ' ' '-')
stamp := .venv/.setup-$(inputs)-$(here)

help:
	@echo "make run        set up, then serve the chat page on http://127.0.0.1:8080"
	@echo "make test       set up, then run the tests (under 10 minutes)"
	@echo "make test-long  the long tier: kills, soaks, fuzzing"
	@echo "make lint       ruff, mypy --strict, import rules"
	@echo "make bench      run the benchmarks; tables here, JSON in bench-results/"
	@echo "make bench-model  the model alone, as a share of what this machine can do: minutes and 3.5 GB"
	@echo "make bench-engine  many users at once on the model: minutes and 3.5 GB"
	@echo "make bench-gpu  every test and figure of an NVIDIA card; DRY=1 lists them where there is none"
	@echo "make setup      only fill .venv (ends with .venv/bin/glmbot)"
	@echo "make clean      remove .venv, caches and results"

setup: $(stamp)

$(stamp):
	@set -e; \
	python="$(PYTHON)"; \
	suits='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; \
	for candidate in $${python:-python3.13 python3.12 python3.11 python3}; do \
	    if "$$candidate" -c "$$suits" >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	    python=; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "glmbot needs Python 3.11 or newer with venv and pip; none was found." >&2; \
	    echo "Debian/Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.12;" >&2; \
	    echo "or name one: make setup PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	fi; \
	if ! $(BIN)/python -c 'import pip' >/dev/null 2>&1; then \
	    echo "Creating .venv with $$("$$python" --version)"; \
	    "$$python" -m venv --clear .venv; \
	fi; \
	echo "Installing glmbot and everything it can use into .venv (the first time takes minutes: torch is large)"; \
	rm -rf *.egg-info; \
	$(BIN)/python -m pip install -c constraints.txt -e ".[model,charts,dev,test]"; \
	$(BIN)/glmbot --help >/dev/null; \
	if [ -f $(native)/not_built.txt ]; then \
	    echo "Warning: no native CPU library, models run slower: $$(cat $(native)/not_built.txt)" >&2; \
	fi; \
	rm -f .venv/.setup-*; \
	touch $@; \
	echo "Ready: $(BIN)/glmbot"

run: setup
	@exec $(BIN)/glmbot run $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

test-long: setup
	$(BIN)/python -m pytest -m long $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	@mkdir -p bench-results; failed=; \
	for file in tests/benchmarks/bench_*.py; do \
	    name=$$(basename "$$file" .py); \
	    echo "== $$name"; \
	    $(BIN)/python "$$file" --json "bench-results/$$name.json" $(ARGS) || failed="$$failed $$name"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

bench-model: setup
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || $(BIN)/python -m pip install -c constraints.txt matplotlib
	@mkdir -p bench-results
	$(BIN)/glmbot model bench --json bench-results/model.json --plot bench-results/model.png $(ARGS)

bench-engine: setup
	@mkdir -p bench-results
	$(BIN)/glmbot model bench-engine --json bench-results/engine.json $(ARGS)

# On a card the tests of kernels run on it as well as on the host; without one DRY=1 lists what waits for it.
bench-gpu: setup
	@if [ -n "$(DRY)" ]; then \
	    GLMBOT_LIST_CARD_TESTS=1 $(BIN)/python -m pytest --collect-only -q -m "long or not long" tests/cuda -k card; \
	    $(BIN)/glmbot model bench-gpu --dry; \
	else \
	    mkdir -p bench-results; failed=; \
	    $(BIN)/python -m pytest -q -m "long or not long" tests/cuda -k card || failed=tests; \
	    $(BIN)/glmbot model bench-gpu --json bench-results/gpu.json $(ARGS) || failed="$$failed figures"; \
	    if [ -n "$$failed" ]; then echo "failed: $$failed" >&2; exit 1; fi; \
	fi

clean:
	rm -f $(native)/*.so $(native)/*.dylib $(native)/*.dll $(native)/not_built.txt
	rm -rf .venv build dist *.egg-info bench-results .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find bot plugins model tests -name __pycache__ -type d -prune -exec rm -rf {} +
