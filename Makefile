# `make dream` and `make test` set up `.venv` themselves, from the hashed requirements, with any
# Python 3.11-3.13. ARGS is passed on: make dream ARGS="seed=1"   make test ARGS="-k traces --slow"
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help dream report test lint bench clean lock

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo 'ARGS="..." is passed on, for example: make dream ARGS="seed=1"'

dream:  ## the main job: traces, world model, dream, rehearsal, verdict
	@$(call setup,core)
	@$(BIN)/python -m experiments.dream $(ARGS)

report:  ## all runs below runs/ side by side (ARGS="runs=runs/dream")
	@$(call setup,core)
	@$(BIN)/python -m experiments.report $(ARGS)

test:  ## the tests (ARGS="--slow" adds those that take more than a minute)
	@$(call setup,dev)
	@$(BIN)/python -m pytest -n 2 $(ARGS)

lint:  ## ruff and pyright
	@$(call setup,dev)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --warnings --pythonpath $(BIN)/python

bench:  ## how fast the parts are on this machine
	@$(call setup,core)
	@$(BIN)/python -m experiments.benchmark $(ARGS)

clean:  ## remove .venv and caches (runs/ stays)
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock:  ## for maintainers: resolve the requirements anew (needs uv)
	$(call compile,core)
	$(call compile,dev) --extra dev -c requirements/core.txt

compile = uv pip compile setup.cfg -q -U --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate -o requirements/$(1).txt

# The first of these that runs, is in range and can make environments. Version managers leave
# commands behind that fail, so each candidate is really started.
find_python = for p in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
		$$p -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
			>/dev/null 2>&1 && echo $$p && break; \
	done

# Install requirements/$(1).txt and this checkout, unless exactly that was installed before.
setup = set -e; \
	cat requirements/$(1).txt setup.cfg | cmp -s - .venv/$(1).installed \
		&& $(BIN)/python -c '' 2>/dev/null && exit 0; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		python=$$($(find_python)) || true; \
		if [ -z "$$python" ]; then \
			echo 'error: no Python 3.11-3.13 with the venv module was found; install one, or name it: make $@ PYTHON=/path/to/python3' >&2; \
			exit 1; \
		fi; \
		echo "setting up .venv with $$($$python --version)"; \
		$$python -m venv --clear .venv; \
	fi; \
	echo 'installing requirements/$(1).txt'; \
	rm -f .venv/$(1).installed; \
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/$(1).txt; \
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .; \
	cat requirements/$(1).txt setup.cfg > .venv/$(1).installed
