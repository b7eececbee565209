# To see it: make demo, make test. To have it: make deploy. All set up what they need in .venv.
PYTHON ?= python3
ENGINE ?= postgres
VENV := .venv
BIN := $(VENV)/bin
STAGE ?= default
ARCHITECTURE ?= $(if $(filter arm64 aarch64,$(shell uname -m)),arm64,x86_64)
SAM = $(or $(shell command -v sam),$(VENV)/sam/bin/sam)
HAS_SAM = $(filter $(VENV)/%,$(SAM:bin/sam=ready))
CA_BUNDLE := reaper/certs/global-bundle.pem

.PHONY: demo pictures test ledger bench check mariadb pgbouncer build deploy invoke-dry-run invoke-kill invoke-advise ca-bundle clean
.PHONY: soak figures pins licences sbom audit package mutants coverage

demo: $(VENV)/ready $(if $(filter mysql,$(ENGINE)),mariadb)
	$(BIN)/python -m examples.demo $(ENGINE)

# Those of the README, drawn anew; for a quiet machine, since the seconds are real.
pictures: $(VENV)/ready
	$(BIN)/python -m examples.demo --into docs --dashboard

test: check mariadb pgbouncer $(VENV)/sam/ready
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile
	$(BIN)/python -m pytest tests/hardening

# What `make test` does for two minutes on three engines, for ten minutes on each; REAPER_TEST_LEDGER_SEED repeats a run.
ledger: $(VENV)/ready mariadb
	REAPER_TEST_LEDGER_SECONDS=600 $(BIN)/python -m pytest tests/hardening/test_ledger.py

# A quarter of an hour; the survivors must be those of tests/mutation/SURVIVORS.md.
mutants: $(VENV)/ready
	$(BIN)/python -m tests.mutation

# What of `reaper` runs in the tests' own process; tests/COVERAGE.md explains what does not.
coverage: $(VENV)/ready mariadb
	$(BIN)/python -m coverage run -m pytest tests/unit tests/live tests/hardening_inputs
	$(BIN)/python -m coverage report

# What `make test` does two hundred times, two thousand times on each engine.
soak: $(VENV)/ready mariadb $(VENV)/sam/ready
	REAPER_TEST_SOAK=2000 $(BIN)/python -m pytest tests/deploy/test_soak.py

# An hour; writes benchmarks/RESULTS.md. pt-kill is measured where it is on the path.
bench: $(VENV)/bench/ready mariadb $(VENV)/sam/ready
	PYTHONPATH=$(CURDIR)/$(VENV)/bench/python REAPER_BENCH_NODE=$(CURDIR)/$(VENV)/bench/node $(BIN)/python -m benchmarks

# What the client is compared with and nothing else needs, at the versions that were measured.
$(VENV)/bench/ready: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade --no-deps --target $(VENV)/bench/python psycopg_pool==3.3.3
	@mkdir -p $(VENV)/bench/node
	@command -v npm >/dev/null || { echo "npm is missing: the clients under Node are left out"; exit 0; }; \
	  npm install --silent --no-audit --no-fund --prefix $(VENV)/bench/node \
	    serverless-mysql@2.1.0 serverless-postgres@2.1.2 mysql2@3.24.6 pg@8.23.1
	touch $@

# The package holds the binaries only: nothing is started.
mariadb:
	@command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends mariadb-server-core >/dev/null; } \
	  || echo "MariaDB is missing and is left out; to have it: sudo apt-get install mariadb-server-core"

# Unpacked and not installed, since Debian's package would start a service.
pgbouncer: $(VENV)/ready
	@command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || [ -x $(VENV)/pgbouncer/usr/sbin/pgbouncer ] \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && cd $(VENV) && apt-get -qq -o APT::Sandbox::User=root download pgbouncer \
	    && apt-get satisfy -y -qq "$$(dpkg-deb -f pgbouncer_*.deb Depends)" >/dev/null 2>&1 \
	    && dpkg-deb -x pgbouncer_*.deb pgbouncer && rm pgbouncer_*.deb; } \
	  || echo "PgBouncer is missing and is left out; to have it: sudo apt-get install pgbouncer"

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

# How big, branched, typed and commented reaper/ is, beside the limits that a test holds.
figures: $(VENV)/ready
	$(BIN)/python -m release figures

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

$(VENV)/release/ready: requirements-release.txt
	$(PYTHON) -m venv $(VENV)/release
	$(VENV)/release/bin/pip install --quiet --disable-pip-version-check -r requirements-release.txt
	touch $@

# After a change of requirements-dev.txt: the hashes of what is shipped, and then its licences.
pins: $(VENV)/release/ready
	$(VENV)/release/bin/python -m release pins

licences: $(VENV)/ready
	$(BIN)/python -m release licences

sbom: $(VENV)/ready
	$(BIN)/python -m release sbom

# Known weaknesses of what is shipped, as the public lists have them today: it needs the network.
audit: $(VENV)/release/ready
	$(VENV)/release/bin/pip-audit --require-hashes --disable-pip --requirement reaper/requirements.txt

# What a release publishes, in dist; the same commit, the same bytes. The certificates of RDS are not in it.
package: $(VENV)/ready $(HAS_SAM)
	$(WITH_PYTHON) $(SAM) build --no-cached --build-dir build/sam --parameter-overrides Architecture=$(ARCHITECTURE)
	$(WITH_PYTHON) $(BIN)/python -m release compiled build/sam
	$(BIN)/python -m release archives build/sam $(ARCHITECTURE)

# SAM looks for the Python of the template's Runtime by its name; pyenv may have one that is not on the path.
WITH_PYTHON = PATH="$$(pyenv prefix 3.13 2>/dev/null)/bin:$$PATH"
build: ca-bundle $(HAS_SAM)
	$(WITH_PYTHON) $(SAM) build --config-env $(STAGE)
	$(WITH_PYTHON) $(PYTHON) -m release compiled .aws-sam/build

deploy: build
	$(SAM) deploy --config-env $(STAGE)

invoke-dry-run: $(HAS_SAM)
	$(SAM) remote invoke ReaperFunction --config-env $(STAGE) --event-file events/manual-dry-run.json

invoke-kill: $(HAS_SAM)
	$(SAM) remote invoke ReaperFunction --config-env $(STAGE) --event-file events/manual-kill.json

invoke-advise: $(HAS_SAM)
	$(SAM) remote invoke ReaperFunction --config-env $(STAGE) --event-file events/advise.json

# No public list of authorities holds those that sign RDS's certificates. To fetch them anew: make -B ca-bundle
ca-bundle: $(CA_BUNDLE)
$(CA_BUNDLE):
	curl --fail --silent --show-error --create-dirs --output $@ https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem

clean:
	rm -rf $(VENV) .aws-sam build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
