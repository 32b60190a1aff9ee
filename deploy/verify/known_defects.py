# SPDX-License-Identifier: Apache-2.0
"""Defects of runtimes themselves: the file is right, one runtime's kernel isn't, and its makers know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Defect:
    """A kernel that computes something else than its definition.

    Attributes:
        runtime: that has it.
        operator: TFLite operator.
        types: of the tensor that it reads.
        says: what goes wrong.
        link: where it was reported.
    """

    runtime: str
    operator: str
    types: tuple[str, ...]
    says: str
    link: str


#: A line goes when a released runtime is without the defect.
DEFECTS = (
    Defect(
        "litert-reference",
        "SUM",
        ("int8", "int16"),
        "its reference kernel reads signed integers as uint8",
        "https://github.com/google-ai-edge/LiteRT/issues/4079",
    ),
)


#: Kernels that round or saturate otherwise than the other runtimes', by design: said where a pair is beyond its limits.
DIFFERENCES = (
    Defect(
        "tflm",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        ("int8",),
        "the hidden state's part of a gate saturates at 8 before it is added to the input's, where LiteRT saturates "
        "the sum alone; states remember it",
        "https://github.com/tensorflow/tflite-micro/blob/main/tensorflow/lite/micro/kernels/lstm_eval.h",
    ),
)


def differences_in(path: Path, runtime: str) -> list[str]:
    """Differences by design which a TFLite file meets on a runtime, as sentences with a link."""
    return _met(path, runtime, DIFFERENCES)


def defects_in(path: Path, runtime: str) -> list[str]:
    """Known defects of a runtime which a file meets on this processor, as sentences with a link."""
    if runtime == "onnxruntime" and path.suffix.lower() == ".onnx":
        return _saturated(path)
    if runtime == "openvino" and path.suffix.lower() == ".onnx":
        return _unlimited(path)
    return _met(path, runtime, DEFECTS)


def _saturated(path: Path) -> list[str]:
    from edgepress.deploy.onnx_files import saturation

    if saturation.has_vnni() or not (layers := saturation.layers_with_int8_weights(path)):
        return []
    return [
        f"onnxruntime: on this processor, an x86 without VNNI, sums of {len(layers)} layers with int8 weights saturate "
        "at 16 bits; export with --onnx-integers u8u8 (https://github.com/microsoft/onnxruntime/issues/6004)"
    ]


def _unlimited(path: Path) -> list[str]:
    from edgepress.deploy.onnx_files.limits import unlimited
    from edgepress.deploy.onnx_files.reader import read_onnx

    if not (found := unlimited(read_onnx(path).model.graph)):
        return []
    return [
        f"openvino: {len(found)} values with 16 bits stay in float32 without their limits, where QuantizeLinear "
        "saturates; a Clip before each, which our export writes, keeps them "
        "(https://github.com/openvinotoolkit/openvino/pull/35902)"
    ]


def _met(path: Path, runtime: str, table: tuple[Defect, ...]) -> list[str]:
    from edgepress.deploy.tflite.reader import read_tflite

    candidates = [defect for defect in table if defect.runtime == runtime]
    if not candidates or path.suffix.lower() != ".tflite":
        return []
    found: dict[str, None] = {}
    for graph in read_tflite(path.read_bytes()).subgraphs:
        for operator in graph.operators:
            read = graph.tensors[operator.inputs[0]].dtype if operator.inputs else ""
            for defect in candidates:
                if operator.code == defect.operator and str(read) in defect.types:
                    found[f"{runtime}: {defect.operator} of {read}: {defect.says} ({defect.link})"] = None
    return list(found)
