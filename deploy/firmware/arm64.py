# SPDX-License-Identifier: Apache-2.0
"""The runtime arm64: LiteRT's own aarch64 package in an emulated user process, to show what integers a board gives.

Two traps, both met here (QEMU 7.2): LiteRT reads the host's /proc/cpuinfo and crashes, so an Arm one lies under the
prefix; and the default CPU computes garbage in XNNPACK's integer kernels without a word, so a CPU is named and a
self-test runs before every session. Emulated time says nothing about a board.

`python -m edgepress.deploy.firmware.arm64` installs the emulated system (80 MB of downloads) into the cache folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgepress.deploy.runtimes.engine import Engine, EngineOptions
from edgepress.deploy.runtimes.isolated import IsolatedEngine
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.models.errors import RuntimeFailure

#: A CPU that QEMU 7.2 emulates rightly: that of the Raspberry Pi 3.
CPU = "cortex-a53"
PACKAGES = "qemu-user-static"
_EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
_DEBIAN = ("python3.11", "libstdc++6", "libgcc-s1")
_WHEELS = ("ai-edge-litert", "numpy", "typing-extensions", "flatbuffers", "protobuf", "backports-strenum", "tqdm")
_PLATFORMS = ("manylinux_2_27_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
_MIRROR = "http://deb.debian.org/debian"
_TIMEOUT_S = 600.0
#: The self-test's kernels may round one step differently from exact arithmetic; garbage is off by a hundred.
_SELF_TEST_STEPS = 2


def prefix() -> Path:
    """Folder of the emulated system: $EDGEPRESS_ARM64, else in the user's cache."""
    given = os.environ.get("EDGEPRESS_ARM64")
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # stays as it is without a home
    return Path(given) if given else Path(caches) / "edgepress" / "arm64"


def missing_tools(runtime: str = "arm64") -> str | None:
    """A sentence that says what to install, or None where all is there."""
    if not any(shutil.which(name) for name in _EMULATORS):
        return f"{_EMULATORS[0]} is not installed; Debian: apt-get install {PACKAGES} (or make install-firmware-tools)"
    python = prefix() / "root" / "usr" / "bin" / "python3.11"
    if not python.exists():
        return (
            f"there is no emulated arm64 system in {prefix()}: `python -m edgepress.deploy.firmware.arm64` downloads it"
        )
    return None


def interpreter() -> list[str]:
    """The command of the emulated Python.

    Raises:
        RuntimeFailure: something is not installed.
    """
    if reason := missing_tools():
        raise RuntimeFailure(f"the runtime arm64 cannot run: {reason}")
    emulator = next(path for path in map(shutil.which, _EMULATORS) if path)
    root = prefix() / "root"
    return [emulator, "-cpu", CPU, "-L", str(root), str(root / "usr" / "bin" / "python3.11")]


class Arm64Engine:
    """See `edgepress.deploy.runtimes.engine.Engine`: LiteRT with XNNPACK on an emulated 64-bit Arm core."""

    def __init__(self, runtime: str, model: bytes, options: EngineOptions):
        self._options = options
        _self_test(self._open)
        self._engine = self._open(model)
        self.inputs: tuple[TensorDetails, ...] = self._engine.inputs
        self.outputs: tuple[TensorDetails, ...] = self._engine.outputs

    def _open(self, model: bytes) -> IsolatedEngine:
        return IsolatedEngine(
            "litert",
            model,
            self._options,
            _TIMEOUT_S,
            open_timeout_s=120,
            interpreter=interpreter(),
            packages=[str(prefix() / "packages")],
        )

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._engine.run(arrays)

    def stream(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._engine.stream(arrays)

    def reset(self) -> None:
        self._engine.reset()

    def arena(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self._engine.close()


def _self_test(open_engine: Callable[[bytes], Engine]) -> None:
    """Run a dense layer whose result is known.

    Raises:
        RuntimeFailure: the emulated integers are garbage.
    """
    model, inputs, expected = dense_example()
    engine = open_engine(model)
    try:
        given = engine.run([inputs])[0]
    finally:
        engine.close()
    off = int(np.abs(given.astype(int) - expected).max())
    if off > _SELF_TEST_STEPS:
        raise RuntimeFailure(
            f"the emulated {CPU} fails its self-test: a dense layer is off by {off} steps, so that nothing from "
            "this emulator can be believed; use another QEMU"
        )


def dense_example() -> tuple[bytes, np.ndarray, np.ndarray]:
    """(a .tflite of one int8 dense layer, inputs [8, 64], its outputs [8, 16] in exact arithmetic)."""
    from edgepress.deploy.tflite.writer import pack, schema

    kinds, generator = schema(), np.random.default_rng(0)
    weights = generator.integers(-127, 128, (16, 64)).astype(np.int8)
    inputs = generator.integers(-128, 128, (8, 64)).astype(np.int8)
    model, graph = kinds.ModelT(), kinds.SubGraphT()
    code, operator = kinds.OperatorCodeT(), kinds.OperatorT()
    scales = (1 / 64, 1 / 128, 1 / 4)
    buffers = [kinds.BufferT() for _ in range(2)]
    buffers[1].data = weights.view(np.uint8).reshape(-1)
    graph.tensors = []
    for name, shape, scale, buffer in zip(
        (b"x", b"w", b"y"), ((1, 64), (16, 64), (1, 16)), scales, (0, 1, 0), strict=True
    ):
        tensor = kinds.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = (
            name,
            np.array(shape, np.int32),
            kinds.TensorType.INT8,
            buffer,
        )
        tensor.quantization = kinds.QuantizationParametersT()
        tensor.quantization.scale = np.array([scale], np.float32)
        tensor.quantization.zeroPoint = np.zeros(1, np.int64)
        graph.tensors.append(tensor)
    code.builtinCode = code.deprecatedBuiltinCode = kinds.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    operator.inputs, operator.outputs = np.array([0, 1, -1], np.int32), np.array([2], np.int32)
    operator.builtinOptionsType = kinds.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = kinds.FullyConnectedOptionsT()
    graph.operators, graph.name = [operator], "main"
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([2], np.int32)
    model.version, model.operatorCodes, model.buffers, model.subgraphs = 3, [code], buffers, [graph]
    exact = inputs.astype(int) @ weights.astype(int).T * (scales[0] * scales[1] / scales[2])
    return pack(model), inputs, np.clip(np.rint(exact), -128, 127).astype(int)


def install(folder: Path) -> None:
    """Download an arm64 Python from Debian and LiteRT's wheels from the package index, without root.

    Raises:
        RuntimeFailure: a download failed or a tool is missing.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise RuntimeFailure(f"installing the emulated arm64 system needs {tool}, as on Debian and Ubuntu")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="edgepress-", dir=folder) as scratch:
        root, packages = Path(scratch) / "root", Path(scratch) / "packages"
        _debian(Path(scratch) / "apt", root)
        _cpu_information(root)
        _wheels(Path(scratch) / "wheels", packages)
        for made in (root, packages):
            target = folder / made.name
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)


def _debian(work: Path, root: Path) -> None:
    for part in ("lists/partial", "cache/archives/partial", "state"):
        (work / part).mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed = f"signed-by={keyring} " if Path(keyring).exists() else ""  # where it is absent, apt uses its own
    (work / "sources.list").write_text(f"deb [{signed}arch=arm64] {_MIRROR} bookworm main\n")
    (work / "status").write_text("")
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Dir::State": work / "state",
        "Dir::Cache": work / "cache",
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    _call([*apt, "update"])
    _call([*apt, "install", "-y", "--download-only", "--no-install-recommends", *_DEBIAN])
    root.mkdir()
    for archive in sorted((work / "cache" / "archives").glob("*.deb")):
        _call(["dpkg", "-x", str(archive), str(root)])


def _cpu_information(root: Path) -> None:
    """An Arm /proc/cpuinfo under the prefix, which LiteRT reads in place of the host's."""
    rows = [
        "processor\t: {}",
        "BogoMIPS\t: 38.40",
        "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid",
        "CPU implementer\t: 0x41",
        "CPU architecture: 8",
        "CPU variant\t: 0x0",
        "CPU part\t: 0xd03",
        "CPU revision\t: 4",
    ]
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text("\n\n".join("\n".join(rows).format(core) for core in range(4)) + "\n")


def _wheels(work: Path, packages: Path) -> None:
    from importlib.metadata import version

    wanted = [f"ai-edge-litert=={version('ai-edge-litert')}" if name == "ai-edge-litert" else name for name in _WHEELS]
    platforms = [argument for name in _PLATFORMS for argument in ("--platform", name)]
    _call(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--python-version",
            "3.11",
            "--implementation",
            "cp",
            "--abi",
            "cp311",
            "--abi",
            "abi3",
            "--abi",
            "none",
            *platforms,
            "-d",
            str(work),
            *wanted,
        ]
    )
    packages.mkdir()
    for wheel in sorted(work.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeFailure(f"{command[0]} failed: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise RuntimeFailure(f"{' '.join(command[:2])} failed: {said[0] if said else 'no reason given'}")


def main() -> int:
    """Install, and give the exit code."""
    try:
        install(prefix())
    except RuntimeFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"installed the emulated arm64 system in {prefix()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
