# Everything a developer or CI does. `make demo` and `make test` work on a fresh machine with Python 3.11.
# The first Python that is supported and can make environments; `make PYTHON=...` names another.
PYTHON ?= $(shell for name in python3.11 python3; do $$name -c 'import sys, venv, ensurepip; \
  assert sys.version_info[:2] == (3, 11)' 2>/dev/null && { echo $$name; break; }; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
TORCH  := 2.13.0
export PIP_NO_INPUT := 1

.PHONY: install demo test test-fast check format docs peers-gpu wheel audit clean install-firmware-tools install-test-tools

install: $(VENV)/.installed

# The CPU build of torch: from a local file or configured index, else from PyTorch's own CPU index, else the plain pin
# (which on Linux brings CUDA; a machine with a GPU wants that: `make install TORCH_BUILD=cuda`).
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "edgepress needs Python 3.11 with venv (Debian: apt-get install python3.11-venv);" \
	  "make PYTHON=/path/to/python names one" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
ifeq ($(TORCH_BUILD),cuda)
	$(PIP) install --quiet -c constraints.txt "torch==$(TORCH)"
else
	$(PIP) install --quiet -c constraints.txt "torch==$(TORCH)+cpu" 2>/dev/null \
	 || $(PIP) install --quiet -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu "torch==$(TORCH)+cpu" 2>/dev/null \
	 || $(PIP) install --quiet -c constraints.txt "torch==$(TORCH)"
endif
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
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

audit: install
	$(PIP) install --quiet pip-audit && $(BIN)/pip-audit --strict -r constraints.txt --no-deps --disable-pip

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
