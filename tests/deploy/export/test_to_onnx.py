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

from edgepress.benchmarks.experiments.networks.float_operators import float_operators_of_onnx
from edgepress.compress.quantize import quantize_model
from edgepress.deploy.export.export import export_model
from edgepress.deploy.export.to_onnx import OPSET
from edgepress.deploy.onnx_files import saturation
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.verify.known_defects import defects_in
from edgepress.models.errors import UsageError
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
    ours = {(float(entry.scale), entry.zero_point + 128) for entry in integers}
    assert pairs == ours
    assert {entry.op_type: 0 for entry in graph.node}.keys() >= {"Conv", "QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize(("types", "activations", "weights"), [("u8s8", 0, 128), ("s8s8", 128, 128)])
def test_the_types_of_integers_hold_the_same_values_to_the_bit(
    exported, types: str, activations: int, weights: int, tmp_path: Path
) -> None:
    _, x, quantized, made = exported
    other = export_model(quantized, x[:1], tmp_path / "s.onnx", samples=x[16:], onnx_integers=types, verify=False)
    ranges = [
        {name: (entry["scale"], entry["zero_point"] + shift) for name, entry in file.manifest["ranges"].items()}
        for file, shift in ((made, 0), (other, activations))
    ]
    assert ranges[0] == ranges[1]
    graphs = [onnx.load(file.path).graph for file in (made, other)]
    weighed = [_weights(graph) for graph in graphs]
    for name, (values, zero_point) in weighed[0].items():
        assert values.dtype == np.uint8
        assert np.all(zero_point == 128)
        assert np.array_equal(values.astype(int) - weights, weighed[1][name][0].astype(int))
        assert np.all(weighed[1][name][1] == 128 - weights)


def _weights(graph: onnx.GraphProto) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer -> integers and zero points of its weights."""
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return {
        layer.output[0]: tuple(constants[makers[layer.input[1]].input[position]] for position in (0, 2))
        for layer in layers
    }


def test_sums_of_large_products_are_right_on_every_processor(tmp_path: Path) -> None:
    """8 products of 255 steps with 127 steps: the sum of two is 64,770, more than saturating 16 bits can hold."""
    net = torch.nn.Linear(8, 2)
    with torch.no_grad():
        net.weight.fill_(1.0)
        net.bias.zero_()
    x = torch.linspace(0, 1, 64).reshape(8, 8)
    artifact = export_model(quantize_model(net.eval(), x[:1], [x]), x[:1], tmp_path / "sum.onnx", verify=False)
    with open_session(artifact.path, "onnxruntime") as session:
        top = session.run(np.ones((1, 8), np.float32))
        assert top == pytest.approx(x.sum(1).max().item(), abs=session.output.scale)


def test_a_file_that_saturates_on_this_processor_is_named(exported, tmp_path: Path, monkeypatch) -> None:
    _, x, quantized, made = exported
    signed = export_model(quantized, x[:1], tmp_path / "s.onnx", onnx_integers="s8s8", verify=False)
    monkeypatch.setattr(saturation, "has_vnni", lambda: False)
    assert defects_in(made.path, "onnxruntime") == []
    (said,) = defects_in(signed.path, "onnxruntime")
    assert "sums of 4 layers with int8 weights saturate at 16 bits; export with --onnx-integers u8u8" in said
    monkeypatch.setattr(saturation, "has_vnni", lambda: True)
    assert defects_in(signed.path, "onnxruntime") == []


def test_unknown_types_are_refused_with_the_known_ones(exported, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="onnx_integers = 's8u8' is unknown: allowed are u8u8, u8s8, s8s8"):
        export_model(exported[2], exported[1][:1], tmp_path / "s.onnx", onnx_integers="s8u8")


def test_weights_are_symmetric_and_biases_int32_with_the_product_scale(exported) -> None:
    graph = onnx.load(exported[3].path).graph
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 4
    for layer in layers:
        source, weight, bias = (makers[name] for name in layer.input)
        assert constants[weight.input[0]].dtype == np.uint8
        assert constants[bias.input[0]].dtype == np.int32
        assert np.abs(constants[weight.input[0]].astype(int) - 128).max() <= 127
        assert np.array_equal(constants[bias.input[1]], constants[source.input[1]] * constants[weight.input[1]])
    assert not any(array.dtype == np.float32 and array.size > 16 for array in constants.values())


def test_onnx_runtime_uses_integer_kernels_and_any_batch(exported, tmp_path: Path) -> None:
    _, x, quantized, artifact = exported
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
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
    """1 / sqrt is one power in ONNX, and a small beta makes a sum look like the product before it."""
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
    assert not {node.op_type for node in nodes} & {"Sqrt", "Reciprocal", "Relu"}  # saturation does the last
    behind = {name: node for node in nodes for name in node.input}
    constants = {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(made.path).graph.initializer}
    powers = [node for node in nodes if node.op_type == "Pow"]
    assert [float(constants[node.input[1]]) for node in powers] == [-0.5, -0.5]
    assert {behind[node.output[0]].op_type for node in powers} <= {"Clip", "QuantizeLinear"}
    limited = [behind[node.output[0]] for node in nodes if node.op_type == "Clip"]
    assert {constants[node.input[2]].dtype for node in limited} == {np.dtype(np.int16)}  # and of 8 bits, none
    assert defects_in(made.path, "openvino") == []
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


class Block(torch.nn.Module):
    """Norms over the last axis with and without weights, behind a product and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = torch.nn.Conv2d(3, 16, 4, 4), torch.nn.LayerNorm(16)
        self.up, self.down = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)
        self.last, self.head = torch.nn.LayerNorm(16, elementwise_affine=False), torch.nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = y + self.down(torch.relu(self.up(self.norm(y))))
        return self.head(self.last(y).mean(1))


