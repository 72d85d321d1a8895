# The only doors. Each installs what it needs itself and is safe to run again.
SHELL := /bin/bash
export UV_COMPILE_BYTECODE := 1
export UV_LINK_MODE := copy
# A site that inspects its own traffic has its certificate among the system's.
export UV_SYSTEM_CERTS := 1
bin := .venv/bin
compile = $(bin)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml
# What MLflow lists for those who train and log with it; its server imports none of it.
not-in-mlflow-server := contourpy cycler docker fonttools huey joblib kiwisolver matplotlib narwhals pillow prettytable pyarrow pyparsing scikit-learn scipy skops threadpoolctl wcwidth

.PHONY: install demo up down test machine-test chart-test check bench soak proof lock render docs images kind-up cluster-test kind-down clean help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.venv/.installed: requirements.lock pyproject.toml
	@echo "installing the locked dependencies into .venv (once; about a minute)"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 64; }
	@test -x $(bin)/python || python3 -m venv .venv
	@$(bin)/python -m pip install --quiet --disable-pip-version-check "uv==0.13.9"
	@$(bin)/uv pip sync --quiet --python $(bin)/python --require-hashes requirements.lock
	@$(bin)/uv pip install --quiet --python $(bin)/python --no-deps --no-build-isolation --editable .
	@env -u PYTHONDONTWRITEBYTECODE $(bin)/python -m compileall -q fraudops services jobs
	@touch $@

install: .venv/.installed ## the locked environment in .venv

demo: install ## everything on this machine, and the whole road of a model (ARGS=--exit ends it)
	@$(bin)/fraudops demo $(ARGS)

up: install ## everything on this machine, in the foreground
	@$(bin)/fraudops up $(ARGS)

down: install ## stop what `make up` started
	@$(bin)/fraudops down

test: install ## every part's tests, on real PostgreSQL, MLflow and gunicorn processes
	@$(bin)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

machine-test: install ## the whole product on one machine: promotions under load, the demo, the supervisor, the commands of the README and docs/
	@$(bin)/pytest -n 3 --dist loadfile --no-loadscope-reorder tests/machine $(ARGS)

chart-test: install ## the rendered chart, by both helms
	@$(bin)/pytest -n 2 --dist loadfile tests/chart $(ARGS)

check: install ## format, lint, types, import contracts, tests
	@$(bin)/ruff format --check . && $(bin)/ruff check . && $(bin)/mypy && $(bin)/lint-imports
	@$(MAKE) --no-print-directory test

bench: install ## what serving costs, measured here in about half an hour (ARGS=--peers: beside what others pick; ARGS=--quick: that it can be measured)
	@$(bin)/python -m benchmarks $(ARGS)

soak: install ## half of the maximum load for 30 minutes: memory, tail latency, nothing lost
	@$(bin)/python -m benchmarks.soak $(ARGS)

lock: install ## resolve the dependencies anew, and the share of each image
	$(compile) --all-extras -o requirements.lock
	$(compile) --extra serve -c requirements.lock -o requirements-serve.lock
	$(compile) --extra jobs -c requirements.lock -o requirements-jobs.lock
	$(compile) --extra mlflow-server -c requirements.lock $(addprefix --no-emit-package ,$(not-in-mlflow-server)) -o requirements-mlflow.lock

render: install ## what is made from the chart: its table of values, and the plain manifests under k8s/
	@$(bin)/python k8s/render.py

docs: install ## the documentation: its generated pages, and the site in .site/html
	@$(bin)/python docs/build.py $(ARGS)

images: ## the three images
	@python3 k8s/cluster.py images

kind-up: $(if $(FRAUDOPS_DATA),install) ## a kind cluster with everything, a first model, and a prediction through its ingress (FRAUDOPS_DATA=FILE trains on yours)
	@python3 k8s/cluster.py up

cluster-test: install kind-up ## the same, then `helm test` and the cluster's tests
	@helm --kube-context kind-$${KIND_CLUSTER:-fraudops} --namespace fraudops test fraudops
	@$(bin)/pytest -p no:randomly tests/cluster $(ARGS)

proof: install ## every figure that the pages quote, measured here in hours, into benchmarks/results
	@PROOF=1 $(bin)/pytest tests/unit/test_promotion_simulation.py
	@PROOF=1 $(bin)/pytest -p no:randomly tests/service/test_faults.py
	@PROOF=1 $(MAKE) --no-print-directory cluster-test kind-down
	@$(bin)/python -m benchmarks.broadcast
	@$(bin)/python -m benchmarks.reads
	@$(bin)/python -m benchmarks --peers
	@$(bin)/python -m benchmarks.soak

kind-down: ## the kind cluster away
	@python3 k8s/cluster.py down

clean: ## the environment and this folder's state
	rm -rf .venv .fraudops
