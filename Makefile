# make demo    the whole path on real data
# make test    the checks, about 15 minutes
# make help    the rest
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
ENV := .venv
RUN := $(ENV)/bin/python
STAMP := $(ENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help env demo shop loop train export wheel leaderboard bench gpu-check docs docs-serve pictures test test-all lint format lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

env: $(STAMP)  ## create .venv with the locked dependencies

# torch first, as this machine needs it; then everything else exactly as locked. --no-deps,
# because torchrec requires the CUDA build of fbgemm by name (requirements/direct.in).
$(STAMP): requirements/lock.txt requirements/torch.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] == (3, 11) else f"Sextet is locked for Python 3.11, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(ENV)
	$(RUN) -m pip install --quiet --progress-bar on -c requirements/lock.txt -r requirements/torch.txt
	$(RUN) -m pip install --quiet --progress-bar on --no-deps -r requirements/lock.txt
	touch $@

demo: $(STAMP)  ## prepare, train, evaluate, export, and show slates for three real checkouts
	$(RUN) train.py
	$(RUN) export.py
	$(RUN) demo.py

shop: $(STAMP) bundle/current  ## open a small shop on the bundle; without a bundle it makes a quick one
	$(RUN) -m storefront

# Takes some minutes on real data, and only if there is no bundle yet.
bundle/current: | $(STAMP)
	[ -e artifacts/runs/latest ] || $(RUN) train.py experiment=quick
	$(RUN) export.py

loop: $(STAMP)  ## thirty simulated days: serve, log, retrain, gate, publish (writes reports/)
	$(RUN) -m operations.loop

train: $(STAMP)  ## train with the default config
	$(RUN) train.py

export: $(STAMP)  ## export the latest run as a verified bundle
	$(RUN) export.py

# From a copy, because setuptools leaves build/ behind and packs its content into the next wheel.
wheel: $(STAMP)  ## build the wheel `sextet` from serving/ into dist/
	rm -rf dist
	copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	cp -R serving pyproject.toml README.md LICENSE "$$copy"; \
	$(RUN) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist "$$copy"
	ls dist

leaderboard: $(STAMP)  ## compare with every baseline and LightGBM (writes reports/)
	$(RUN) -m evaluation.leaderboard

bench: $(STAMP)  ## training speed against its bound and torch-rechub (writes reports/)
	$(RUN) -m benchmarks.training

gpu-check: $(STAMP)  ## compare training on GPUs with training on the CPU
	$(RUN) -m benchmarks.gpu_check

docs: $(STAMP)  ## build the documentation site into artifacts/site
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	echo artifacts/site/index.html

docs-serve: $(STAMP)  ## show the documentation site at http://127.0.0.1:8008
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs serve --dev-addr 127.0.0.1:8008

pictures: $(STAMP)  ## draw the diagrams of the documentation (docs/pictures/*.svg)
	$(RUN) -m documentation.pictures

lint: $(STAMP)  ## ruff, mypy, lint-imports
	$(ENV)/bin/ruff check .
	$(ENV)/bin/ruff format --check .
	$(ENV)/bin/mypy
	$(ENV)/bin/lint-imports

test: lint  ## all checks except the slow tests
	$(RUN) -m pytest -m "not slow" -n 2 --dist loadfile

# One process: slow tests measure, and some use both cores.
test-all: lint  ## all checks
	$(RUN) -m pytest

format: $(STAMP)  ## format the code with ruff
	$(ENV)/bin/ruff check --fix .
	$(ENV)/bin/ruff format .

lock:  ## resolve requirements/direct.in into requirements/lock.txt
	rm -rf $(ENV)-lock && $(PYTHON) -m venv $(ENV)-lock
	$(ENV)-lock/bin/python -m pip install --quiet -r requirements/direct.in
	$(ENV)-lock/bin/python -m pip install --quiet --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0 obp==0.4.1
	$(ENV)-lock/bin/python -m pip freeze --all | grep -viE '^(torch|pip)( @|==)' | sort -f > requirements/lock.txt
	rm -rf $(ENV)-lock

clean:  ## remove artifacts, bundle, reports and dist (not .venv)
	rm -rf artifacts bundle reports dist mlruns outputs multirun
