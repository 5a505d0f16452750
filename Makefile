# setup, run, test, test-all, lint, bench, bench-images, soak: what people and .ci/run call. `make setup` is quiet when nothing is to do.

PYTHON ?= /usr/bin/python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider
FUZZ_SECONDS ?= 60
PROJECTS := pyproject.toml core/pyproject.toml $(wildcard plugins/*/pyproject.toml plugins/*/scripts/*)
SOURCES := core/scow $(wildcard plugins/*/scow_*)

# what the engine needs of the host, and what its tests need beside
HOST_PACKAGES := libseccomp2 libnftables1 busybox-static iproute2 procps
TEST_PACKAGES := docker-registry skopeo runc crun curl isal umoci oci-image-tool

.PHONY: setup run test test-all test-user test-vm lint format bench fuzz bench-images soak docs clean

setup: .venv/.installed
	@.ci/packages $(HOST_PACKAGES) $(TEST_PACKAGES)

.venv/.installed: requirements-dev.txt $(PROJECTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-dev.txt
	@touch $@

run: setup
	$(BIN)/scow demo

# the sample that runs at every change: unit, conformance, integration and docs, without those marked slow
test: setup
	$(PYTEST)

test-all: setup
	$(PYTEST) --all

# no root, nothing installed: what an ordinary user can run
test-user:
	$(PYTEST) tests/unit

# in a virtual machine with systemd and cgroup version 2; needs root (docs/how-to/test-in-a-vm.md)
test-vm: setup
	$(BIN)/python -m tests.vm.run

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/mypy tests
	$(PYTEST) -q tests/unit/test_import_rules.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: setup
	$(BIN)/python -m tests.benchmarks.soak

bench: setup
	$(BIN)/python -m tests.benchmarks.bench

bench-images: setup
	$(BIN)/python -m tests.benchmarks.bench_images

# coverage-guided, FUZZ_SECONDS for each target of tests/fuzz/targets.py; needs wheels of atheris for this Python
fuzz: setup
	@$(BIN)/python -m pip install -qq --disable-pip-version-check 'atheris>=2.3'
	@for target in reader layer compression manifest reference; do \
		$(BIN)/python -m tests.fuzz.run $$target -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; \
	done

# the pages of docs/reference, from the sources (tests/docs fails where they are stale)
docs: setup
	$(BIN)/python -m docs.generate

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
