"""Reading .onnx: guarded against damage, size and other files."""

from __future__ import annotations

import random
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.deploy.onnx_files.reader import LARGEST_FILE_BYTES, attributes, read_onnx
from edgepress.models.errors import UsageError


def small_model(size=3, external=False, batch=1):
    weight = numpy_helper.from_array(np.ones((2, size), np.float32), "w")
    if external:
        weight.data_location = TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"
    node = helper.make_node("Gemm", ["x", "w"], ["y"], "dense", transB=1, alpha=2.0)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_shapes_and_attributes():
    file = read_onnx(small_model().SerializeToString())
    assert file.shapes == {"x": (1, 3), "y": (1, 2), "w": (2, 3)}
    assert file.element_bytes == {"x": 4, "y": 4, "w": 4}
    assert attributes(file.model.graph.node[0]) == {"transB": 1, "alpha": 2.0}


def test_open_sizes_are_one():
    file = read_onnx(small_model(batch="N").SerializeToString())
    assert file.dynamic == ("x[0]",)
    assert file.shapes["y"] == (1, 2)


def test_old_files_keep_weights_out_of_their_inputs():
    """IR 3, as in a model that ONNX Runtime's package ships; the runtime takes it, and so does the count."""
    old = small_model()
    old.ir_version = 3
    assert read_onnx(old.SerializeToString()).shapes["w"] == (2, 3)


def test_external_data_is_refused():
    with pytest.raises(UsageError, match=r"keeps tensor 'w' in another file, which is not followed"):
        read_onnx(small_model(external=True).SerializeToString())


def test_files_that_are_no_model(tmp_path):
    cases = {
        "empty": (b"", "is empty"),
        "text": (b"hello " * 50, "cannot be parsed|no .onnx file"),
        "zip": (b"PK\x03\x04" + bytes(100), "cannot be parsed|no .onnx file"),
        "zeros": (bytes(1000), "cannot be parsed|no .onnx file"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=message) as caught:
            read_onnx(tmp_path / name)
        assert "\n" not in str(caught.value)
    with open(tmp_path / "large", "wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    with pytest.raises(UsageError, match="files above"):
        read_onnx(tmp_path / "large")


def test_the_checker_speaks_in_one_sentence():
    model = small_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(UsageError, match="the ONNX checker says") as caught:
        read_onnx(model.SerializeToString())
    assert "\n" not in str(caught.value)


def test_deeply_nested_graphs_are_refused():
    graph = small_model().graph
    for _ in range(30):
        node = helper.make_node("If", ["c"], ["y"])
        node.attribute.append(helper.make_attribute("then_branch", graph))
        graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(UsageError, match=r"more than 20 deep|damaged"):
        read_onnx(model.SerializeToString())


def test_a_thousand_mutations():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["y"]),
    ]
    weight = numpy_helper.from_array(np.ones((4, 2, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 1, 1])],
        [weight],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    assert onnx.load_from_string(data).graph.node
    generator = random.Random(3)
    refused = []
    for index in range(1000):
        damaged = bytearray(data)
        if index % 4 == 0:
            del damaged[generator.randrange(len(data)) :]
        else:
            for _ in range(generator.choice((1, 2, 8))):
                damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        start = time.monotonic()
        try:
            read_onnx(bytes(damaged))
        except UsageError as error:
            refused.append(str(error))
        assert time.monotonic() - start < 1
    assert 100 < len(refused) < 1000
    assert not any("\n" in message for message in refused)
