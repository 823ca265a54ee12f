# `make run` and `make test` are all that is needed; `make help` lists the rest.

SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/arriero
export CARGO_TARGET_DIR ?= $(CACHE)/target

RELEASE := $(CARGO_TARGET_DIR)/release/arriero
QUICK := $(CARGO_TARGET_DIR)/quick/arriero
DEBUG := $(CARGO_TARGET_DIR)/debug/arriero
TOOLS := $(CACHE)/tools
CARGO_DENY := $(TOOLS)/bin/cargo-deny
MDBOOK := $(TOOLS)/bin/mdbook
DIST ?= dist
BOOK ?= target/book

# The deployment of docker-compose.prod.yml, and where its admin listener is.
DOCKER ?= docker
COMPOSE ?= $(DOCKER) compose -f docker-compose.prod.yml
ADMIN ?= http://127.0.0.1:5100
SECRETS := arriero_admin grafana_password
BACKUPS ?= backups

.DEFAULT_GOAL := help
.PHONY: help run build quick diagnose verify test unit lint fmt docs book screenshot e2e check-deploy deny audit sbom release check-image \
	bench-quick bench bench-fleet tools clean
.PHONY: up-prod prod stop prod-stop restart-prod build-prod build-prod-clean status status-prod logs logs-prod health secrets \
	backup prod-clean engine

help: ## This list
	@awk -F ':.*## ' '/^##@/ { print "\n" substr($$0, 5) } \
		/^[a-z0-9-]+( [a-z0-9-]+)*:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Run and build

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

##@ Look after a deployment

diagnose: build ## What is wrong with the deployment, and how to mend it; DIAGNOSE="-c FILE --json", see docs/diagnose.md
	@"$(RELEASE)" diagnose $(DIAGNOSE)

verify: build ## Is the deployment as it was declared? VERIFY="-c FILE"
	@"$(RELEASE)" verify $(VERIFY)

health: ## Is it well? ADMIN=http://HOST:PORT
	@curl -fsS --max-time 10 "$(ADMIN)/health" && echo

##@ The deployment of docker-compose.prod.yml

# The builder of the image sees no repository. Cargo does, and is not told: each commit would build everything anew.
up-prod prod restart-prod build-prod build-prod-clean: export ARRIERO_REVISION ?= $(shell git rev-parse --short=9 HEAD 2>/dev/null || echo unknown)

up-prod: engine secrets ## Build what is new and start everything
	@$(COMPOSE) up -d --build

prod: up-prod ## The same

stop: engine ## Stop all containers, and keep them; requests that run finish first
	@$(COMPOSE) stop

prod-stop: engine ## Stop all containers and remove them; what is in volumes stays
	@$(COMPOSE) down

restart-prod: engine secrets ## Build and start Arriero anew; the servers keep their models in memory
	@$(COMPOSE) up -d --build --force-recreate --no-deps arriero

build-prod: engine ## Build the image
	@$(COMPOSE) build arriero

build-prod-clean: engine ## Build the image without anything that was built before
	@$(COMPOSE) build --pull --no-cache arriero

status: engine ## The containers, and how Arriero sees its fleet; exit status 1 when not all is well
	@$(COMPOSE) ps
	@$(COMPOSE) exec -T arriero arriero status -c /etc/arriero/arriero.yaml

status-prod: status ## The same

logs: engine ## What the containers say, as it comes; LOGS="ollama-1 ollama-2" for some of them
	@$(COMPOSE) logs --follow --tail 100 $(LOGS)

logs-prod: engine ## What Arriero says, as it comes
	@$(COMPOSE) logs --follow --tail 100 arriero

secrets: ## Make the secrets that are not there yet, in secrets/
	@umask 077 && mkdir -p secrets && for name in $(SECRETS); do \
		[ -s "secrets/$$name" ] && continue; \
		{ od -An -N32 -tx1 -v /dev/urandom | tr -d ' \n'; echo; } > "secrets/$$name" && \
		chmod 444 "secrets/$$name" && echo "made secrets/$$name" >&2 || exit 1; \
	done

