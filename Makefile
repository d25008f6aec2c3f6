# `make` alone lists what can be made.
PYTHON      ?= python3
VENV        ?= .venv
TORCH_INDEX ?=
JOBS        ?= 2
UPGRADE     ?=

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN      := $(VENV)/bin
READY    := $(VENV)/.ready
PIP      := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES  := $(shell find metalearn_tut -type f -not -path '*/__pycache__/*')
PAGES    := $(shell find book -type f -not -path '*/.ipynb_checkpoints/*')
EXECUTED := $(patsubst book/%,build/executed/%,$(sort $(wildcard book/*.ipynb)))
HTML     := _build/html
CLAIMS   := $(wildcard results/claims/*.json results/claims/*/*/*.json results/paper_scale/*/*/*.json tools/claims_*.py)
SPEED    := $(wildcard results/benchmarks/*.json tools/benchmarks_*.py benchmarks/tried.json)
JUDGED   := $(wildcard results/conformance/*.json tools/conformance_*.py conformance_peers/*.py conformance_peers/reports/*.py)
READING  := tests/book/test_book_browser.py tools/browser.py tools/access.py tools/check_pages.py tools/check_pages.js

# One thread per process: two notebooks at a time fill two cores. And nobody's own start-up files.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export IPYTHONDIR := $(CURDIR)/build/ipython

.PHONY: help setup glyphs test test-all book robust dist screenshots notebooks format lint bench conformance constraints clean FORCE

help:
	@echo 'make setup        create $(VENV) and install the pinned versions (every other target does it too)'
	@echo 'make test         what decides most, in five minutes: ruff, unit tests, every notebook, the book contract'
	@echo 'make test-all     the slow tests, too'
	@echo 'make book         execute every notebook, build the book, check it, print its address'
	@echo 'make robust       every chapter with five seeds, one and two threads; CHAPTERS="07 08" for some'
	@echo 'make dist         the files of a release, made and tried: wheel, source, zipped book, notebooks'
	@echo 'make screenshots  pictures of every page, wide and narrow, light and dark (needs chromium)'
	@echo 'make notebooks    executed copies of the notebooks in build/executed'
	@echo 'make format       format code and notebooks, remove outputs'
	@echo 'make lint         ruff, without changing anything'
	@echo 'make bench        the benchmarks, into results/'
	@echo 'make conformance  judge the meta-gradients of this package and of its peers, into results/'
	@echo 'make constraints  write constraints.txt anew; UPGRADE=--upgrade takes the newest versions'
	@echo 'make clean        remove what was built; the environment stays'
	@echo
	@echo 'PYTHON=python3.12   the Python to create the environment with'
	@echo 'VENV=.venv          where the environment is'
	@echo 'TORCH_INDEX=https://download.pytorch.org/whl/cpu   PyTorch without CUDA (saves gigabytes on Linux)'
	@echo 'JOBS=2              notebooks and tests at a time'
	@echo 'METALEARN_TUT_DATA=folder   (environment) where real data sets are; without it, their tests are skipped'

setup: $(READY)

# torch first and alone: from its own index it comes without its dependencies, which the second step brings.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	$(PIP) -e '.[book,test,deploy,federated]'
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/python tools/format_notebooks.py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Drawn here if they never were: their progress bar has no place in a page.
glyphs: $(READY)
	@$(BIN)/metalearn-tut data glyphs

# Notebooks first, they take longest, and in this order: by number of tests, modules of few long ones
# would come last. loadscope keeps each notebook on one kernel. The last line is pytest's.
test: lint glyphs
	@mkdir -p build
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder --nbval-lax \
	    --nbval-current-env --nbval-cell-timeout=1800 --durations=15 --durations-min=5 --junitxml=build/junit.xml book tests metalearn_tut | tee build/pytest.log
	@$(BIN)/python tools/notebook_times.py build/junit.xml
	@tail -n 1 build/pytest.log

# Runs killed at many moments, every network as a file, real data, the chapters as Colab runs them
# and with another seed.
test-all: export METALEARN_TUT_SLOW := 1
test-all: test

# Where real data is, and how much is computed, changes what a notebook shows.
build/settings: FORCE
	@mkdir -p build
	@echo '$(METALEARN_TUT_DATA) $(METALEARN_TUT_FULL)' | cmp -s - $@ \
	    || echo '$(METALEARN_TUT_DATA) $(METALEARN_TUT_FULL)' > $@

build/executed/%.ipynb: book/%.ipynb $(SOURCES) $(READY) build/settings tools/run_notebook.py
	@$(BIN)/python tools/run_notebook.py $< $@

notebooks: $(READY) glyphs
	@$(MAKE) --no-print-directory -j $(JOBS) $(EXECUTED)

# The pages are made from the executed copies, so that a notebook runs once; and always all of
# them, since a page that is not made again would keep its warnings to itself.
$(HTML)/.checked: $(EXECUTED) $(PAGES) $(CLAIMS) $(SPEED) $(JUDGED) $(SOURCES) $(READY) _config.yml tools/check_book.py tools/contract_code.py tools/own_wheel.py $(READING)
	@rm -rf build/book $(HTML) _build/.doctrees
	@cp -R book build/book && rm -f build/book/*.toml build/book/*.py
	@cp $(EXECUTED) build/book/
	@$(BIN)/python tools/own_wheel.py build/book/_extra/wheel
	@sed 's/execute_notebooks: force/execute_notebooks: "off"/' _config.yml > build/_config.yml
	$(BIN)/jupyter-book build build/book --config build/_config.yml --path-output . -n -W --keep-going -q
	$(BIN)/python tools/check_book.py $(HTML) book build/executed
	METALEARN_TUT_SLOW=1 METALEARN_TUT_HTML=$(HTML) $(BIN)/python -m pytest -rs tests/book/test_book_browser.py
	@touch $@

book: notebooks
	@$(MAKE) --no-print-directory $(HTML)/.checked
	@echo $(CURDIR)/$(HTML)/index.html

# What the chapters say, for other trainings: every assertion with five seeds, one and two threads.
robust: $(READY) glyphs
	$(BIN)/python tools/robust.py $(CHAPTERS)

dist: book
	$(BIN)/python tools/dist.py $(HTML) build/executed dist

screenshots: book
	$(BIN)/python tools/screenshots.py $(HTML) build/screenshots

bench: $(READY)
	$(PIP) -e '.[bench]'
	env -u OMP_NUM_THREADS -u MKL_NUM_THREADS $(BIN)/python benchmarks

conformance: $(READY)
	$(BIN)/python conformance_peers install
	$(BIN)/python conformance_peers

constraints: $(READY)
	$(PIP) uv
	@mkdir -p build && grep -v '^#' constraints.txt > build/constraints.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 \
	    --no-annotate --no-header --quiet $(UPGRADE) -o build/constraints.txt
	@{ grep '^#' constraints.txt; cat build/constraints.txt; } > build/new.txt
	@mv build/new.txt constraints.txt

clean:
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache
