# Every target sets up what it needs and says so. Variables: HOSTS (sandbox hosts), SCENARIO (one molecule scenario).
HOSTS ?= 1
SCENARIO ?=
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export MOLECULE_GLOB := molecule/*/molecule.yml

.PHONY: help setup demo sandbox sandbox-down lint unit integration molecule test clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

setup: ## .venv with the pinned tools; the collection resolves from this checkout
	@scripts/setup

demo: setup ## the main job, from nothing: a failing v1.2.0 goes back to v1.1.0 on a real stack
	@scripts/demo

sandbox: setup ## a small real ConnectIn on HOSTS container hosts
	@sandbox/sandbox up --hosts $(HOSTS)

sandbox-down: ## stop the sandbox; its images stay for the next time
	@sandbox/sandbox down

lint: setup ## ruff, yamllint and ansible-lint (production profile)
	@echo "lint: ruff"; ruff check --quiet . && ruff format --check --quiet .
	@echo "lint: yamllint"; yamllint --strict .
	@echo "lint: ansible-lint"; cd collections/ansible_collections/connectin/rollback && ansible-lint --offline -q

unit: setup ## the decisions and modules by themselves
	pytest tests/unit -q -n 2

integration: setup ## real PostgreSQL, then whole rollbacks and every refusal on a sandbox of two hosts
	@scripts/needs-database
	@scripts/while-sandbox-starts 2 pytest tests/integration/prisma -q -n 3 --ignore tests/integration/prisma/test_speed.py
	pytest tests/integration/prisma/test_speed.py -q -s
	pytest tests/integration/stack -q --durations=15

molecule: setup ## molecule scenarios, verified with testinfra (SCENARIO=name for one)
	@sandbox/sandbox up --hosts $(if $(filter default,$(SCENARIO)),1,3)
	@for scenario in $(or $(SCENARIO),fleet default); do \
	  molecule reset --scenario-name $$scenario >/dev/null; \
	  molecule test --no-command-borders --scenario-name $$scenario; \
	done

test: setup ## everything but the tests marked long, which `make integration molecule` runs too
	@scripts/while-sandbox-starts 2 $(MAKE) --no-print-directory lint unit
	@PYTEST_ADDOPTS="-m 'not long'" $(MAKE) --no-print-directory integration molecule

clean: ## remove all that this checkout made: sandbox, images, volumes, .venv
	@sandbox/sandbox clean
	rm -rf .venv .venv.new .ansible .cache .pytest_cache .ruff_cache tests/output
