# SPDX-License-Identifier: Apache-2.0
"""The gate from Python, for a test suite or a notebook; needs no torch. `benchmarks gate` gives an exit code.

python examples/gate_in_python.py model.tflite
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgepress import profile


def one_layer(path: Path) -> Path:
    """A convolution of 16 filters of 3 x 3 x 3 on 32 x 32 positions, where no file is given."""
    weights = numpy_helper.from_array(np.ones((16, 3, 3, 3), np.float32), "weights")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 32, 32])
    node = helper.make_node("Conv", ["x", "weights"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "one layer", [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(sys.argv[1]) if len(sys.argv) > 1 else one_layer(Path(folder, "model.onnx"))
        found = profile(file)
    print(f"{file.name}: {found['macs']['core']:,} MACs (core), {found['params']:,} parameters")
    if len(sys.argv) == 1:
        assert found["macs"]["core"] == 16 * 27 * 1024
    assert not found["uncounted"], found["uncounted"]


if __name__ == "__main__":
    main()
