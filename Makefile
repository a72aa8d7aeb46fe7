# dmatrace: everything a fresh Debian 12 or 13 machine needs is done by the targets.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := qemu-system-x86 mmdebstrap e2fsprogs openssh-client python3-venv util-linux gcc libc6-dev
DEMO_SIZE ?= 256M
DEMO_OUT ?= build/demo.dmt
PYTEST ?= $(BIN)/pytest
KERNELS ?= all

.DELETE_ON_ERROR:
.PHONY: help setup packages image demo test test-host test-long bench bench-peers bench-backends lint format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: packages $(VENV)/.installed ## Debian packages and .venv (with .venv/bin/dmatrace)

packages: ## the Debian packages of the lab, by apt-get where one is missing
	@missing=; for package in $(PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	        || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" != 0 ]; then \
	        echo "run as root: apt-get install$$missing" >&2; exit 3; \
	    fi; \
	    apt-get update && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing; \
	fi

# --system-site-packages: bcc is the distribution's own (python3-bpfcc).
$(VENV)/bin/pip:
	$(PYTHON) -m venv --system-site-packages $(VENV)

$(VENV)/.installed: requirements.lock requirements-dev.lock pyproject.toml | packages $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

image: setup ## the image of the lab's guest, unless it is there
	$(BIN)/dmatrace lab build

demo: image ## record two loads of a fresh file in the lab guest and compare them
	@mkdir -p $(dir $(DEMO_OUT)); rm -rf $(DEMO_OUT)
	$(BIN)/dmatrace lab run -- \
	    dmatrace record --strategy dmabuf-bio,udmabuf-dio --size $(DEMO_SIZE) --raise-limits \
	        -o $(DEMO_OUT)
	$(BIN)/dmatrace report $(DEMO_OUT)

# The host's tests, then those of two guests, which keep half of two processors busy each.
# A failure of the first does not hide one of the second.
run-tests = sh -c '$(PYTEST) -n logical --durations=10 tests/host; host=$$?; \
    $(PYTEST) -n 2 --dist loadscope --durations=40 tests/guest && exit $$host'

test: image ## the whole suite: on the host and in two guests
	DMATRACE_REQUIRE_GUEST=1 $(run-tests)

test-host: setup ## the tests that need no guest
	$(PYTEST) -n logical tests/host

test-long: image ## the suite on every kernel (KERNELS=6.12,7.2: on those), and what takes hours
	DMATRACE_REQUIRE_GUEST=1 DMATRACE_LONG=1 DMATRACE_KERNELS=$(KERNELS) $(run-tests)

bench: image ## what the tracer costs, in the guest; wants a machine with nothing else to do
	$(BIN)/python benchmarks/overhead.py

bench-peers: image ## what dmatrace, bpftrace and bcc's tools cost, beside each other, in the guest
	$(BIN)/python benchmarks/peers.py

bench-backends: image ## how far fentry and kprobe agree, in the guest
	$(BIN)/python benchmarks/backends.py

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## rewrite the Python files as ruff formats them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# For every supported Python at once; uv is a tool of this target alone.
lock: setup ## requirements.lock and requirements-dev.lock from pyproject.toml
	@mkdir -p build
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header \
	    pyproject.toml -o build/requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header \
	    --group dev pyproject.toml -o build/requirements-dev.lock
	{ echo "# Runtime packages of host and guests; made by 'make lock' from pyproject.toml."; \
	    cat build/requirements.lock; } > requirements.lock
	{ echo "# Runtime and development packages of the host; made by 'make lock' from pyproject.toml."; \
	    cat build/requirements-dev.lock; } > requirements-dev.lock

clean: ## remove what the targets made here; lab images stay (dmatrace lab clean)
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
