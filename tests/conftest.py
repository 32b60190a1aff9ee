"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# A busy machine must not fail a property: no example has a deadline.
settings.register_profile("edgepress", deadline=None)
settings.load_profile("edgepress")


@pytest.fixture(autouse=True)
def usual_verbosity(monkeypatch):
    """A command that a test runs in this process may ask for quiet; the next test has not."""
    monkeypatch.setenv("EDGEPRESS_VERBOSITY", "normal")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real data; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("EDGEPRESS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the reference data, which is not in {folder} (EDGEPRESS_SHARED names another place)")
    return folder


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory) -> Path:
    """A small int8-like ONNX network with every kind of layer that the profile knows."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(8, 1, 3, 3)),
        "b1": rng.normal(size=8),
        "w2": rng.normal(size=(8, 1, 3, 3)),
        "w3": rng.normal(size=(4, 8)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1], name="stem"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["d"], group=8, pads=[1, 1, 1, 1], name="dw"),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], transB=1, name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
