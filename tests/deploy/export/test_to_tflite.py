"""TFLite files: our integers to the bit, nothing float, every runtime near fake quantization."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

import edgepress.deploy.export.export
from edgepress.compress.quantize import quantization_json, quantize_model, restore_quantized, unfold
from edgepress.compress.quantize.scheme import quantize_weight, weight_scales
from edgepress.deploy.artifact import read_manifest
from edgepress.deploy.export.export import export_model
from edgepress.deploy.firmware.host import HostProgram
from edgepress.deploy.firmware.sources import firmware
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.tflite.reader import read_tflite
from edgepress.models.errors import ParityError, UsageError
from tests.compress.quantize.quantized_networks import Residual, random_network, random_networks, trained_like

pytest.importorskip("litert_torch")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    net, x = trained_like(Residual), torch.randn(24, 2, 40, 32, generator=torch.Generator().manual_seed(1))
    quantized = quantize_model(net, x[:1], [x[:8], x[8:16]])
    path = tmp_path_factory.mktemp("tflite") / "net.tflite"
    return net, x, quantized, export_model(quantized, x[:1], path, samples=x[16:])


def test_nothing_is_float_and_nothing_is_transposed(exported) -> None:
    graph = read_tflite(exported[3].path).subgraphs[0]
    assert {tensor.dtype for tensor in graph.tensors} <= {"int8", "int32"}
    operators = [operator.code for operator in graph.operators]
    assert not {"TRANSPOSE", "QUANTIZE", "DEQUANTIZE", "RELU"} & set(operators)
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "CONCATENATION", "MEAN", "FULLY_CONNECTED"} <= set(operators)
    assert graph.tensors[graph.inputs[0]].shape == (1, 40, 32, 2)


def test_the_file_holds_our_ranges_to_the_bit(exported) -> None:
    _, _, quantized, artifact = exported
    found = {}
    for tensor in read_tflite(artifact.path).subgraphs[0].tensors:
        if tensor.data is None:
            found[tensor.name] = (np.float32(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0]))
    ours = {point.key: quantized.quantizer(point).integers() for point in quantized.points.points}
    for key, integers in ours.items():
        assert found[key] == (integers.scale, integers.zero_point), key
    assert {name: entry["scale"] for name, entry in artifact.manifest["ranges"].items()} == {
        name: float(scale) for name, (scale, _) in found.items()
    }


def test_weights_and_biases_are_those_of_fake_quantization(exported) -> None:
    _, _, quantized, artifact = exported
    tensors = {tensor.name: tensor for tensor in read_tflite(artifact.path).subgraphs[0].tensors}
    weight = quantized.model.get_parameter("stem.0.weight").detach().numpy()
    bias = quantized.model.get_parameter("stem.0.bias").detach().numpy()
    given = next(p for p in quantized.points.points if p.key == "norm/conv2d")
    scales = weight_scales(weight, 0, bias, quantized.quantizer(given).integers().scale)
    stored = tensors["stem.2/relu.weight"]
    assert np.array_equal(stored.quantization.scale, scales)
    assert stored.quantization.axis == 0
    integers = np.frombuffer(stored.data, np.int8).reshape(8, 3, 3, 2)
    assert np.array_equal(integers, quantize_weight(weight, scales, 0).transpose(0, 2, 3, 1))
    assert np.array_equal(
        tensors["stem.2/relu.bias"].quantization.scale, quantized.quantizer(given).integers().scale * scales
    )
    assert tensors["depthwise/conv2d.weight"].quantization.axis == 3


def test_every_runtime_is_near_fake_quantization(exported) -> None:
    parity = read_manifest(exported[3].path)["parity"]
    assert parity["samples"] == 8
    ran = {name: figures for name, figures in parity["runtimes"].items() if "skipped" not in figures}
    assert {"litert", "litert-reference"} <= set(ran)
    assert all(figures["max_lsb"] <= 3 and figures["mean_lsb"] < 0.5 for figures in ran.values())


def test_a_checkpoint_exports_the_same_bytes(exported, tmp_path: Path) -> None:
    net, x, quantized, artifact = exported
    again = restore_quantized(unfold(quantized, net), x[:1], quantization_json(quantized))
    second = export_model(again, x[:1], tmp_path / "again.tflite", verify=False)
    assert second.path.read_bytes() == artifact.path.read_bytes()
    assert second.manifest["parity"] is None


def test_float_inputs_and_dense_layers_by_choice(exported, tmp_path: Path) -> None:
    _, x, quantized, _ = exported
    artifact = export_model(
        quantized, x[:1], tmp_path / "f.tflite", float_io=True, per_tensor_dense=True, samples=x[16:]
    )
    graph = read_tflite(artifact.path).subgraphs[0]
    assert [graph.tensors[i].dtype for i in (*graph.inputs, *graph.outputs)] == ["float32", "float32"]
    dense = next(tensor for tensor in graph.tensors if tensor.name == "head/linear.weight")
    assert dense.quantization.scale.shape == (1,)
    assert not quantized.per_tensor_dense, "the given network is untouched"


def test_layers_in_float_and_in_16_bits_are_declared(exported, tmp_path: Path) -> None:
    net, x, *_ = exported
    mixed = quantize_model(net, x[:1], [x[:16]], exceptions={"stem": "float", "depthwise": "a16w8"})
    artifact = export_model(mixed, x[:1], tmp_path / "mixed.tflite", samples=x[16:])
    assert artifact.manifest["float_islands"] == ["CONV_2D (stem.2/relu)"]
    dtypes = [tensor.dtype for tensor in read_tflite(artifact.path).subgraphs[0].tensors]
    assert "int16" in dtypes
    assert "int64" in dtypes
    assert "float32" in dtypes


def test_a_padded_value_of_another_width_is_converted(tmp_path: Path) -> None:
    """The converter pads by an operator of its own: a value without a name, of 16 bits, before a layer of 8."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()
    x = torch.randn(32, 3, 8, 8)
    mixed = quantize_model(net, x[:1], [x], exceptions={"0": "a16w8"})
    artifact = export_model(mixed, x[:1], tmp_path / "mixed.tflite", samples=x)  # within 3 LSB, or it is an error
    operators = {operator.code for operator in read_tflite(artifact.path).subgraphs[0].operators}
    assert {"PAD", "QUANTIZE"} <= operators


