# All entry points. Each target installs what it needs and is safe to run again.
SHELL := /bin/bash
export UV_COMPILE_BYTECODE := 1
export UV_LINK_MODE := copy
# A network that inspects TLS traffic has its certificate in the system's store.
export UV_SYSTEM_CERTS := 1
bin := .venv/bin
# Without the linker flags, a Helm 3 built by `go install` assumes Kubernetes 1.20.
helm3 := helm.sh/helm/v3
resolve = $(bin)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
compile = $(resolve) pyproject.toml
# Dependencies of MLflow's clients that its server does not import.
not-in-mlflow-server := contourpy cycler docker fonttools huey joblib kiwisolver matplotlib narwhals pillow prettytable pyarrow pyparsing scikit-learn scipy skops threadpoolctl wcwidth

# Python keeps what it has compiled. Without that, each process of the tests compiles 300 modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install pgbouncer demo up down test machine-test chart-test style mutants lint-workflows lint-chart sbom release-check release-images release release-tools check bench soak proof lock render docs images cluster-tools kind-up cluster-test-up cluster-test kind-down clean help
help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.venv/.installed: requirements.lock requirements-installer.lock pyproject.toml
	@echo "installing the locked dependencies into .venv (once; about a minute)"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 64; }
	@test -x $(bin)/python || python3 -m venv .venv
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-installer.lock
	@$(bin)/uv pip sync --quiet --python $(bin)/python --require-hashes requirements.lock
	@$(bin)/uv pip install --quiet --python $(bin)/python --no-deps --no-build-isolation --editable .
	@$(bin)/python -m compileall -q fraudops services jobs
	@touch $@

install: .venv/.installed ## install the locked dependencies into .venv

demo: install ## start everything on this machine and take a model from data to drift (ARGS=--exit stops it at the end)
	@$(bin)/fraudops demo $(ARGS)

up: install ## start everything on this machine, in the foreground
	@$(bin)/fraudops up $(ARGS)

down: install ## stop what `make up` started
	@$(bin)/fraudops down

# Tests through PgBouncer are skipped where it is not installed, so CI runs this target first.
pgbouncer: as-root := $(if $(filter-out 0,$(shell id -u)),sudo env,env)
pgbouncer: ## install PgBouncer from Debian's or Ubuntu's packages, for the tests (as root, or by sudo)
	@PATH=$$PATH:/usr/sbin command -v pgbouncer >/dev/null || { $(as-root) apt-get update -qq && $(as-root) DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes pgbouncer >/dev/null; }

# The small models of the tests gain nothing from OpenMP's threads. With several test processes the
# threads wait for each other in busy loops: the pipelines' tests took 30 s of processor time, now 12.
test machine-test: export OMP_NUM_THREADS := 1
test: install ## run the tests of the code, with real PostgreSQL, MLflow and gunicorn processes
	@$(bin)/pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

machine-test: install ## run the tests of the whole product: promotions under load, demo, supervisor, commands of README and docs/
	@$(bin)/pytest -n 3 --dist loadfile --no-loadscope-reorder tests/machine $(ARGS)

# Each test runs Helm, whose short processes gain nothing from collecting their garbage.
chart-test cluster-test: export GOGC := off
chart-test: install ## run the tests of the rendered chart, with Helm 3 and Helm 4
	@$(bin)/pytest -n 2 --dist loadfile tests/chart $(ARGS)

# checkov pins old versions of other packages, so it has an environment of its own.
.lint/.installed: requirements-lint.lock | install
	@$(bin)/uv venv --quiet --clear .lint
	@$(bin)/uv pip sync --quiet --python .lint/bin/python --require-hashes requirements-lint.lock
	@touch $@

lint-chart: install .lint/.installed ## check the rendered chart with checkov, and with kube-score if Go is installed (GO_LINTERS=no: without it)
	@if command -v go >/dev/null && test "$(GO_LINTERS)" != no; then \
		GOBIN=$(CURDIR)/$(bin) go install github.com/zegl/kube-score/cmd/kube-score@v1.20.0 || exit; \
		export KUBE_SCORE=$(bin)/kube-score; \
	else echo "kube-score does not run: Go is not on PATH, or GO_LINTERS=no"; fi; \
	CHECKOV=.lint/bin/checkov $(bin)/python k8s/lint.py

sbom: install ## write a list of the Python packages of each image into dist/, as CycloneDX
	@$(bin)/python k8s/sbom.py

style: install ## print figures of the source's style, and fail when a limit is broken
	@$(bin)/python -m tests.repo.style

mutants: export OMP_NUM_THREADS := 1
mutants: install ## change the promotion's decisions one by one, and fail when the tests miss a change (ARGS=--sample=20: a few)
	@$(bin)/python -m tests.mutants $(ARGS)

lint-workflows: install ## check the GitHub workflows with zizmor, and with actionlint if Go is installed (GO_LINTERS=no: without it)
	@$(bin)/zizmor --offline --quiet --no-progress .github
	@if command -v go >/dev/null && test "$(GO_LINTERS)" != no; then \
		GOBIN=$(CURDIR)/$(bin) go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 && $(bin)/actionlint; \
	else echo "actionlint does not run: Go is not on PATH, or GO_LINTERS=no"; fi

check: install ## check format, lint, types, import contracts and style, and run the tests
	@$(bin)/ruff format --check . && $(bin)/ruff check . && $(bin)/mypy && $(bin)/lint-imports
	@$(MAKE) --no-print-directory style
	@$(MAKE) --no-print-directory test

