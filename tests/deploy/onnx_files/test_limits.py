"""Limits before 16-bit pairs: where they are needed, what they cost, and what OpenVINO makes of a file without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.benchmarks.measure.profiling import profile_of
from edgepress.deploy.onnx_files.limits import drop_what_saturates, limits_of, unlimited, write_limits
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.verify.known_defects import defects_in

#: Of the results: -32768 / 16384 = -2 to 32767 / 16384.
STEP = 2.0**-14
HIGHEST = 32767 * STEP


def inverse(limited: bool) -> onnx.ModelProto:
    """1 / x in 16 bits, then in 8; x is an integer of 8 bits, and its conversion to 16 bits holds all of them."""
    numbers = {
        "eighth": np.float32(0.125),
        "zero": np.uint8(0),
        "fine": np.float32(32 / 32767),
        "step": np.float32(STEP),
        "wide": np.int16(0),
        "coarse": np.float32(1 / 16),
        "shape": np.array([-1, 4], np.int64),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "eighth", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "eighth", "zero"], ["x_8"]),
        helper.make_node("QuantizeLinear", ["x_8", "fine", "wide"], ["x_16_q"]),
        helper.make_node("DequantizeLinear", ["x_16_q", "fine", "wide"], ["x_16"]),
        helper.make_node("Reciprocal", ["x_16"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "step", "wide"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "step", "wide"], ["y_16"]),
        helper.make_node("Reshape", ["y_16", "shape"], ["rows"]),
        helper.make_node("QuantizeLinear", ["rows", "step", "wide"], ["rows_q"]),
        helper.make_node("DequantizeLinear", ["rows_q", "step", "wide"], ["rows_16"]),
        helper.make_node("Mul", ["rows_16", "rows_16"], ["square"]),
        helper.make_node("QuantizeLinear", ["square", "coarse", "zero"], ["square_q"]),
        helper.make_node("DequantizeLinear", ["square_q", "coarse", "zero"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "inverse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if limited:
        write_limits(model)
    return model


#: 0.125 is 8 inverted, and 0.25 is 4: both beyond HIGHEST. 2 is 0.5, 4 is 0.25.
X = np.array([[0.125, 0.25, 2, 4]], np.float32)
#: HIGHEST^2 = 3.99976 is 64 steps of 1 / 16; without limits, 64 and 16 would saturate at 255.
EXPECTED = np.array([[64, 64, 4, 1]], np.float32) / 16


def test_limits_are_the_ends_of_the_integers() -> None:
    assert limits_of(np.asarray(np.float32(0.5)), np.asarray(np.int16(0))) == (-16384, 16383.5)
    assert limits_of(np.asarray(np.float32(0.5)), np.asarray(np.uint16(4))) == (-2, 32765.5)


def test_only_what_may_saturate_gets_a_limit() -> None:
    # Neither the conversion of 8 bits, nor what was moved, nor 8 bits.
    assert [node.input[0] for node in unlimited(inverse(limited=False).graph)] == ["y"]
    model = inverse(limited=True)
    assert unlimited(model.graph) == []
    (clip,) = [node for node in model.graph.node if node.op_type == "Clip"]
    constants = {entry.name: float(numpy_helper.to_array(entry)) for entry in model.graph.initializer if not entry.dims}
    assert clip.input[0] == "y"
    assert [constants[name] for name in clip.input[1:]] == [-2.0, HIGHEST]
    onnx.checker.check_model(model, full_check=True)


def test_a_conversion_that_leaves_the_integers_gets_one() -> None:
    model = inverse(limited=False)
    fine = next(entry for entry in model.graph.initializer if entry.name == "fine")
    fine.CopyFrom(numpy_helper.from_array(np.asarray(np.float32(16 / 32767)), "fine"))  # 255 / 8 is beyond 16
    assert [node.input[0] for node in unlimited(model.graph)] == ["x_8", "y"]


@pytest.mark.parametrize("limited", [False, True])
def test_onnx_runtime_melts_it_with_the_pair(limited: bool, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 3
    session = onnxruntime.InferenceSession(inverse(limited).SerializeToString(), options)
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], EXPECTED)
    assert "Clip" not in {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node}


def test_openvino_needs_it_and_the_file_without_is_named(tmp_path: Path) -> None:
    made = {}
    for limited in (False, True):
        path = tmp_path / f"limited_{limited}.onnx"
        onnx.save(inverse(limited), path)
        made[limited] = path
    (said,) = defects_in(made[False], "openvino")
    assert "1 values with 16 bits stay in float32 without their limits" in said
    assert defects_in(made[True], "openvino") == []
    assert defects_in(made[False], "executorch") == []
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    with open_session(made[True], "openvino") as session:
        np.testing.assert_array_equal(session.run(X), EXPECTED)
    with open_session(made[False], "openvino") as session:  # once this saturates, the defect goes from the table
        np.testing.assert_array_equal(session.run(X), np.array([[255, 255, 4, 1]], np.float32) / 16)


def test_the_profile_counts_nothing_for_it(tmp_path: Path) -> None:
    profiles = []
    for limited in (False, True):
        path = tmp_path / f"limited_{limited}.onnx"
        onnx.save(inverse(limited), path)
        profiles.append(profile_of(path))
    for key in ("macs", "params", "peak_activation_bytes", "uncounted"):
        assert profiles[0][key] == profiles[1][key]
    assert len(profiles[0]["layers"]) == len(profiles[1]["layers"])


@pytest.mark.parametrize(
    ("limits", "step", "zero", "stays"),
    [
        ((-1.0, 1.0), 2 / 255, 127, False),  # integers from -0.996 to 1.004
        ((-1.0, 1.0), 0.9 / 128, 128, False),  # none reaches a limit
        ((-1.0, 1.0), 2.2 / 255, 128, True),  # 1.09 is an integer
        ((-1.0, 1.0), 2 / 255, 100, True),
        ((0.0, 6.0), 6 / 255, 0, False),
        ((0.0, None), 6 / 255, 0, False),
        ((0.0, None), 6 / 255, 3, True),
    ],
)
def test_a_clip_that_integers_make_anyway_is_left_out(limits, step: float, zero: int, stays: bool) -> None:
    numbers = {"w": np.ones((4, 3), np.float32), "step": np.float32(step), "zero": np.uint8(zero)}
    names = ["", ""]
    for index, limit in enumerate(limits):
        if limit is not None:
            names[index] = f"limit_{index}"
            numbers[names[index]] = np.float32(limit)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Clip", ["y", *names], ["within"]),
        helper.make_node("QuantizeLinear", ["within", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "clip",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    drop_what_saturates(model)
    assert [node.op_type for node in model.graph.node].count("Clip") == stays
    onnx.checker.check_model(model, full_check=True)
