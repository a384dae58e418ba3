# make demo    install what the demo needs, and serve it            (make demo ARGS="--port 8000")
# make test    install what the tests need, and run every check     (make test PYTEST_ARGS="-k diff")
# make test-oldest, make test-matrix    the faults on PostgreSQL 15; everything on 15, 16, 17 and 18
# make bench, make bench-quick    our trail beside the other packages; more or less of it (make bench ARGS="--only bulk")
# make messages    bring the translations of the pages up to date with their messages
# make lint    the checks that read the code only
# make clean   remove what the above made, the demo's data included

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --editable

.PHONY: demo test test-oldest test-matrix bench bench-quick messages lint checks clean

demo: $(VENV)/.installed-demo
	@exec $(BIN)/python manage.py demo $(ARGS)

test: checks
	@sh tests/integration/pgbouncer.sh
	@chromium=$$(sh tests/browser/chromium.sh) && \
	CHROMIUM=$$chromium $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

# The catalogue of faults on the oldest supported major, and everything on every major.
test-oldest: $(VENV)/.installed-dev
	@sh tests/integration/pgbouncer.sh
	$(BIN)/python -m tests.majors 15 -- -q -n $(JOBS) --dist loadgroup tests/integration/faults $(PYTEST_ARGS)

MAJORS ?= 15 16 17 18
test-matrix: $(VENV)/.installed-dev
	@sh tests/integration/pgbouncer.sh
	@chromium=$$(sh tests/browser/chromium.sh) && \
	CHROMIUM=$$chromium $(BIN)/python -m tests.majors $(MAJORS) -- -q -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

# The whole writes docs/benchmarks.md and the chart; the quick one only prints.
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.bench --docs $(ARGS)

bench-quick: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.bench --quick $(ARGS)

TRANSLATIONS := audit_app/translations
messages: $(VENV)/.installed-dev
	$(BIN)/pybabel -q extract -F pyproject.toml -k t -k tn:1,2 -k pgettext:1c,2 --no-location -o $(TRANSLATIONS)/messages.pot .
	$(BIN)/pybabel -q update -i $(TRANSLATIONS)/messages.pot -d $(TRANSLATIONS) -D audit_app --no-fuzzy-matching --ignore-obsolete -w 100
	$(BIN)/pybabel -q compile -d $(TRANSLATIONS) -D audit_app --statistics
	@rm $(TRANSLATIONS)/messages.pot

lint: checks

checks: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

# The stamps make a second run a matter of milliseconds; installing dev installs demo, too.
$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	@echo "Installing the demo into $(VENV) (once, less than a minute) ..."
	@$(PIP) '.[demo]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing the tests' tools into $(VENV) (once) ..."
	@$(PIP) '.[dev]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	@echo "Installing the packages to compare with into $(VENV) (once) ..."
	@$(PIP) '.[bench]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 2; }

clean:
	rm -rf $(VENV) .demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
