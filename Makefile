# chainfl: `make demo` shows it, `make test` checks it. `make help` lists the rest.

CHAINFL_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/chainfl
export CHAINFL_CACHE
# matplotlib's font cache; its own choice would be a folder in the user's home.
export MPLCONFIGDIR ?= $(CHAINFL_CACHE)/matplotlib

.DEFAULT_GOAL := help
.PHONY: demo test analyse setup bench format lock clean help

demo: setup ## train a model with 9 processes on a local chain; options in ARGS="--rounds 3"
	@.venv/bin/chainfl demo $(ARGS)

test: setup ## run everything that CI runs: ruff, mypy, forge, pytest with coverage
	@sh scripts/test.sh

analyse: setup ## slither over the contracts, halmos over the vault and the payouts (a few minutes)
	@bash scripts/analyse.sh

setup: ## install into .venv and node_modules (the other commands do it for you)
	@sh scripts/setup.sh

bench: setup ## run every benchmark; the figures go to .build/bench/*.json
	@sh scripts/bench.sh

format: setup ## format Python and Solidity
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .
	@node_modules/.bin/forge fmt

lock: setup ## resolve the dependencies again after a change of pyproject.toml or package.json
	@sh scripts/lock.sh

clean: ## take away what set-up, builds and tests made, the cache folder included
	@sh scripts/clean.sh

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile
