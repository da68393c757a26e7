# Everything runs in .venv, which `make install` makes; see scripts/install.
.DEFAULT_GOAL := help
.PHONY: help install demo test check bench fuzz chaos lock vm clean

python := .venv/bin/python

help: ## Say what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

install: ## Install what is missing: Debian packages and .venv
	@scripts/install

demo: install ## Watch a machine being enrolled, attested, tampered with and revoked; args=--keep keeps its files
	@$(python) -m attestream.cli demo $(args)

test: ## Install and run the tests, two at a time; args="-k name" passes arguments to pytest instead
	@scripts/install --test
	@$(python) -m pytest $(or $(args),-n 2 --dist loadfile --no-loadscope-reorder)

check: install ## Lint, formatting, types, import rules, generated documents, secrets and packages
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy
	@.venv/bin/lint-imports
	@$(python) -m devtools.docs --check
	@$(python) -m devtools.audit

bench: install ## Measure; only=NAME measures one part
	@$(python) -m bench $(if $(only),--only $(only))

fuzz: ## Fuzz every parser for seconds=60 each; only=NAME for one
	@scripts/install --test
	@$(python) -m fuzz --seconds $(or $(seconds),60) $(if $(only),--only $(only))

chaos: ## Break one part after another under load, and count; seed=1 minutes=5 database=mariadb
	@scripts/install --test
	@$(python) -m devtools.chaos --minutes $(or $(minutes),5) $(if $(seed),--seed $(seed)) $(if $(database),--database $(database)) $(args)

lock: ## Resolve the dependencies anew (needs uv)
	@scripts/lock

vm: ## Prove it on an emulated Linux machine with UEFI, Secure Boot, IMA and a TPM (QEMU; some minutes)
	@scripts/install --vm
	@$(python) -m devtools.vm $(args)

clean: ## Remove .venv and everything that was built
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
