# SPDX-License-Identifier: Apache-2.0
"""Runtimes by name: what each runs, what it needs, and where its engine is.

A new runtime is one file with its engine and one line here. The engine's module is imported when a session opens, so
that this table knows packages and emulators without needing them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from edgepress.deploy.runtimes.engine import Engine, EngineOptions
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.terminal.installation import how_to_install


@dataclass(frozen=True)
class Runtime:
    """One runtime.

    Attributes:
        title: its name as its makers write it.
        file_kind: of the files that it runs, one of `KINDS`, or "checkpoint".
        engine: "module:callable" from (runtime, bytes of the file, EngineOptions) to an `Engine`; empty where folders
            are run, not files.
        package: that it needs, as pip knows it; empty where it needs none.
        module: of that package.
        extra: of edgepress, that installs it; empty where the base does.
        emulated: generated firmware or an emulated core: it starts processes of its own, its tools are optional, and it
            is only run by name.
        missing_tools: "module:function" that gives, of a runtime's name, a sentence on what lacks here, or None; empty
            without tools.
        own_kind: another kind of file, its own format, made from the first.
        beside: it runs files that another runtime stands for: where it is missing, nobody who did not ask is told.
    """

    title: str
    file_kind: str
    engine: str
    package: str = ""
    module: str = ""
    extra: str = ""
    emulated: bool = False
    missing_tools: str = ""
    own_kind: str = ""
    beside: bool = False

    def runs(self, kind: str) -> bool:
        """Whether files of a kind are its own."""
        return kind in (self.file_kind, self.own_kind) and bool(kind)


#: Suffix -> kind of file.
KINDS = {".tflite": "tflite", ".onnx": "onnx", ".ort": "ort", ".xml": "openvino", ".pte": "executorch"}


def _emulated(title: str, module: str, engine: str) -> Runtime:
    home = f"edgepress.deploy.firmware.{module}"
    return Runtime(title, "tflite", f"{home}:{engine}", emulated=True, missing_tools=f"{home}:missing_tools")


_LITERT = "edgepress.deploy.runtimes.litert:LiteRTEngine"
_LITERT_PACKAGE = ("ai-edge-litert", "ai_edge_litert")
#: By name; where nobody chooses, a file is run by the first that fits.
RUNTIMES: dict[str, Runtime] = {
    "litert": Runtime("LiteRT", "tflite", _LITERT, *_LITERT_PACKAGE),
    "litert-reference": Runtime("LiteRT (reference kernels)", "tflite", _LITERT, *_LITERT_PACKAGE),
    "tflm": Runtime(
        "TFLite Micro", "tflite", "edgepress.deploy.runtimes.tflm:TFLMEngine", "tflite-micro", "tflite_micro", "tflm"
    ),
    "onnxruntime": Runtime(
        "ONNX Runtime",
        "onnx",
        "edgepress.deploy.runtimes.onnx_runtime:OnnxEngine",
        "onnxruntime",
        "onnxruntime",
        "onnx",
        own_kind="ort",
    ),
    "openvino": Runtime(
        "OpenVINO",
        "onnx",
        "edgepress.deploy.openvino_ir.engine:open_model",
        "openvino",
        "openvino",
        "openvino",
        own_kind="openvino",
        beside=True,
    ),
    "executorch": Runtime(
        "ExecuTorch",
        "executorch",
        "edgepress.deploy.pte.engine:open_program",
        "executorch",
        "executorch",
        "executorch",
    ),
    "torch": Runtime("torch", "checkpoint", "", "torch", "torch", "train"),
    "host-c": _emulated("the generated C", "host", "HostEngine"),
    **{
        name: _emulated(f"the emulated {name}", "emulated_engine", "EmulatedEngine")
        for name in ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "riscv32")
    },
    "arm64": _emulated("the emulated arm64", "arm64", "Arm64Engine"),
}
EMULATED = tuple(name for name, runtime in RUNTIMES.items() if runtime.emulated)


def find_runtime(name: str) -> Runtime:
    """A runtime by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in RUNTIMES:
        raise UsageError(f"runtime = {name!r} is unknown: allowed are {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def build_engine(name: str, model: bytes, options: EngineOptions | None = None) -> Engine:
    """An engine in this process.

    Args:
        name: of a runtime that runs files.
        model: the bytes of the file.
        options: None takes the defaults.

    Raises:
        UsageError: the file is damaged, or there is no such runtime. RuntimeFailure: the package is missing, or the
        runtime cannot run the file.
    """
    runtime = find_runtime(name)
    if not runtime.engine:
        raise UsageError(f"the runtime {name} runs no files: give a checkpoint directory to open_session")
    return _load(runtime.engine)(name, model, options or EngineOptions())


def missing_package(name: str, error: ImportError) -> RuntimeFailure:
    """The sentence for a runtime whose package is not installed."""
    runtime = RUNTIMES[name]
    how = how_to_install(runtime.module) if runtime.extra else f"pip install {runtime.package}"
    return RuntimeFailure(
        f"the runtime {name} needs the package {runtime.package}, which cannot be imported ({error}): "
        f"{how}, or choose another runtime"
    )


def available_runtimes(kind: str, *, emulated: bool = False) -> dict[str, str | None]:
    """Runtime -> None where it can run here, else the reason; for files of a kind (`KINDS`, "checkpoint").

    Generated firmware and emulated cores (host-c, cortex-m*, arm64) are only listed with `emulated`: they are slower,
    and run where they are asked for. So is a second runtime of .onnx files (openvino) that is not installed.
    """
    found: dict[str, str | None] = {}
    for name, runtime in RUNTIMES.items():
        if not runtime.runs(kind) or (runtime.emulated and not emulated):
            continue
        if runtime.missing_tools:
            found[name] = _load(runtime.missing_tools)(name)
        else:
            there = find_spec(runtime.module) is not None
            if not there and runtime.beside and kind == runtime.file_kind and not emulated:
                continue
            how = f": {how_to_install(runtime.module)}" if runtime.extra else ""
            found[name] = None if there else f"the package {runtime.package} is not installed{how}"
    return found


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
