# Everything a newcomer runs. `make` alone lists the targets; those that need the environment make it first.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check e2e bench study clean
BIN := .venv/bin
export HF_HUB_DISABLE_TELEMETRY := 1

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## make .venv with everything in it (the other targets do so when needed)

demo: .venv/.ready ## logs -> corpus -> models -> report -> recommendations, in minutes on two cores
	$(BIN)/cprec demo

test: .venv/.ready ## the whole test suite
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest -n 2 --dist worksteal

check: .venv/.ready ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

e2e: .venv/.ready ## the demo from an installed wheel, outside the checkout; 200 faults over all kinds of push; 80 kills
	rm -rf build/e2e && mkdir -p build/e2e/run
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w build/e2e .
	$(BIN)/python -m pip install -q --no-deps --target build/e2e/site build/e2e/*.whl
	cd build/e2e/run && PYTHONPATH=../site ../../../$(BIN)/python -m cprec_hf.cli demo
	CPREC_FAULTS=200 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/hub/publishing/test_push_faults.py
	CPREC_KILLS=20 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest -n 2 tests/training/test_kills.py tests/corpus/test_kills.py

bench: .venv/.ready ## every benchmark at toy size
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file --toy; done

study: .venv/.ready ## the whole study of the simulated marketplace, for a night: three hours on two cores; resumes
	$(BIN)/cprec study --config recipes/study-tiny.yaml

clean: ## remove .venv and what tools leave behind (outputs/ stays)
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and pinned: with an open range, an installer may fetch gigabytes of another build.
.venv/.ready: pyproject.toml constraints.txt
	@for python in python3.13 python3.12 python3.11 python3 none; do \
		if [ $$python = none ]; then \
			echo "cprec_hf needs Python 3.11 or newer, and none is on PATH; install python3.11 or later, then run make again" >&2; \
			exit 1; \
		fi; \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && break; \
	done; \
	[ -x $(BIN)/python ] || $$python -m venv .venv || { \
		rm -rf .venv; echo "$$python cannot make virtual environments; install its venv package (python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@
