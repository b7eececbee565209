# Two commands matter: make demo, make test. Both set up what they need in .venv.
PYTHON ?= python3
ENGINE ?= postgres
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check mariadb clean

demo: $(VENV)/ready $(if $(filter mysql,$(ENGINE)),mariadb)
	$(BIN)/python -m examples.demo $(ENGINE)

test: check mariadb $(VENV)/sam/ready
	$(BIN)/python -m pytest

# The package holds the binaries only: nothing is started.
mariadb:
	@command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends mariadb-server-core >/dev/null; } \
	  || echo "MariaDB is missing and is left out; to have it: sudo apt-get install mariadb-server-core"

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

# The stamp is newer than what it was made from, or the environment is made again.
$(VENV)/ready: pyproject.toml requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.13")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements-dev.txt -e '.[dev]'
	touch $@

# The SAM CLI brings eighty packages with pins of its own.
$(VENV)/sam/ready: requirements-sam.txt
	$(PYTHON) -m venv $(VENV)/sam
	$(VENV)/sam/bin/pip install --quiet --disable-pip-version-check -r requirements-sam.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
