# make demo    the whole path on real data, about 12 minutes on 2 cores after the downloads
# make test    the checks, about 12 minutes
# make help    the rest
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
ENV := .venv
RUN := $(ENV)/bin/python
STAMP := $(ENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help env demo shop loop train export wheel leaderboard bench gpu-check test test-all lint format lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

env: $(STAMP)  ## create .venv with the locked dependencies

# torch first, with what it needs on this machine; then everything else exactly as locked. --no-deps,
# because torchrec asks for the CUDA build of fbgemm by name (requirements/direct.in).
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

shop: $(STAMP) bundle/current  ## a small shop to click through; without a bundle it makes a quick one
	$(RUN) -m storefront

# Some minutes on real data. Only where there is none: it is never made again.
bundle/current: | $(STAMP)
	[ -e artifacts/runs/latest ] || $(RUN) train.py experiment=quick
	$(RUN) export.py

loop: $(STAMP)  ## thirty simulated days: serve, log, learn, gate, publish (writes reports/)
	$(RUN) -m operations.loop

train: $(STAMP)  ## train with the default config
	$(RUN) train.py

export: $(STAMP)  ## turn the latest run into a verified bundle
	$(RUN) export.py

# From a copy, because setuptools leaves build/ behind and puts what lies there into the next wheel.
wheel: $(STAMP)  ## build the serving package, `sextet`, into dist/
	rm -rf dist
	copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	cp -R serving pyproject.toml README.md LICENSE "$$copy"; \
	$(RUN) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist "$$copy"
	ls dist

leaderboard: $(STAMP)  ## compare with every baseline, LightGBM included (writes reports/)
	$(RUN) -m evaluation.leaderboard

bench: $(STAMP)  ## how fast training is, beside its bound and torch-rechub (writes reports/)
	$(RUN) -m benchmarks.training

gpu-check: $(STAMP)  ## whether training on GPUs does what training on the CPU does
	$(RUN) -m benchmarks.gpu_check

lint: $(STAMP)  ## ruff, mypy, import rules
	$(ENV)/bin/ruff check .
	$(ENV)/bin/ruff format --check .
	$(ENV)/bin/mypy
	$(ENV)/bin/lint-imports

test: lint  ## all checks but the slow ones
	$(RUN) -m pytest -m "not slow"

test-all: lint  ## all checks
	$(RUN) -m pytest

format: $(STAMP)  ## let ruff tidy the code
	$(ENV)/bin/ruff check --fix .
	$(ENV)/bin/ruff format .

lock:  ## resolve requirements/direct.in anew into requirements/lock.txt
	rm -rf $(ENV)-lock && $(PYTHON) -m venv $(ENV)-lock
	$(ENV)-lock/bin/python -m pip install --quiet -r requirements/direct.in
	$(ENV)-lock/bin/python -m pip install --quiet --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0 obp==0.4.1
	$(ENV)-lock/bin/python -m pip freeze --all | grep -viE '^(torch|pip)( @|==)' | sort -f > requirements/lock.txt
	rm -rf $(ENV)-lock

clean:  ## remove what runs made (not .venv)
	rm -rf artifacts bundle reports dist
