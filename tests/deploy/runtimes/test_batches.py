"""How stacked samples become runs of a file: one batch, or inputs that lead with different sizes."""

from __future__ import annotations

import numpy as np
import pytest

from edgepress.deploy.runtimes.engine import batches_of, lengths_of, samples, stacked
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.runtimes.tensor_details import TensorDetails
from edgepress.deploy.verify.inputs import random_inputs
from edgepress.models.errors import UsageError

onnx = pytest.importorskip("onnx")


def details(*shapes):
    return [TensorDetails("", shape, "float32") for shape in shapes]


def test_inputs_of_one_batch_are_filled_up_and_cut_back():
    x = np.arange(5, dtype=np.float32)[:, None]
    inputs, outputs = details((2, 1)), details((2, 1), (3,))
    cuts = [cut[0].ravel().tolist() for cut in samples([x], inputs)]
    assert cuts == [[0, 1], [2, 3], [4, 0]]
    per_sample = [np.full((2, 1), run) for run in range(3)]
    whole = [np.arange(3) + 10 * run for run in range(3)]
    made = stacked([per_sample, whole], [x], inputs, outputs)
    assert made[0].ravel().tolist() == [0, 0, 1, 1, 2], "five of six rows"
    assert made[1].tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22], "what leads with no batch keeps all its rows"


def test_inputs_that_lead_with_different_sizes_are_cut_into_sets():
    inputs = details((1, 3), (2, 1), ())
    assert lengths_of(2, inputs) == [2, 4, 2]
    x, state, rate = np.zeros((2, 3)), np.arange(4.0)[:, None], np.array([8.0, 16.0])
    cuts = list(samples([x, state, rate], inputs))
    assert [cut[1].ravel().tolist() for cut in cuts] == [[0, 1], [2, 3]]
    assert [(cut[2].shape, float(cut[2])) for cut in cuts] == [((), 8), ((), 16)]
    with pytest.raises(UsageError, match=r"have 2, 3, 2 rows; of this file,.*, a sample is 1, 2, 1 rows"):
        batches_of([2, 3, 2], inputs)
    with pytest.raises(UsageError, match="different numbers of samples"):
        batches_of([2, 3], details((1, 3), (1, 3)))


@pytest.fixture(params=["free", "fixed"])
def recurrent(request, tmp_path):
    """y = x + the sum of the state; the new state is the state + rate; flat is y without its batch."""
    from onnx import TensorProto, helper

    kind, batch = TensorProto.FLOAT, "n" if request.param == "free" else 1
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ReduceSum", ["state"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
        helper.make_node("Add", ["state", "rate"], ["new"]),
        helper.make_node("Squeeze", ["y"], ["flat"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cell",
        [value("x", kind, [batch, 3]), value("state", kind, [2, batch, 1]), value("rate", kind, [])],
        [value("y", kind, [batch, 3]), value("new", kind, [2, batch, 1]), value("flat", kind, [3])],
    )
    path = tmp_path / "cell.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("isolate", [True, False])
def test_a_recurrent_file_runs_set_by_set(recurrent, isolate):
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    state = np.array([10, 20, 100, 200], np.float32).reshape(4, 1, 1)
    rate = np.array([1, 7], np.float32)
    with open_session(recurrent, "onnxruntime", isolate=isolate) as session:
        y, new, flat = session.run(x, state, rate)
        noise = random_inputs(session, 300)
        many = session.run(*noise.arrays)
    assert y.tolist() == [[31, 32, 33], [304, 305, 306]]
    assert new.ravel().tolist() == [11, 21, 107, 207]
    assert flat.tolist() == [31, 32, 33, 304, 305, 306]
    assert [made.shape for made in many] == [(300, 3), (600, 1, 1), (900,)]


def test_the_shape_of_a_transposed_convolution_may_be_an_input(shared):
    path = shared / "data" / "outside_files" / "seanet_transpose_conv0.tflite"
    pytest.importorskip("tflite_micro")
    with open_session(path, "tflm") as session:
        inputs = random_inputs(session, 3).arrays
        rows = [max(1, entry.shape[0]) for entry in session.inputs]
        whole = session.run(*inputs)
        parts = [
            session.run(*(a[k * size : (k + 1) * size] for a, size in zip(inputs, rows, strict=True))) for k in range(3)
        ]
    assert rows == [4, 1]
    assert np.array_equal(whole, np.concatenate(parts))