@torch.no_grad()
def test_layer_norms_are_one_operator(tmp_path: Path) -> None:
    """ONNX Runtime has no 16-bit kernels for the parts that TFLite files hold."""
    torch.manual_seed(0)
    net = trained_like(Block)
    net.norm.weight.uniform_(0.5, 1.5)
    net.norm.bias.normal_()
    x = torch.randn(32, 3, 16, 16)
    quantized = quantize_model(net, x[:1], [x[:16]])
    made = export_model(quantized, x[:1], tmp_path / "net.onnx", samples=x[16:])
    kinds = Counter(node.op_type for node in onnx.load(made.path).graph.node)
    assert kinds["LayerNormalization"] == 2
    assert not kinds.keys() & {"Reciprocal", "Sqrt", "Sub", "Div", "Pow"}
    assert kinds["ReduceMean"] == 1, "the mean over positions"
    with open_session(made.path, "onnxruntime") as session:
        given = torch.from_numpy(session.run(x.numpy()))
    steps = (given - quantized.model(x)).abs() / session.output.scale
    assert float(steps.max()) <= 2
    error = (given - net(x)).square().mean()
    assert float(error) < 1.3 * float((quantized.model(x) - net(x)).square().mean())


class Around(torch.nn.Module):
    """A function between two convolutions."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.function, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), function, torch.nn.Conv2d(8, 4, 1)
        for tensor in getattr(function, "parameters", tuple)():
            torch.nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.nn.GroupNorm(2, 8), {"InstanceNormalization": 1, "Mul": 1, "Add": 1}),
        (torch.nn.GroupNorm(1, 8, affine=False), {"InstanceNormalization": 1}),
        (torch.nn.InstanceNorm2d(8, affine=True), {"InstanceNormalization": 1}),
        (lambda y: torch.nn.functional.normalize(y, dim=1), {"ReduceL2": 1}),
        (
            lambda y: y + torch.cosine_similarity(y[:, :4], y[:, 4:], dim=1).unsqueeze(1),
            {"ReduceL2": 2, "Mul": 3, "ReduceMean": 1},
        ),
        (lambda y: y.log_softmax(1), {"LogSoftmax": 1}),
        (lambda y: y + y.logsumexp(1, keepdim=True), {"ReduceLogSumExp": 1}),
        (torch.nn.Hardtanh(), {}),
        (lambda y: y.clamp(-0.3, 0.7), {}),
    ],
)
@torch.no_grad()
def test_no_more_float_operators_than_a_plain_export_leaves(function, expected, tmp_path: Path) -> None:
    """One operator for each norm that ONNX has one for; a limit that integers have anyway keeps no layer in float."""
    net, x = Around(function).eval(), torch.randn(16, 3, 6, 10, generator=torch.Generator().manual_seed(1))
    quantized = quantize_model(net, x[:1], [x])
    made = export_model(quantized, x[:1], tmp_path / "net.onnx", samples=x)
    assert float_operators_of_onnx(made.path) == expected
    with open_session(made.path, "onnxruntime") as session:
        error = (torch.from_numpy(session.run(x.numpy())) - net(x)).square().mean()
    assert float(error) < 1.3 * float((quantized.model(x) - net(x)).square().mean())


@torch.no_grad()
def test_a_layer_that_is_kept_in_float_runs_in_float(tmp_path: Path) -> None:
    """ONNX Runtime rounds float weights between two pairs to int8, and computes in them."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU())
    net, x = net.append(torch.nn.Conv2d(16, 4, 1)).eval(), torch.randn(16, 3, 6, 10)
    quantized = quantize_model(net, x[:1], [x], exceptions={"2": "float"})
    made = export_model(quantized, x[:1], tmp_path / "net.onnx", samples=x)
    assert made.manifest["parity"]["runtimes"]["onnxruntime"]["max_lsb"] <= 1
    assert set(float_operators_of_onnx(made.path)) & {"Conv", "FusedConv"}


class Differences(torch.nn.Module):
    """Differences of two values, from a number and of constants, one value taken away twice; tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(2, 4, 3)
        self.register_buffer("offset", torch.tensor([0.5, -0.25, 0.125, -1.0]).reshape(4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.a(x), self.b(x)
        return (torch.tanh(a) - b) * (1.0 - a) + (b - self.offset) * (a - b) - 0.5


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.out = torch.nn.GRU(8, 12, batch_first=True), torch.nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.cells(x)[0][:, -1])


@pytest.mark.parametrize(("kind", "shape"), [(Differences, (24, 2, 10, 8)), (Recurrent, (24, 6, 8))])
def test_what_onnx_runtime_has_no_integer_kernel_for_is_written_with_what_it_has(kind, shape, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = kind().eval(), torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    quantized = quantize_model(net, x[:1], [x])
    artifact = export_model(quantized, x[:1], tmp_path / "net.onnx", samples=x)
    assert float_operators_of_onnx(artifact.path) == {}
    assert artifact.manifest["float_islands"] == []
    figures = artifact.manifest["parity"]["runtimes"]["onnxruntime"]
    assert figures["max_lsb"] <= 1
