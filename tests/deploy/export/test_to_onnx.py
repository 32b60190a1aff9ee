"""ONNX files: the same integers as in TFLite, integer kernels in ONNX Runtime, a free batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from edgepress.compress.quantize import quantize_model
from edgepress.deploy.export.export import export_model
from edgepress.deploy.export.to_onnx import OPSET
from edgepress.deploy.runtimes.sessions import open_session
from tests.compress.quantize.quantized_networks import Residual, trained_like

pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    net, x = trained_like(Residual), torch.randn(24, 2, 40, 32, generator=torch.Generator().manual_seed(1))
    quantized = quantize_model(net, x[:1], [x[:8], x[8:16]])
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    return net, x, quantized, export_model(quantized, x[:1], path, format="onnx", samples=x[16:])


def test_the_file_holds_our_ranges_to_the_bit(exported) -> None:
    graph = onnx.load(exported[3].path).graph
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    pairs = {
        (float(constants[n.input[1]]), int(constants[n.input[2]])) for n in graph.node if n.op_type == "QuantizeLinear"
    }
    quantized = exported[2]
    integers = [quantized.quantizer(point).integers() for point in quantized.points.points]
    ours = {(float(entry.scale), entry.zero_point) for entry in integers}
    assert pairs == ours
    assert {entry.op_type: 0 for entry in graph.node}.keys() >= {"Conv", "QuantizeLinear", "DequantizeLinear"}


def test_uint8_activations_are_the_same_values_to_the_bit(exported, tmp_path: Path) -> None:
    _, x, quantized, signed = exported
    unsigned = export_model(quantized, x[:1], tmp_path / "u.onnx", format="onnx", samples=x[16:], unsigned=True)
    ranges = [
        {name: (entry["scale"], entry["zero_point"] - shift) for name, entry in made.manifest["ranges"].items()}
        for made, shift in ((signed, 0), (unsigned, 128))
    ]
    assert ranges[0] == ranges[1]
    dtypes = {
        numpy_helper.to_array(entry).dtype
        for entry in onnx.load(unsigned.path).graph.initializer
        if entry.name.endswith("_zero_point")
    }
    assert np.dtype(np.uint8) in dtypes
    with open_session(signed.path, "onnxruntime") as one, open_session(unsigned.path, "onnxruntime") as other:
        steps = (one.run(x.numpy()) - other.run(x.numpy())) / one.output.scale
        assert np.abs(steps).max() <= 1
        assert one.output.scale == other.output.scale


def test_weights_are_int8_and_biases_int32_with_the_product_scale(exported) -> None:
    graph = onnx.load(exported[3].path).graph
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 4
    for layer in layers:
        source, weight, bias = (makers[name] for name in layer.input)
        assert constants[weight.input[0]].dtype == np.int8
        assert constants[bias.input[0]].dtype == np.int32
        assert np.abs(constants[weight.input[0]].astype(int)).max() <= 127
        assert np.array_equal(constants[bias.input[1]], constants[source.input[1]] * constants[weight.input[1]])
    assert not any(array.dtype == np.float32 and array.size > 16 for array in constants.values())


def test_onnx_runtime_uses_integer_kernels_and_any_batch(exported, tmp_path: Path) -> None:
    _, x, quantized, artifact = exported
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    # ONNX Runtime turns int8 activations into uint8 on x86 only where one operator reads them; asked for int8, it
    # melts every convolution, as on ARM.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == 3
    assert "Conv" not in kinds
    (y,) = session.run(None, {session.get_inputs()[0].name: x[:7].numpy()})
    with torch.no_grad():
        assert y.shape == (7, 3)
        assert np.abs(y - quantized.model(x[:7]).numpy()).max() < 0.1


def test_the_checker_the_opset_and_no_trace_of_this_machine(exported) -> None:
    model = onnx.load(exported[3].path)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(Path.home()).encode() not in exported[3].path.read_bytes()


def test_parity_is_in_the_manifest(exported) -> None:
    figures = exported[3].manifest["parity"]["runtimes"]["onnxruntime"]
    assert figures["max_lsb"] <= 3
    assert figures["mean_lsb"] < 0.5


def test_layers_in_float_and_16_bits(exported, tmp_path: Path) -> None:
    net, x, *_ = exported
    mixed = quantize_model(net, x[:1], [x[:16]], exceptions={"stem": "float", "depthwise": "a16w8"})
    artifact = export_model(mixed, x[:1], tmp_path / "mixed.onnx", format="onnx", samples=x[16:])
    assert len(artifact.manifest["float_islands"]) == 1
    assert "Conv" in artifact.manifest["float_islands"][0]
    dtypes = {numpy_helper.to_array(entry).dtype for entry in onnx.load(artifact.path).graph.initializer}
    assert np.dtype(np.int16) in dtypes


def test_response_norms_are_rounded_where_fake_quantization_rounds(tmp_path: Path) -> None:
    """1 / sqrt is one operator of two in ONNX, and a small beta makes a sum look like the product before it."""
    from edgepress.models.zoo.cp_mobile import GRN

    class Normalised(torch.nn.Sequential):
        def __init__(self) -> None:
            super().__init__(
                torch.nn.Conv2d(2, 8, 3, padding=1),
                GRN(),
                torch.nn.ReLU(),
                torch.nn.AdaptiveAvgPool2d(1),
                torch.nn.Flatten(),
                torch.nn.Linear(8, 4),
            )

    net, x = trained_like(Normalised), torch.randn(64, 2, 12, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net[1].gamma.fill_(0.5)
        net[1].beta.fill_(5e-4 * float(net[1](net[0](x)).abs().max()))
    quantized = quantize_model(net, x[:1], [x[:32]])
    made = export_model(quantized, x[:1], tmp_path / "net.onnx", format="onnx", samples=x[32:])
    nodes = onnx.load(made.path).graph.node
    readers = {name: node.op_type for node in nodes for name in node.input}
    assert [readers[node.output[0]] for node in nodes if node.op_type == "Sqrt"] == ["Reciprocal", "Reciprocal"]
    assert [node.op_type for node in nodes if node.op_type in ("Relu", "Clip")] == []  # saturation does it
    with torch.no_grad():
        expected = quantized.model(x[32:]).numpy()
    with open_session(made.path, "onnxruntime") as session:
        steps = np.abs(session.run(x[32:].numpy()) - expected) / session.output.scale
    assert steps.max() < 1.5
    assert steps.mean() < 0.05


def test_a_float_module_gives_an_fp32_file(exported, tmp_path: Path) -> None:
    net, x, *_ = exported
    artifact = export_model(net, x[:1], tmp_path / "float.onnx", format="onnx", samples=x[:4])
    assert artifact.manifest["scheme"] == "float32"
    assert artifact.manifest["ranges"] == {}
    with open_session(artifact.path, "onnxruntime") as session, torch.no_grad():
        assert np.allclose(session.run(x[:6].numpy()), net(x[:6]).numpy(), atol=1e-5)
