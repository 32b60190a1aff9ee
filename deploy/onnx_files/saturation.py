# SPDX-License-Identifier: Apache-2.0
"""Where ONNX Runtime's int8 sums saturate: weights in int8 on an x86 processor without VNNI."""

from __future__ import annotations

import platform
from pathlib import Path

#: Operators of products -> position of their weights.
_WEIGHT_AT = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger"), 1),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3),
}
#: ONNX's numbers of int8, and of what has 8 bits.
_INT8, _8_BITS = 3, (2, 3)


def has_vnni() -> bool:
    """Whether this processor multiplies 8-bit integers into 32-bit sums; True where it cannot be known."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return True
    flags = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), None)
    return flags is None or not {"avx512_vnni", "avx_vnni", "avx_vnni_int8"}.isdisjoint(flags)


def layers_with_int8_weights(path: Path) -> list[str]:
    """Outputs of the operators of an ONNX file that multiply 8-bit activations by constant int8 weights."""
    from edgepress.deploy.onnx_files.reader import read_onnx

    graph = read_onnx(path).model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    real = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in graph.node:
        position = _WEIGHT_AT.get(node.op_type)
        if position is None or position >= len(node.input):
            continue
        weight = node.input[position]
        if weight in real:
            pair, weight = real.get(node.input[0]), real[weight].input[0]
            wide = pair is None or (len(pair.input) > 2 and types.get(pair.input[2]) not in _8_BITS)
            if wide:  # such a product is computed in float
                continue
        if types.get(weight) == _INT8:
            found.append(node.output[0])
    return found
