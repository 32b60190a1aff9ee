"""What cannot be counted is no zero: open sizes, foreign operators, operators that a rule leaves out, NeSsi's rule."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.measure.profiling import profile
from edgepress.models.cost.op_costs import Op, macs
from edgepress.models.errors import UsageError


def onnx_file(path, nodes, inputs, outputs, initializers=(), opsets=(("", 17),), functions=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [helper.make_tensor(name, TensorProto.FLOAT, shape, [0.0] * _size(shape)) for name, shape in initializers],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets]
    onnx.save(helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=8), path)
    return path


def _size(shape):
    count = 1
    for size in shape:
        count *= size
    return count


@pytest.fixture
def symbolic(tmp_path):
    """3 -> 8 channels, 3 x 3, SAME: 216 weights and 8 biases at every position, however many there are."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    return onnx_file(
        tmp_path / "conv.onnx",
        [node],
        {"x": ["N", 3, "H", "W"]},
        {"y": ["N", 8, "H", "W"]},
        [("w", [8, 3, 3, 3]), ("b", [8])],
    )


def test_a_convolution_with_open_sizes_is_not_counted_at_one_position(symbolic):
    found = profile(symbolic)
    assert found["macs"]["core"] is None
    assert "--shape x=1,3,H,W" in found["notes"]["core"]
    assert found["peak_activation_bytes"] is None
    verdict = evaluate_gate(symbolic, {"macs": "1G", "peak": "1MB"})
    assert [v["metric"] for v in verdict["violations"]] == ["macs", "peak"]


def test_given_sizes_are_counted_exactly(symbolic):
    found = profile(symbolic, shapes={"x": (1, 3, 512, 512)})
    assert found["macs"]["core"] == 216 * 512 * 512
    assert found["macs"]["dcase"] == 224 * 512 * 512
    assert found["peak_activation_bytes"] == 4 * (3 + 8) * 512 * 512
    assert found["uncountable"] == []
    assert profile(symbolic, shapes={"": (1, 3, 2, 5)})["macs"]["core"] == 216 * 10
    assert not evaluate_gate(symbolic, {"macs": "20M"}, shapes={"x": (1, 3, 512, 512)})["passed"]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 3, 4, 4)}, "the file has x"),
        ({"x": (1, 4, 4, 4)}, r"x=1,4,4,4 does not fit the file's \?,3,\?,\?"),
        ({"x": (1, 3)}, "does not fit"),
    ],
)
def test_sizes_that_do_not_fit(symbolic, shapes, message):
    with pytest.raises(UsageError, match=message):
        profile(symbolic, shapes=shapes)


def test_an_open_batch_alone_counts_one_sample(tmp_path):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = onnx_file(tmp_path / "m.onnx", [node], {"x": ["anything", 6]}, {"y": ["anything", 5]}, [("w", [6, 5])])
    assert profile(path)["macs"]["core"] == 30
    sequence = onnx_file(tmp_path / "s.onnx", [node], {"x": ["sequence", 6]}, {"y": ["sequence", 5]}, [("w", [6, 5])])
    assert profile(sequence)["macs"]["core"] is None
    assert profile(sequence, shapes={"x": (7, 6)})["macs"]["core"] == 210


@pytest.mark.parametrize(
    ("domain", "operator", "counted"),
    [("com.example", "Detector", False), ("com.microsoft", "QLinearAdd", True), ("com.microsoft", "MoE", False)],
)
def test_operators_of_other_domains(tmp_path, domain, operator, counted):
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    path = onnx_file(tmp_path / "m.onnx", [node], {"x": [1, 4]}, {"y": [1, 4]}, opsets=[("", 17), (domain, 1)])
    found = profile(path)
    assert (found["macs"]["core"] == 0) is counted
    assert bool(found["uncountable"]) is not counted
    assert bool(found["refused"]["onnxruntime"]) is (domain == "com.example")


def test_a_function_of_the_file_and_a_loop_are_not_free(tmp_path):
    inner = [helper.make_node("MatMul", ["a", "a"], ["b"])]
    function = helper.make_function("own", "Square", ["a"], ["b"], inner, [helper.make_opsetid("", 17)])
    path = onnx_file(
        tmp_path / "f.onnx",
        [helper.make_node("Square", ["x"], ["y"], domain="own")],
        {"x": [4, 4]},
        {"y": [4, 4]},
        opsets=[("", 17), ("own", 1)],
        functions=[function],
    )
    (found,) = profile(path)["uncountable"]
    assert (found["operator"], found["count"]) == ("Square", 1)
    assert "function of the file" in found["reason"]


def test_weights_of_a_branch_count_as_weights(tmp_path):
    """Two branches with 6 x 5 weights each: 60 parameters, 240 bytes, and MACs that nobody knows."""

    def branch(name):
        weight = helper.make_tensor(f"w{name}", TensorProto.FLOAT, [6, 5], [0.0] * 30)
        node = helper.make_node("MatMul", ["x", f"w{name}"], [f"y{name}"])
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(f"y{name}", TensorProto.FLOAT, [1, 5])], [weight]
        )

    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
    )
    path = tmp_path / "if.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    found = profile(path)
    assert (found["params"], found["weight_bytes"]) == (60, 240)
    assert found["macs"]["core"] is None
    assert "a graph of its own" in found["notes"]["core"]


def test_public_files_whose_cost_is_hidden(shared):
    files = shared / "data" / "outside_files"
    reasons = {"tflm_person_vela": "the file that Vela was given", "coral_invalid": "custom operator"}
    for name, reason in reasons.items():
        found = profile(files / f"{name}.tflite")
        assert found["macs"]["core"] is None
        assert reason in found["notes"]["core"]
        assert found["refused"]["tflm"]
    assert profile(files / "ort_customop.onnx")["macs"]["core"] is None
    assert profile(files / "tflm_audio_pre_int8.tflite")["refused"]["tflm"] == {}
    assert profile(files / "tflm_dtln.tflite")["macs"]["core"] > 0


def test_a_rule_that_leaves_out_an_operator_with_weights_gives_no_verdict(shared):
    path = shared / "data" / "outside_files" / "seanet_transpose_conv0.tflite"
    assert evaluate_gate(path, {"macs": "20M"})["passed"]
    verdict = evaluate_gate(path, {"macs": "20M"}, rule="nessi-tflite")
    assert not verdict["passed"]
    assert (
        "TRANSPOSE_CONV (1) cannot be counted: not part of nessi-tflite: take --macs-rule core"
        in (verdict["checks"][0]["note"])
    )


def test_nessi_multiplies_outputs_by_the_last_dimension_of_the_input():
    """[1, 4, 8] through 32 weights to 10 outputs: the tool reads 8 inputs, the network 32."""
    op = Op("dense", weights=320, positions=1, input_width=8, output_elements=10)
    assert macs(op, "core") == 320
    assert macs(op, "nessi-tflite") == 80
    assert macs(Op("dense", weights=320, positions=1, output_elements=10), "nessi-tflite") == 320


def test_nessi_counts_the_bytes_of_every_constant_for_each_operator(shared):
    """KWS: 22,604 parameters, 588 of them biases of four bytes, and the two int32 sizes of a RESHAPE."""
    found = profile(shared / "data" / "reference_models" / "kws_ref_model.tflite")
    assert found["weight_bytes"] == 22_604 + 3 * 588
    assert found["nessi_memory_bytes"] == 22_604 + 3 * 588 + 8
    (check,) = [c for c in evaluate_gate(found, device="dcase2022")["checks"] if c["metric"] == "params"]
    assert (check["value"], check["rule"]) == (24_376, "nessi-tflite")
