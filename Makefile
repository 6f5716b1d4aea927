# Needs GNU make and Python 3.11 or newer, nothing else. Everything is installed into .venv in this folder.
#   make PYTHON=python3.12 demo     picks another Python
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check -q
NAME   ?=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo lab check test test-slow campaign lint types test-sync test-unit test-notebooks test-wheel test-rest \
  coverage notebooks site dist clean

help:       ## this list
	@grep -E '^[a-z-]+: .*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## a phantom patient in, an anomaly map, a picture and scores out, in demo/
	$(VENV)/bin/mmccd demo --out demo
	@echo "The command mmccd lies in $(VENV)/bin; to type it without the path, first:  . $(VENV)/bin/activate"

lab: $(VENV)/.lab ## the course in JupyterLab, at lesson 1
	$(VENV)/bin/jupyter lab nbs/course/01_see_it.ipynb

check: lint types test-sync test-unit ## what to run before each commit: two minutes

test: check test-notebooks test-rest ## check, and everything below, in this order

lint: $(VENV)/.dev ## layout and common faults (ruff), spelling, imports that point downwards
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/codespell
	$(PY) tools/imports.py > /dev/null

types: $(VENV)/.dev ## types of the plain modules (pyrefly)
	$(VENV)/bin/pyrefly check

test-sync: $(VENV)/.dev ## modules, README and notebooks agree
	$(PY) tools/in_sync.py

QUIET  := OMP_NUM_THREADS=1 MPLBACKEND=Agg HF_HUB_OFFLINE=1 $(PY)
TWO    := pytest -q -n 2 --dist loadfile
PYTEST := $(QUIET) -m $(TWO)

test-unit: $(VENV)/.dev ## tests/unit, the style of the notebooks included; two files at a time
	$(PYTEST) -m "not slow" tests/unit

test-notebooks: $(VENV)/.dev ## every notebook but the longest runs, each in its own process
	$(PY) tools/notebooks.py test --part quick

test-wheel: $(VENV)/.dev ## the wheel installs and runs in a clean environment; test-slow does it, too
	$(PY) tools/check_wheel.py

test-rest: $(VENV)/.dev ## all other tests: whole commands, recipes, the browser
	$(PYTEST) -m "not slow" --ignore=tests/unit tests

test-slow: $(VENV)/.dev ## what is left out of `make test` because something smaller protects the same
	$(PYTEST) -m slow --ignore=tests/campaign tests
	$(PY) tools/notebooks.py test --part slow

coverage: $(VENV)/.dev ## how much of the plain modules the unit tests reach; fails below the floor in pyproject.toml
	$(QUIET) -m coverage erase
	$(QUIET) -m coverage run -m $(TWO) -m "not slow" tests/unit
	$(QUIET) -m coverage combine -q
	$(QUIET) -m coverage report

campaign: $(VENV)/.dev ## a campaign of faults: damaged files, killed runs, full disks; MMCCD_CAMPAIGN_SEED=N repeats one
	$(QUIET) -m pytest -q -m slow tests/campaign

notebooks: $(VENV)/.dev ## export, run in place, clean, README; one only: make notebooks NAME=01d_phantom
	$(PY) tools/in_sync.py --write
	$(PY) tools/notebooks.py run $(NAME)
	$(PY) tools/in_sync.py --write

site: $(VENV)/.docs ## the documentation site in build/site/html, of the outputs that are kept; links are tried
	$(QUIET) tools/make_site.py

dist: $(VENV)/.dev ## source distribution and wheel in dist/, built twice and compared
	PYTHONPATH="$(CURDIR):$(CURDIR)/tools" $(PY) tools/release.py dist

clean: ## remove what the commands made; .venv stays (rm -rf .venv removes it)
	rm -rf demo build dist *.egg-info .pytest_cache .hypothesis nbs/.ipynb_checkpoints nbs/.last_checked
	find mmccd nbs tests tools experiments benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: made again when the dependencies change. `.dev` holds all that `.lab` does, and that all that `.demo` does.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "mmccd needs Python 3.11 or newer and '$(PYTHON)' is not that;" \
	    "name one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed: install Python's venv module" \
	    "(on Debian and Ubuntu the package python3-venv) and try again."; exit 1; }
	@touch $@

$(VENV)/.demo: EXTRAS := train
$(VENV)/.lab: EXTRAS := notebooks
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.docs: EXTRAS := notebooks,docs
$(addprefix $(VENV)/,.demo .lab .dev .docs): $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing mmccd[$(EXTRAS)] into $(VENV) (the first time this takes some minutes) ..."
	@$(PIP) install -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $(addprefix $(VENV)/,$(HOLDS)) $@
$(VENV)/.lab $(VENV)/.docs: HOLDS := .demo
$(VENV)/.dev: HOLDS := .demo .lab