# Arriero stands still while its files are copied, which takes about a second: else the history could be torn.
backup: engine ## Keep the configuration and what Arriero knows in BACKUPS=backups; docs/docker.md says how to put it back
	@umask 077 && mkdir -p "$(BACKUPS)" && work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && \
	$(COMPOSE) pause arriero && \
	{ $(COMPOSE) cp arriero:/var/lib/arriero/. - > "$$work/data.tar"; copied=$$?; $(COMPOSE) unpause arriero; [ $$copied -eq 0 ]; } && \
	tar -C "$$work" -cf "$$work/all.tar" data.tar && tar -rf "$$work/all.tar" docker-compose.prod.yml conf $(wildcard .env) && \
	file="$(BACKUPS)/arriero-$$(date +%Y%m%d-%H%M%S).tar.gz" && gzip -c "$$work/all.tar" > "$$file" && echo "$$file"

prod-clean: engine ## Remove containers, image and volumes, with all models and history; asks for CONFIRM=yes
	@[ "$(CONFIRM)" = yes ] || { echo "error: this deletes all models and the history: make prod-clean CONFIRM=yes" >&2; exit 1; }
	@$(COMPOSE) down --volumes --rmi local --remove-orphans

engine:
	@command -v $(firstword $(DOCKER)) >/dev/null || { echo "error: $(firstword $(DOCKER)) is not here" >&2; exit 1; }

##@ Develop

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
	@scripts/mdbook.sh "$(TOOLS)"
	@"$(CACHE)/e2e/py/bin/python" tests/docs/check.py --arriero "$(DEBUG)" --mdbook "$(MDBOOK)"

book: ## Make the documentation a book, in BOOK=target/book
	@scripts/mdbook.sh "$(TOOLS)"
	@scripts/book.py --mdbook "$(MDBOOK)" "$(BOOK)"
	@echo "$(BOOK)/index.html" >&2

screenshot: build ## Take the picture of the dashboard for the README anew, from the demo fleet
	@scripts/ensure.sh chromium
	@tests/e2e/setup.sh "$(CACHE)/e2e"
	@mkdir -p docs/images
	@"$(CACHE)/e2e/py/bin/python" scripts/screenshot.py "$(RELEASE)" docs/images/dashboard.png

e2e: tools ## Real clients and a real Ollama through Arriero
	@cargo build --locked
	@tests/e2e/run.sh "$(DEBUG)"

check-deploy: tools ## Check what is deployed: image, Compose, make targets, Kubernetes, systemd, Prometheus, Grafana
	@cargo build --locked
	@scripts/ensure.sh prometheus systemd
	@tests/e2e/setup.sh "$(CACHE)/e2e"
	@"$(CACHE)/e2e/py/bin/python" tests/deploy/check.py --arriero "$(DEBUG)"

deny: $(CARGO_DENY) ## Check licences, sources and bans of the dependencies
	@"$(CARGO_DENY)" --locked --log-level error check bans licenses sources

audit: $(CARGO_DENY) ## The same and known vulnerabilities (fetches the advisory database)
	@"$(CARGO_DENY)" --locked check

$(CARGO_DENY):
	@scripts/cargo-deny.sh "$(TOOLS)"

##@ Release

release: tools ## Archive, Debian package, bill of materials and checksums for this processor, in DIST=dist
	@scripts/release.sh "$(DIST)" "$(TOOLS)"

sbom: ## What Arriero is made of, as CycloneDX: DIST/arriero.cdx.json
	@scripts/sbom.sh "$(TOOLS)" "$(DIST)/arriero.cdx.json"

check-image: ## Build the Dockerfile's stages by hand and run what they make, without a container engine; as root on Debian 12, long; STAGES="--binary FILE"
	@scripts/ensure.sh debootstrap ip
	@python3 tests/deploy/stages.py $(STAGES)

##@ Measure

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
