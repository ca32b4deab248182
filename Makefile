# Every target sets up what it needs; the second run finds it made.
.DEFAULT_GOAL := help
.PHONY: help demo test sim chaos fuzz bench lint format clean

venv := .venv
stamp := $(venv)/.made
run := $(venv)/bin/
code := src tests $(wildcard bench examples)
TESTS ?= tests
# Workers at once. 0: all in this process, for a debugger.
WORKERS ?= 4
PYTEST_FLAGS ?=
MINUTES ?= 10
SCHEDULES ?= 10000
FORM ?= csv

help:  ## what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

demo: $(stamp)  ## a fleet fills up: broker, hosts, replicas and load on this machine
	$(run)commonplace demo $(DEMO_FLAGS)

test: $(stamp)  ## all tests; the summary says which broker they ran on
	$(run)python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_FLAGS) $(TESTS)

# 10,000 schedules take two minutes (Intel Xeon) to four (AMD EPYC) on two cores.
sim: $(stamp)  ## the simulated world on seeds never run before: SCHEDULES=10000, or SEEDS=1..500
	$(run)commonplace sim run $(if $(SEEDS),--seeds $(SEEDS),--schedules $(SCHEDULES)) --profile $(or $(PROFILE),mixed) $(SIM_FLAGS)

chaos: $(stamp)  ## faults on real processes: MINUTES=20 SEED=7 TRACE=vms.csv.gz FORM=azure-v1
	PYTHONPATH=tests $(run)python -m chaos_real run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) \
	  $(if $(TRACE),--trace $(TRACE) --form $(FORM)) $(CHAOS_FLAGS)

# First without guidance, which is fast and reaches deep; then with it, where atheris has a wheel for this Python.
fuzz: $(stamp)  ## MINUTES of records made wrong, against all that reads the topics
	PYTHONPATH=tests $(run)python -m fuzz --minutes $(MINUTES)
	@if $(run)python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'; then \
	  PYTHONPATH=tests $(run)python -m fuzz.guided $(MINUTES); \
	else echo "atheris cannot be installed here: no fuzzing guided by coverage"; fi

bench: $(stamp)  ## the set of benchmarks: BENCH_FLAGS="--runs 3 churn rank"
	$(run)python -m bench $(BENCH_FLAGS)

lint: $(stamp)  ## ruff and mypy --strict
	$(run)ruff check $(code)
	$(run)ruff format --check $(code)
	$(run)mypy --strict $(code)

format: $(stamp)  ## ruff's fixes and layout
	$(run)ruff check --fix $(code)
	$(run)ruff format $(code)

clean:  ## everything that was made here; the Kafka jars in ~/.cache/commonplace stay
	rm -rf $(venv) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find src tests $(wildcard bench examples) -name __pycache__ -type d -prune -exec rm -rf {} +

$(venv): $(stamp)

# A version is tried by running it: a name on PATH can be a shim with nothing behind it.
$(stamp): pyproject.toml
	@set -e; found=; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "commonplace needs Python >= 3.11 with the venv module (Debian: apt install python3-venv); none found." >&2; \
	  echo "Name one with: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	"$$found" -m venv $(venv)
	$(run)python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $(stamp)
