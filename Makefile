PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HARNESS := $(BIN)/harness

# Options of `make eval`: MODEL=… asks that model live, YES=1 does not ask before spending,
# ARGS=… is passed on to the harness.
EVAL := $(if $(MODEL),--model $(MODEL)) $(if $(YES),--yes) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help eval test package validate prove bench lint clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

eval: $(VENV)/.ready  ## the main job: with and without the skill (MODEL=… asks live)
	@$(HARNESS) eval $(EVAL)

test: $(VENV)/.ready-dev  ## every test
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

package: $(VENV)/.ready  ## build and check dist/backend-engineering.zip
	@$(HARNESS) package

validate: $(VENV)/.ready
	@$(HARNESS) validate

prove: $(VENV)/.ready  ## known-good services pass, and every mutant is caught
	@$(HARNESS) prove $(ARGS)

bench: $(VENV)/.ready-dev  ## the figures that the project promises, measured
	$(BIN)/python -m bench

lint: $(VENV)/.ready-dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove what make has built
	rm -rf $(VENV) dist runs

$(VENV)/.ready: pyproject.toml
	@echo "setting up $(VENV) (once) …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python3 cannot make a virtual environment (on Debian: install python3-venv)"; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "installing the tools of the tests (once) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@