bench: install ## measure serving on this machine, in about half an hour (ARGS=--peers: other servers too; ARGS=--quick: a short trial)
	@$(bin)/python -m benchmarks $(ARGS)

soak: install ## run half of the maximum load for 30 minutes: memory, tail latency, lost records
	@$(bin)/python -m benchmarks.soak $(ARGS)

lock: install ## resolve all dependencies again, and those of each image
	$(compile) --all-extras -o requirements.lock
	$(resolve) --group installer -o requirements-installer.lock
	$(resolve) --group lint -o requirements-lint.lock
	$(compile) --extra serve -c requirements.lock -o requirements-serve.lock
	$(compile) --extra jobs -c requirements.lock -o requirements-jobs.lock
	$(compile) --extra mlflow-server -c requirements.lock $(addprefix --no-emit-package ,$(not-in-mlflow-server)) -o requirements-mlflow.lock

render: install ## write the chart's table of values and the plain manifests under k8s/
	@$(bin)/python k8s/render.py

docs: install ## write the generated pages of docs/, and build the site in .site/html
	@$(bin)/python docs/build.py $(ARGS)

images: ## build the three images
	@python3 k8s/cluster.py images

# For the release workflow.
release-check: install ## check that tag, version and CHANGELOG.md agree (TAG=v0.3.0)
	@$(bin)/python k8s/release.py check

release-images: install ## build the three images for this machine's processor, and push them
	@$(bin)/python k8s/release.py images

release: install sbom ## sign and publish images, chart and wheel; the images must have been pushed
	@$(bin)/uv build --quiet --wheel --build-constraints requirements.lock --require-hashes --out-dir dist
	@$(bin)/python k8s/release.py publish

release-tools: TOOLS ?= $(CURDIR)/$(bin)
release-tools: ## build helm, cosign and syft with Go, into TOOLS=FOLDER
	@GOBIN=$(TOOLS) go install helm.sh/helm/v4/cmd/helm@v4.1.4
	@GOBIN=$(TOOLS) go install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
	@GOBIN=$(TOOLS) go install github.com/anchore/syft/cmd/syft@v1.57.1

# Go verifies each download against its public checksum database.
cluster-tools: TOOLS ?= $(CURDIR)/$(bin)
cluster-tools: ## build kind, Helm 3 and Helm 4 with Go, into TOOLS=FOLDER
	@GOBIN=$(TOOLS) go install sigs.k8s.io/kind@v0.33.0
	@GOBIN=$(TOOLS) go install -ldflags "-X $(helm3)/pkg/chartutil.k8sVersionMajor=1 -X $(helm3)/pkg/chartutil.k8sVersionMinor=33" $(helm3)/cmd/helm@v3.18.0
	@mv $(TOOLS)/helm $(TOOLS)/helm3
	@GOBIN=$(TOOLS) go install helm.sh/helm/v4/cmd/helm@v4.1.4

kind-up: $(if $(FRAUDOPS_DATA),install) ## start a kind cluster with everything, a first model and a prediction (FRAUDOPS_DATA=FILE trains on your data)
	@python3 k8s/cluster.py up

cluster-test-up cluster-test: export KIND_ADDONS := metrics prometheus
cluster-test-up cluster-test: export KIND_CONFIG ?= $(CURDIR)/tests/cluster/kind-config.yaml
cluster-test-up: kind-up ## start the kind cluster of the tests: two nodes, with Prometheus

# Four processes: one changes the installed release, the others use separate namespaces. Figures
# (PROOF=1) are measured by one process.
cluster-test: install cluster-test-up ## start the kind cluster and run its tests, `helm test` included
	@$(bin)/pytest -p no:randomly $(if $(PROOF),,-n 4 --dist loadfile --no-loadscope-reorder) tests/cluster $(ARGS)

proof: install ## measure every figure that the pages quote, for hours, into benchmarks/results
	@PROOF=1 $(bin)/pytest tests/unit/test_promotion_simulation.py
	@PROOF=1 $(bin)/pytest -p no:randomly tests/service/test_faults.py tests/service/test_faults_pooled.py tests/service/test_faults_systematic.py
	@PROOF=1 $(bin)/pytest -p no:randomly tests/contract/wire tests/contract/clients tests/contract/test_recorded_clients.py
	@PROOF=1 $(bin)/pytest tests/unit/test_explaining.py tests/unit/test_read_rows.py tests/unit/test_malformed_batches.py tests/unit/test_tensors.py
	@PROOF=1 $(MAKE) --no-print-directory cluster-test kind-down
	@$(bin)/python -m benchmarks.broadcast
	@$(bin)/python -m benchmarks.reads
	@$(bin)/python -m benchmarks.migrations
	@$(bin)/python -m benchmarks.labels
	@$(bin)/python -m benchmarks.starts
	@$(bin)/python -m benchmarks --peers
	@$(bin)/python -m benchmarks.boundary
	@$(bin)/python -m benchmarks.soak
	@PROOF=1 $(MAKE) --no-print-directory mutants
	@$(MAKE) --no-print-directory lint-chart lint-workflows

kind-down: ## delete the kind cluster
	@python3 k8s/cluster.py down

clean: ## delete .venv, .lint, the state folder .fraudops, and the results of `make mutants`
	rm -rf .venv .lint .fraudops .mutants
