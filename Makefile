# `make run` and `make test` are all that is needed; `make help` lists the rest.

SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/arriero
export CARGO_TARGET_DIR ?= $(CACHE)/target

RELEASE := $(CARGO_TARGET_DIR)/release/arriero
QUICK := $(CARGO_TARGET_DIR)/quick/arriero
DEBUG := $(CARGO_TARGET_DIR)/debug/arriero
CARGO_DENY := $(CACHE)/tools/bin/cargo-deny

.DEFAULT_GOAL := help
.PHONY: help run build quick diagnose verify test unit lint fmt docs e2e deny audit bench-quick bench bench-fleet tools clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# arriero.yaml in this folder, else the servers of OLLAMA_HOSTS or OLLAMA_HOST, else a simulated fleet.
run: build ## Build and run: before OLLAMA_HOST / OLLAMA_HOSTS if set, else the demo fleet
	@if [ -e arriero.yaml ] || [ -n "$${OLLAMA_HOSTS:-}$${OLLAMA_HOST:-}" ]; then \
		exec "$(RELEASE)" run; \
	else \
		exec "$(RELEASE)" demo; \
	fi

build: tools ## Build the release binary (minutes the first time)
	@cargo build --release --locked
	@echo "$(RELEASE)" >&2

quick: tools ## Build an almost-release binary in less time
	@cargo build --profile quick --locked
	@echo "$(QUICK)" >&2

diagnose: build ## What is wrong with the deployment, and how to mend it; DIAGNOSE="-c FILE --json", see docs/diagnose.md
	@"$(RELEASE)" diagnose $(DIAGNOSE)

verify: build ## Is the deployment as it was declared? VERIFY="-c FILE"
	@"$(RELEASE)" verify $(VERIFY)

test: ## Everything that CI checks
	@tests/run.sh

unit: tools ## The tests of the crate alone
	@cargo nextest run --locked

lint: tools ## Formatting and clippy
	@cargo fmt --all --check
	@cargo clippy --all-targets --locked -- -D warnings

fmt: ## Format the sources
	@cargo fmt --all

docs: tools ## Check the documentation and the examples
	@cargo build --locked
	@tests/e2e/setup.sh "$(CACHE)/e2e"
	@"$(CACHE)/e2e/py/bin/python" tests/docs/check.py --arriero "$(DEBUG)"

e2e: tools ## Real clients and a real Ollama through Arriero
	@cargo build --locked
	@tests/e2e/run.sh "$(DEBUG)"

deny: $(CARGO_DENY) ## Check licences, sources and bans of the dependencies
	@"$(CARGO_DENY)" --locked --log-level error check bans licenses sources

audit: $(CARGO_DENY) ## The same and known vulnerabilities (fetches the advisory database)
	@"$(CARGO_DENY)" --locked check

$(CARGO_DENY):
	@scripts/cargo-deny.sh "$(CACHE)/tools"

bench-quick: quick ## Benches of the pure parts, a short run
	@if [ -d benches ]; then cargo bench --locked -- --quick; else echo "no benches yet" >&2; fi

bench: ## Benches of the pure parts
	@if [ -d benches ]; then cargo bench --locked; else echo "no benches yet" >&2; fi

bench-fleet: tools ## Replay a trace against a simulated fleet; FLEET="--seed 1,2 --util 0.95", see bench/fleet
	@cargo bench --profile quick --locked --bench fleet -- $(FLEET)

tools:
	@scripts/ensure.sh rust cc cmake

clean: ## Remove what was built
	@cargo clean
