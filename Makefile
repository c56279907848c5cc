# Everything runs in .venv, made on first use; on a machine without a GPU, set nothing. The tests' networks are too small
# for more than one thread each, so they run side by side.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test test-fast test-cuda coverage lint types docs bench

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(RUN) cli.py demo

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile

test-fast: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile -m "not slow"

test-cuda: $(VENV)/installed
	$(RUN) -m pytest -m cuda

coverage: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile --cov=accupoison --cov-fail-under=95 --cov-report=term:skip-covered

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/installed
	$(RUN) -m mypy

docs: $(VENV)/installed
	$(RUN) -c "from accupoison.records.tags import tags_markdown; print(tags_markdown(), end='')" > docs/metrics.md
	$(RUN) -c "from accupoison.cli.docs import cli_markdown; print(cli_markdown(), end='')" > docs/cli.md
	$(RUN) -c "from accupoison.study.grid_reference import grids_markdown; print(grids_markdown(), end='')" > docs/grids.md
	$(RUN) -c "from accupoison.cli.settings_docs import settings_markdown; print(settings_markdown(), end='')" > docs/settings.md

bench: $(VENV)/installed
	$(RUN) -m benchmarks
	$(RUN) -m benchmarks --profile
	$(RUN) -m benchmarks.alternatives
	$(RUN) -m benchmarks.long_stream
