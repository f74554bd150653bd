# Two commands do everything on a fresh machine with Python 3.11 or newer:  make sweep  and  make test
PYTHON ?= python3
PORT ?= 5000
STUDY ?= mnist5k
BIN := .venv/bin
# What is installed is compiled on all cores after it, which pip does on one.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 .venv/lib || true

.PHONY: sweep report ui test torture bench clean

sweep: .venv/installed  ## run the default study, or on from where it was, and write its report
	$(BIN)/python -m harness.sweep $(STUDY)

report: .venv/installed  ## tables and figures again, from what is on disk
	$(BIN)/python -m harness.report $(STUDY)

ui: .venv/installed  ## the MLflow UI on what the sweep wrote, on this machine only
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/results/mlflow.db --host 127.0.0.1 --port $(PORT)

bench: .venv/installed  ## trials an hour against a plain hand-written loop, in one run
	$(BIN)/python -m harness.bench $(STUDY)

# One thread each: two test processes with two threads each would wait for one another.
test: export OMP_NUM_THREADS = 1
test: .venv/tested  ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/python -m compileall -q harness studies tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

torture: .venv/tested  ## 50 drivers and 200 workers killed with -9, on SQLite and on PostgreSQL; the long tests
	$(BIN)/python -m tests.torture
	$(BIN)/python -m tests.torture --postgres
	HARNESS_LONG=1 $(BIN)/python -m pytest tests/test_local.py tests/test_teachers_are_better.py

.venv/bin/python:
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed; try make PYTHON=python3.12') if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e .
	$(COMPILE)
	touch $@

.venv/tested: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[test]'
	$(COMPILE)
	touch $@ .venv/installed

clean:  ## remove the environment; results stay
	rm -rf .venv build *.egg-info
