# Every target sets up what it needs by itself (deploy/setup) and is quick about it the second time.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
BIN := .venv/bin
SUITES ?= bookworm trixie
USERS ?= root user
COMMANDS ?= demo test

.PHONY: help demo test test-clean check bench soak docs lock clean

help: ## Say what there is
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## Watch a real virtual machine live through everything, three minutes
	@deploy/setup run
	@$(BIN)/python deploy/demo.py

test: ## Run all tests
	@deploy/setup test
	$(BIN)/pytest

test-clean: ## The two commands of the README in empty roots of Debian 12 and 13, as root and as a user (needs root)
	python3 -m tests.system.clean --suites $(SUITES) --users $(USERS) --commands $(COMMANDS)

check: ## Format, lint, types, import rules, house rules, generated pages
	@deploy/setup check
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -m "not system and not qemu" tests/test_house.py tests/test_docs.py
	node tests/node/asyncapi.js docs/asyncapi.yaml

bench: ## Measure beside others and print the ratios
	@deploy/setup bench
	$(BIN)/python -m benchmarks

soak: ## Live through 1,400 domains while services are killed, and see that nothing grows
	@deploy/setup test
	$(BIN)/python -m tests.system.soak

docs: ## Make the pages that are made from the code anew
	@deploy/setup check
	$(BIN)/python docs/generate.py

lock: ## Pin requirements/*.in anew, with hashes and without hosts
	@python3 -m venv .cache/lock
	.cache/lock/bin/python -m pip install --quiet pip-tools
	cd requirements && for list in run dev; do \
	    ../.cache/lock/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
	        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file $$list.txt $$list.in; \
	done

clean: ## Remove everything that was made, the virtual environment included
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf tests/node/node_modules examples/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
