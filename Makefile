# Two commands: `make demo` shows a job's way through the daemon, `make test` says whether all of it
# works. Both set up what they need; see README.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-bench
AUDIT_VENV := .venv-audit

# Python's venv module and the compiler-free basics.
PYTHON_PACKAGES := python3 python3-venv
# What tests want beside the cluster, which names its own: tools, a browser and a desktop.
TEST_PACKAGES := iproute2 netcat-openbsd openssl procps shellcheck socat tcsh \
    chromium chromium-driver novnc tigervnc-standalone-server websockify x11-apps xterm
CLUSTER_PACKAGES = $$($(PYTHON) deploy/devcluster/devcluster packages --accounting --apptainer --registry)

# This folder on the path of a virtual environment, so that twistd finds the plugin in it.
LINK := import pathlib, sysconfig; \
    pathlib.Path(sysconfig.get_path("purelib"), "jarvice-slurmd.pth").write_text("$(CURDIR)\n")

.PHONY: help demo test packages check format types imports trial screenshots bench soak audit requirements clean

help:
	@echo "make demo    start a private Slurm cluster and the daemon, and run a job through them"
	@echo "make test    format, lint, types, import rules, unit tests and cluster tests"
	@echo "make bench   measure against the predecessor's technique and OpenSSH"
	@echo "make soak    ten minutes of load with the link cut every 20 s; SECONDS=180 for less"
	@echo "make audit   look the daemon's dependencies up in PyPI's database of vulnerabilities"
	@echo "make clean   remove what these made in this folder"

$(VENV)/.made: requirements/runtime.txt requirements/test.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || deploy/install-packages $(PYTHON_PACKAGES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/test.txt
	$(BIN)/python -c '$(LINK)'
	@touch $@

$(BENCH_VENV)/.made: requirements/bench.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || deploy/install-packages $(PYTHON_PACKAGES)
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes \
	    -r requirements/bench.txt
	$(BENCH_VENV)/bin/python -c '$(LINK)'
	@touch $@

demo: $(VENV)/.made
	@$(BIN)/python -m deploy.demo

# Before anything else: what is missing is named at once.
test: packages
	@$(MAKE) --no-print-directory check trial

packages:
	@deploy/install-packages $(PYTHON_PACKAGES) $(TEST_PACKAGES) $(CLUSTER_PACKAGES)

check: format types imports

format: $(VENV)/.made
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.made
	$(BIN)/mypy

imports: $(VENV)/.made
	$(BIN)/lint-imports

trial: packages $(VENV)/.made
	$(BIN)/python -m test.run

# The pictures of real applications in docs/, as the tests see them.
screenshots: $(VENV)/.made
	JARVICE_SCREENSHOTS=$(CURDIR)/docs $(BIN)/python -m test.run test.cluster.test_applications

bench: $(BENCH_VENV)/.made
	$(BENCH_VENV)/bin/python -m test.bench

# Bounded, and stops by itself; see docs/reliability.md.
soak: $(VENV)/.made
	@$(BIN)/python -m test.soak $(SECONDS)

$(AUDIT_VENV)/.made: requirements/audit.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || deploy/install-packages $(PYTHON_PACKAGES)
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes \
	    -r requirements/audit.txt
	@touch $@

# Asks PyPI itself, so it is not part of `make test`; where a mirror has no such data it says so, and
# fails.
audit: $(AUDIT_VENV)/.made
	@$(AUDIT_VENV)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/runtime.txt || { \
	    echo "Not audited, or not clean. Where a dependency could not be audited, the package index that" \
	        "pip is configured for has no data on vulnerabilities: ask PyPI itself." >&2; exit 1; }

# Needs pip-tools; the locks hold hashes and no registry's name.
COMPILE := pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links
requirements: export CUSTOM_COMPILE_COMMAND := make requirements
requirements:
	cd requirements && $(COMPILE) -o runtime.txt runtime.in
	cd requirements && $(COMPILE) -c runtime.txt -o test.txt test.in
	cd requirements && $(COMPILE) -c test.txt -o bench.txt bench.in
	cd requirements && $(COMPILE) -o apps.txt apps.in
	cd requirements && $(COMPILE) -o audit.txt audit.in

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(AUDIT_VENV) _trial_temp* .mypy_cache .ruff_cache .hypothesis build *.egg-info
