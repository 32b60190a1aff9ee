# Everything a developer or CI does. `make demo` and `make test` work on a fresh machine with Python 3.11, 3.12 or 3.13, or
# with uv. `.ci/find-python` finds one, or says what is missing; `make PYTHON=...` names another.
PYTHON ?=
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
TORCH  := $(shell sed -n 's/^torch==//p' constraints.txt)
export PIP_NO_INPUT := 1

# What makes locks and bills of materials; in an environment of its own, since it is no part of the project.
TOOLS  := build/tools
LOCKS  := requirements
# What is downloaded must have the SHA-256 of the lock, wherever it comes from.
install-locked = $(1) -m pip install --quiet --require-hashes -r $(2) \
	 || $(1) -m pip install --quiet --require-hashes --extra-index-url https://download.pytorch.org/whl/cpu -r $(2)
make-environment = { python="$(PYTHON)"; python="$${python:-$$(.ci/find-python)}" || exit 2; "$$python" -m venv --clear $(1); }
.PHONY: install demo test test-fast check format docs site site-serve pictures peers-gpu wheel lock sbom audit resolve clean install-firmware-tools install-test-tools

install: $(VENV)/.installed

# The CPU build of torch: from a local file or configured index, else from PyTorch's own CPU index, else the plain pin
# (which on Linux brings CUDA; a machine with a GPU wants that: `make install TORCH_BUILD=cuda`). `make install LOCKED=1`
# takes nothing whose SHA-256 is not in requirements/ (Linux on 64-bit x86, CPU).
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(call make-environment,$(VENV))
ifeq ($(LOCKED),1)
	$(call install-locked,$(BIN)/python,$(LOCKS)/linux-x86_64-dev.txt)
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
else
ifeq ($(TORCH_BUILD),cuda)
	$(PIP) install --quiet -c constraints.txt "torch==$(TORCH)"
else
	$(PIP) install --quiet -c constraints.txt "torch==$(TORCH)+cpu" 2>/dev/null \
	 || $(PIP) install --quiet -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu "torch==$(TORCH)+cpu" 2>/dev/null \
	 || $(PIP) install --quiet -c constraints.txt "torch==$(TORCH)"
endif
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
endif
	touch $@

demo: install
	$(BIN)/compress run --run runs/demo

# Two workers, one thread each: the tests are many and small. Some start whole clusters and emulators: what fails beside
# others on a busy machine must pass by itself, and the output shows both.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	 || { test $$? -eq 1 && OMP_NUM_THREADS=1 $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

test-fast: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The generated pages; a test compares them with what the code says.
docs: install
	$(BIN)/benchmarks devices --format markdown > docs/devices.md
	$(BIN)/deploy operators --format markdown > docs/operators.md
	$(BIN)/python -m edgepress.benchmarks.experiments.scale --output benchmarks/results/scale.json --docs docs/scale.md
	$(BIN)/python -m edgepress.benchmarks.experiments.peers.pages
	$(BIN)/python -m edgepress.benchmarks.experiments.integers.page
	$(BIN)/python -m edgepress.benchmarks.experiments.runtimes_page
	$(BIN)/python -m edgepress.benchmarks.experiments.networks.page

# The site in build/site, with warnings as errors; `make site-serve` shows it while pages are written.
site: install
	$(PIP) install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The pictures of the first page: needs chromium. They come from the commands of docs/tutorials/images.md.
pictures: install
	$(BIN)/python .ci/pictures.py

site-serve: site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

# The comparison of pruning methods in full, on one GPU with trainings side by side. A part takes at most ten minutes; the
# same command goes on where the last part stopped, and docs/peers.md says which rows are filled.
ESC10_MOBILE ?= data/esc10-mobile
CIFAR10 ?= data/cifar10.zip
peers-gpu: install
	OMP_NUM_THREADS=1 $(BIN)/python -m edgepress.benchmarks.experiments.peers.accuracy --run runs/peers-gpu --accelerator gpu \
	  --jobs 12 --minutes 8.5 --esc $(ESC10_MOBILE) --cifar $(CIFAR10) --output benchmarks/results/peers_accuracy.json
	$(BIN)/python -m edgepress.benchmarks.experiments.peers.pages

# The time of the last commit stands for that of the build: the same source gives the same bytes.
wheel: install
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --outdir dist

$(TOOLS)/.installed: Makefile
	@$(call make-environment,$(TOOLS))
	$(TOOLS)/bin/python -m pip install --quiet uv==0.13.9 cyclonedx-bom==7.5.0
	touch $@

# requirements/: every file that may be installed, by its SHA-256, from constraints.txt and pyproject.toml. The CPU build
# of torch comes from PyTorch's own index, or from a folder: make lock TORCH_WHEELS=/folder/of/wheels.
TORCH_WHEELS ?= https://download.pytorch.org/whl/cpu/torch/
COMPILE := $(TOOLS)/bin/uv pip compile pyproject.toml --quiet --emit-build-options --no-annotate --generate-hashes --only-binary :all: \
	  --constraint constraints.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command "make lock"
lock: $(TOOLS)/.installed
	echo "torch==$(TORCH)+cpu" > build/torch.in
	$(COMPILE) --extra all --find-links $(TORCH_WHEELS) build/torch.in --output-file $(LOCKS)/linux-x86_64-cpu.txt
	$(COMPILE) --extra all --output-file $(LOCKS)/linux-x86_64-cuda.txt
	$(COMPILE) --extra dev --find-links $(TORCH_WHEELS) build/torch.in --output-file $(LOCKS)/linux-x86_64-dev.txt

# What a release consists of (CycloneDX), read from an environment that holds what the lock names and nothing else.
sbom: wheel $(TOOLS)/.installed
	@$(call make-environment,build/released)
	$(call install-locked,build/released/bin/python,$(LOCKS)/linux-x86_64-cpu.txt)
	build/released/bin/python -m pip install --quiet --no-deps dist/edgepress-*.whl
	build/released/bin/python -m pip uninstall --quiet --yes pip
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(TOOLS)/bin/cyclonedx-py environment build/released/bin/python \
	  --pyproject pyproject.toml --output-reproducible --output-format JSON --output-file dist/edgepress.cdx.json

audit: install
	$(PIP) install --quiet pip-audit && $(BIN)/pip-audit --strict -r constraints.txt --no-deps --disable-pip

# Every Python, platform and extra that the README's table promises has packages of the versions in constraints.txt.
resolve: $(TOOLS)/.installed
	UV=$(TOOLS)/bin/uv .ci/resolve

# Optional: Cortex-M and RISC-V compilers and emulators, and an emulated 64-bit Arm Linux for the runtime arm64 (needs root for apt).
install-firmware-tools: install
	-apt-get update -qq
	apt-get install -y --no-install-recommends gcc libc6-dev gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm qemu-user-static \
	  gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf qemu-system-misc
	$(BIN)/python -m edgepress.deploy.firmware.arm64

# What some tests need beside: an ssh server to talk to, strace to see what a command opens. Needs root for apt.
install-test-tools: install-firmware-tools
	apt-get install -y --no-install-recommends openssh-server openssh-client strace

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