def test_a_float_module_gives_an_fp32_file(exported, tmp_path: Path) -> None:
    net, x, *_ = exported
    artifact = export_model(net, x[:1], tmp_path / "float.tflite", samples=x[:4])
    assert artifact.manifest["scheme"] == "float32"
    with open_session(artifact.path, "litert") as session, torch.no_grad():
        assert np.allclose(session.run(x[:4].numpy()), net(x[:4]).numpy(), atol=1e-4)


def test_an_existing_file_stays_unless_asked(exported) -> None:
    _, x, quantized, artifact = exported
    with pytest.raises(UsageError, match="exists already"):
        export_model(quantized, x[:1], artifact.path)
    with pytest.raises(UsageError, match="format = 'pb' is unknown"):
        export_model(quantized, x[:1], artifact.path.with_name("x"), format="pb")


def test_a_wrong_file_is_not_written(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, x, quantized, _artifact = exported
    right = edgepress.deploy.export.export._network

    def wrong(*args):
        network = right(*args)
        return replace(network, reference=lambda batch: network.reference(batch) + 1)

    monkeypatch.setattr(edgepress.deploy.export.export, "_network", wrong)
    with pytest.raises(ParityError, match=r"departs from the network: litert-reference by max_lsb .*allowed are 3"):
        export_model(quantized, x[:1], tmp_path / "wrong.tflite")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_traced_is_refused_with_its_reason(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(UsageError, match="cannot trace Branching"):
        export_model(Branching(), torch.ones(1, 3), tmp_path / "x.tflite")


@pytest.mark.slow
def test_the_published_cp_mobile_names_its_scene_everywhere(shared: Path, tmp_path: Path) -> None:
    """Trained weights, real audio, GRN in integers: ten of ten seconds are a metro station, as in float."""
    from safetensors.torch import load_file

    from edgepress.models.checkpoints.registry import build
    from edgepress.models.tasks.front_ends.log_mel import MEL23, log_mel

    net = build("cp_mobile", base_channels=32, channels_multiplier=2.3, expansion_rate=3.0, n_blocks=(3, 2, 1))
    net.load_state_dict(load_file(shared / "data/golden/cp_mobile_tau22.safetensors"))
    waveforms = np.load(shared / "data/golden/logmel.npz", allow_pickle=False)["waveform_32k"]
    x = torch.from_numpy(log_mel(waveforms, MEL23))
    quantized = quantize_model(net.eval(), x[:1], [torch.cat([x, x.roll(13, 3), x.roll(29, 3)])])
    for format in ("tflite", "onnx"):
        artifact = export_model(quantized, x[:1], tmp_path / f"net.{format}", format=format, samples=x)
        assert artifact.manifest["float_islands"] == []
        ran = {n: f for n, f in artifact.manifest["parity"]["runtimes"].items() if "skipped" not in f}
        for runtime in ran:
            with open_session(artifact.path, runtime) as session:
                assert (session.run(x.numpy()).argmax(1) == 3).all(), runtime
    kinds = [operator.code for operator in read_tflite(tmp_path / "net.tflite").subgraphs[0].operators]
    assert not {"TRANSPOSE", "DEQUANTIZE", "ABS", "SQRT", "DIV"} & set(kinds)
    if shutil.which("cc") is None or find_spec("tflite_micro") is None:
        return
    with open_session(tmp_path / "net.tflite", "tflm") as session:
        (raw,) = session.quantize(x.numpy())
        expected = session.run_integer(raw)
    for kernels in ("plain", "dsp"):
        with HostProgram(firmware(tmp_path / "net.tflite"), kernels=kernels) as program:
            given = program.run([raw[:, None]])[0]
        np.testing.assert_array_equal(given.reshape(expected.shape), expected)


def _holds(recipe: list, folder: Path) -> None:
    net, x = random_network(recipe)
    quantized = quantize_model(net, x[:1], [x[:16]])
    for format in ("tflite", "onnx"):
        path = folder / f"net.{format}"
        artifact = export_model(quantized, x[:1], path, format=format, samples=x[16:], overwrite=True)
        assert artifact.manifest["float_islands"] == []
        for figures in artifact.manifest["parity"]["runtimes"].values():
            assert "skipped" in figures or figures["max_lsb"] <= 3.01 or figures.get("amplified")


@given(recipe=random_networks())
@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_two_random_networks_hold(recipe: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    _holds(recipe, tmp_path_factory.mktemp("random"))


@pytest.mark.slow
@given(recipe=random_networks())
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_thirty_random_networks_hold(recipe: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    _holds(recipe, tmp_path_factory.mktemp("random"))
