# Everything installs itself: `make demo` and `make test` work on a machine with Python 3.11,
# gcc, git and make. Versions stand in constraints.txt and nowhere else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SLURM_PACKAGES := slurm-wlm slurmdbd munge mariadb-server
# More than two cores' worth: most tests wait for something. Each process has a cluster of its own.
TEST_PROCESSES ?= 3
TEST_PACKAGES  := $(SLURM_PACKAGES) environment-modules chromium

.PHONY: demo demo-slurm test check lint format docs slurm bench soak matrix soak-healing clean

# A training that explodes and is healed: through Slurm where one answers, else on this machine.
demo: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/demo.sh "$(or $(FOLDER),demo)"

# The same on a Slurm of its own, where the next job of the chain goes on; as root on Debian.
demo-slurm: $(READY) slurm
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/demo_slurm.sh "$(or $(FOLDER),demo-slurm)"

test: $(READY) slurm
	@# Without groups this hands out test by test to whichever process is free.
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder

check: lint test

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	$(BIN)/python docs/make_commands.py
	$(BIN)/python docs/make_healing.py
	$(BIN)/hpckit check --schema > hpckit/spec.schema.json

bench: $(READY) slurm
	@for file in benchmarks/*.py; do name=$$(basename $$file .py); case $$name in kills|soak_healing) continue;; esac; \
	  echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done
	@$(BIN)/python -m benchmarks.detection.generate
	@for part in "judge --families tune" "judge --families test" story live; do \
	  echo "== detection: $$part"; $(BIN)/python -m benchmarks.detection.$$part || exit 1; done

$(READY): setup.py constraints.txt
	@echo "installing into $(VENV): two or three minutes" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audio,test,dev]'
	@touch $@

# What takes long: trainings killed 200 times, and the rescue of 60 that diverge, beside six rivals.
soak: $(READY)
	$(BIN)/python -m benchmarks.kills --kills 200
	$(BIN)/python -m benchmarks.rescue.judge
	$(BIN)/python -m benchmarks.rescue.judge --healthy

# Every fault, on every shape of a training, with a chain and with a guard: some twenty minutes.
matrix: $(READY) slurm
	HPCKIT_MATRIX=1 $(BIN)/python -m pytest -v tests/cluster/test_matrix.py tests/cluster/test_guard.py

# A hundred faults over one long training: about an hour. SEED and FAULTS may be given.
soak-healing: $(READY) slurm
	$(BIN)/python -m benchmarks.soak_healing --faults $(or $(FAULTS),100) --seed $(or $(SEED),0)

# A real Slurm and a browser for the tests, where they can be installed; elsewhere they say that
# they were skipped.
slurm:
	@if command -v slurmctld >/dev/null && command -v slurmdbd >/dev/null \
	   && command -v mariadbd >/dev/null && command -v chromium >/dev/null \
	   && [ -e /usr/share/modules/init/bash ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -qq -y --no-install-recommends $(TEST_PACKAGES) >/dev/null; \
	else \
	  echo "no Slurm or Chromium here, and not root: the tests that need one will be skipped" >&2; \
	fi

clean:
	rm -rf $(VENV) build dist demo demo-slurm *.egg-info .pytest_cache .mypy_cache .ruff_cache
