# Two commands do everything: `make bench` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
TORCH := torch>=2.11,<2.14
COMPILED := tests/player/test_compile.py::test_a_compiled_run_learns_what_an_eager_one_learns

.PHONY: bench benchmarks setup suite test test-more types

setup: .venv/.installed

.venv/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

# The smallest size of the track pocket: seconds a run.
# A verdict other than "accepted" is a result, not a failure of `make`: exit codes 3 and 4 pass.
bench: setup
	$(BIN)/llmbench run baseline --track pocket-s --pairs 2
	$(BIN)/llmbench run candidate --track pocket-s --variant token_smear || case $$? in 3|4) ;; *) exit 1 ;; esac
	$(BIN)/llmbench leaderboard

# Ratios of speed: nothing else should run meanwhile.
benchmarks: setup
	$(BIN)/python benchmarks/speed.py pocket

test: setup
	$(BIN)/ruff format --check harness models tests benchmarks
	$(BIN)/ruff check harness models tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github/workflows
	@$(MAKE) --no-print-directory --jobs 2 types suite # some tests wait, so two cores have room for more than two processes

types: setup
	$(BIN)/mypy

suite: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --deselect $(COMPILED)

# What needs a browser, Ray, a tracker or half a minute of a C++ compiler. An extra that cannot be installed is no failure: its tests are skipped by name.
test-more: setup
	-for extra in browser ray trackio wandb; do $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$$extra]"; done
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/show/test_browser.py tests/show/test_trackers.py tests/lab/test_executor.py $(COMPILED)
