# `make help` lists the targets. Everything runs from one environment, .venv, made from constraints.txt.
PYTHON ?= python3.11
UV := $(shell command -v uv 2>/dev/null || echo .boot/bin/uv)
RUN := .venv/bin/python
STAMP := .venv/.stamp

unexport PYTHONDONTWRITEBYTECODE  # importing torch and lightning from bytecode takes a third of the time

.PHONY: help demo test test-fast lint bench types dashboard tensorboard clean pins
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

$(STAMP): constraints.txt
	@echo "setting up .venv (once; about 6 GB)"
	@command -v $(UV) >/dev/null || { $(PYTHON) -m venv .boot && .boot/bin/pip -q --disable-pip-version-check install uv 2>/dev/null; }
	@$(UV) venv -q --clear --python 3.11 .venv
	@$(UV) pip sync -q --python .venv/bin/python constraints.txt
	@# for the types of kfashion's service; without npm their tests are skipped
	@! command -v npm >/dev/null || npm install --silent --no-audit --no-fund --prefix .venv/typescript typescript@5.9.3 || true
	@touch $@

demo: $(STAMP) ## train lasps 1 → 3 → 2 on the simulated market and print the report
	@$(RUN) train.py experiment=lasps_phase2
	@$(RUN) evaluate.py run=latest:lasps_phase2

test: $(STAMP) ## the whole test suite
	@$(RUN) -m pytest -n 2 --dist loadscope

test-fast: $(STAMP) ## the tests that take a minute together
	@$(RUN) -m pytest -m fast -n 2 --dist loadscope

lint: $(STAMP) ## style and import boundaries
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports --no-logo 2>/dev/null || .venv/bin/lint-imports

bench: $(STAMP) ## speed and memory against named baselines
	@for file in $$(grep -l __main__ benchmarks/*.py); do echo "== $$file"; $(RUN) $$file || exit 1; done

types: $(STAMP) ## TypeScript types of kfashion's service, made and compiled with an example (needs npm)
	@$(RUN) -m kfashion.service.client_types
	@.venv/typescript/node_modules/.bin/tsc -p kfashion/service/client

OUTPUTS := $(or $(OUTPUT_DIR),outputs)
dashboard: $(STAMP) ## studies in the browser, http://127.0.0.1:8080 (STORAGE=… for another than the default)
	@.venv/bin/optuna-dashboard $(or $(STORAGE),sqlite:///$(OUTPUTS)/studies.db)

tensorboard: $(STAMP) ## runs with logger=tensorboard in the browser, http://127.0.0.1:6006
	@.venv/bin/tensorboard --logdir $(OUTPUTS)

pins: ## renew constraints.txt from pyproject.toml
	@$(UV) pip compile -q pyproject.toml --extra lasps --extra kfashion --extra sweeps --group dev --no-header --no-annotate --python-version 3.11 -o constraints.txt

clean: ## remove the environment and caches; runs in outputs/ stay
	rm -rf .venv .boot .pytest_cache .ruff_cache .import_linter_cache .hypothesis
