# Every task of this repository; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTHON ?= python3
TESTS ?= tests
# Two processes suit two cores: half of the tests wait for an API server, the other half compute.
JOBS ?= 2
# What `make images` builds the worker for: cpu or cuda.
WORKER ?= cpu

.PHONY: help setup browser node builder images sbom audit prometheus demo test fuzz bench check docs format generate lock clean

help: ## List the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## Make .venv and build the local cluster's binary (a second run skips both)
	@$(PYTHON) tools/setup.py

browser: ## Install Chromium, which the tests of dashboard and notebook drive (Debian, Ubuntu; others: by hand)
	@command -v chromium >/dev/null || { \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  echo 'Installing Chromium ...'; \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; }

node: setup builder ## Install containerd and what else a real node needs in the tests, and build its programs (Debian, Ubuntu)
	@PATH=$$PATH:/usr/sbin; command -v containerd >/dev/null && command -v conntrack >/dev/null && dpkg -s busybox-static >/dev/null 2>&1 && test -x /usr/lib/cni/bridge || { \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  echo 'Installing containerd, CNI plugins and busybox ...'; \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends \
	    containerd runc containernetworking-plugins nftables iptables conntrack busybox-static >/dev/null; }
	@$(BIN)/python -m tests.node.binaries

builder: ## Install what builds and starts images (Debian, Ubuntu; others: by hand)
	@command -v buildah >/dev/null && command -v mmdebstrap >/dev/null && command -v runc >/dev/null || { \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  echo 'Installing buildah, mmdebstrap and runc ...'; \
	  $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends buildah mmdebstrap runc >/dev/null; }

images: builder ## Build the images that have changed, as archives in .cache/images (WORKER=cuda for GPUs; BASE=image)
	@$(PYTHON) tools/images.py build --target $(WORKER) $(if $(BASE),--base $(BASE))

sbom: images ## Write a bill of materials (CycloneDX) beside each archive
	@$(PYTHON) tools/audit.py sbom

audit: ## Ask the public database about the versions in the images (needs the network)
	@$(PYTHON) tools/audit.py vulnerabilities

prometheus: ## Unpack Prometheus and promtool into .cache, installing nothing (Debian, Ubuntu; others: put them on PATH)
	@command -v promtool >/dev/null || test -x .cache/prometheus/usr/bin/promtool || { \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  echo 'Fetching Prometheus ...'; \
	  mkdir -p .cache/prometheus && cd .cache/prometheus && \
	  { apt-get download -qq prometheus 2>/dev/null || { $$sudo apt-get update -qq && apt-get download -qq prometheus; }; } && \
	  dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb; }

demo: setup ## Fine-tune SmolLM2-135M with four configs on two workers, live (4 to 8 minutes)
	@$(BIN)/python examples/smollm2.py
	@$(BIN)/rapidfireai start
	@$(BIN)/python examples/sft_smollm2.py
	@echo; echo 'The cluster is still up. Look around: eval "$$($(BIN)/rapidfireai env)"    End it: $(BIN)/rapidfireai stop'

test: setup ## Run every test; those of images only if `make images` has built them (TESTS=path for some of them)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(TESTS)

fuzz: setup ## Try the property tests on examples that nobody has seen yet (TESTS=path for some of them)
	@HYPOTHESIS_PROFILE=new OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m hypothesis $(TESTS)

bench: setup ## Measure side by side against one after another (about 10 minutes, on an idle machine)
	@$(BIN)/python -m benchmarks.fit

check: setup ## Lint, types, layers, dependencies, generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@for part in sdk operator worker; do (cd $$part && ../$(BIN)/deptry src) || exit 1; done
	@$(BIN)/python tools/generate.py --check

format: setup ## Format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: setup ## Make the site of docs/ in .cache/site, strictly and offline
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo 'Read it: .cache/site/index.html'

generate: setup ## Write the CRDs, the chart's copy, the reference and the table of trainer arguments
	@$(BIN)/python tools/generate.py

lock: ## Choose versions anew where the pyproject files ask for it (UPGRADE=--upgrade chooses the newest of all)
	@$(PYTHON) tools/lock.py $(LOCKS) $(UPGRADE)

clean: ## Remove .venv and every cache in this folder (the cluster: rapidfireai stop --purge)
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
