"""Files of networks that people bring: what they return, dead values, runtimes that refuse, abort or are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgepress.compress.quantize import quantize_model
from edgepress.compress.quantize.fold import fold
from edgepress.compress.quantize.settle import HIGHEST_RATIO, settle_scales
from edgepress.deploy.artifact import write_manifest
from edgepress.deploy.export.culprit import find_culprit
from edgepress.deploy.export.export import _noise, export_model
from edgepress.deploy.export.to_tflite import run_outside
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.tflite.objects import read_objects
from edgepress.deploy.tflite.reader import read_tflite
from edgepress.deploy.tflite.writer import pack
from edgepress.models.errors import RuntimeFailure, UsageError

pytest.importorskip("litert_torch")


class Net(nn.Module):
    def __init__(self, function: Callable[..., Any], **parts: nn.Module):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, image: torch.Tensor) -> Any:
        return self.function(self, image)


def _quantized(net: nn.Module, *shape: int) -> tuple[Any, torch.Tensor]:
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))
    return quantize_model(net.eval(), x[:1], [x]), x


def _dead() -> nn.Module:
    """A ReLU that no input passes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net[0].bias.data.fill_(-50)  # type: ignore[operator]
    net[2].bias.data.uniform_(-0.05, 0.05)  # type: ignore[operator]
    return net


@pytest.mark.slow
@pytest.mark.parametrize("integers", [True, False])
def test_colour_images_flattened_before_a_dense_layer(integers: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = {"c": nn.Conv2d(3, 4, 3), "l": nn.Linear(36, 5)}
    net = Net(lambda s, x: s.l(nn.functional.max_pool2d(torch.relu(s.c(x)), 2).view(len(x), -1)), **parts)
    quantized, x = _quantized(net, 3, 8, 8)
    for path in (tmp_path / "net.tflite", tmp_path / "net.onnx"):
        made = export_model(quantized if integers else net, x[:1], path, samples=x)
        assert made.format == path.suffix[1:]
        with open_session(path) as session, torch.no_grad():
            assert np.allclose(session.run(x.numpy()), net(x).numpy(), atol=0.1 if integers else 1e-5)


@pytest.mark.slow
def test_what_a_network_returns_keeps_its_names_and_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(lambda s, x: {"out": s.c(x), "more": (s.c(x).mean((2, 3)), None, x)}, c=nn.Conv2d(3, 4, 1))
    quantized, x = _quantized(net, 3, 5, 6)
    names = {"inputs": ["image"], "outputs": ["out", "more.0", "more.2"]}
    for path in (tmp_path / "net.tflite", tmp_path / "net.onnx"):
        assert export_model(quantized, x[:1], path).manifest["names"] == names
        with open_session(path) as session, torch.no_grad():
            got, wanted = session.run(x.numpy()), net(x)
        for a, b in zip(got, (wanted["out"], wanted["more"][0], wanted["more"][2]), strict=True):
            assert np.allclose(a, b.numpy(), atol=0.1)
    (signature,) = read_tflite((tmp_path / "net.tflite").read_bytes()).signatures
    assert [list(signature.inputs), list(signature.outputs)] == [names["inputs"], names["outputs"]]
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [v.name for v in graph.input] == names["inputs"]
    assert [v.name for v in graph.output] == names["outputs"]


@pytest.mark.slow
def test_files_of_tokens_are_compared_on_other_sentences_of_the_same_words() -> None:
    """One sentence says little of 16 bits' roundings, and words that the example lacks may be none."""
    tokens = torch.tensor([[7, 3, 9, 3, 40, 8]])
    (drawn,) = _noise((tokens,))
    assert drawn.shape == (16, 6)
    assert drawn.dtype == tokens.dtype
    assert torch.equal(drawn[:1], tokens)
    assert set(drawn.flatten().tolist()) == {3, 7, 8, 9, 40}
    assert len({tuple(row) for row in drawn.tolist()}) > 10


def test_tokens_go_into_a_file_that_counts_in_32_bits(tmp_path: Path) -> None:
    """torch's tokens have 64 bits, LiteRT-Torch's 32: the values by which tensors are found are the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 4), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))
    tokens = torch.arange(40).reshape(8, 5) % 9
    made = export_model(quantize_model(net.eval(), tokens[:1], [tokens]), tokens[:1], tmp_path / "net.tflite")
    assert {island.split()[0] for island in made.manifest["float_islands"]} <= {"EMBEDDING_LOOKUP", "RESHAPE"}
    with open_session(made.path) as session, torch.no_grad():
        assert session.input.dtype == "int32"
        assert np.allclose(session.run(tokens.numpy()), net(tokens).numpy(), atol=0.05)


def test_the_suffix_says_the_format(tmp_path: Path) -> None:
    net, x = nn.Linear(3, 2), torch.randn(1, 3)
    with pytest.raises(UsageError, match=r"format = 'tflite' does not go with path = '.*net\.onnx'.*\.tflite"):
        export_model(net, x, tmp_path / "net.onnx", format="tflite")
    with pytest.raises(UsageError, match=r"does not tell the format: end it in one of \.tflite, \.onnx"):
        export_model(net, x, tmp_path / "net.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_dead_value_gets_the_floor_that_its_layer_demands() -> None:
    x = torch.linspace(-1, 1, 2 * 12).reshape(8, 3)
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.5, -0.5], [0.25, 0.0, 0.0]]))  # type: ignore[operator]
        net[0].bias.fill_(-100)  # type: ignore[operator]
    quantized = quantize_model(net, x[:1], [x], method="minmax", bias_correction=False)
    given, dead = (quantized.quantizer(point).integers() for point in quantized.points.points)
    # [-1, 1] in 255 steps; weights of at most 1 in 127; at most 2^7 times the step of the output.
    floor = 2 / 255 * (1 / 127) / HIGHEST_RATIO
    assert float(given.scale) == pytest.approx(2 / 255)
    assert floor <= float(dead.scale) <= 1.01 * floor
    assert dead.zero_point == -128, "a ReLU's output is never negative"
    graph = quantized.float_module().graph
    assert settle_scales(quantized.model, graph, quantized.points) == [], "once is enough"
    quantized.quantizer(quantized.points.points[1]).set_range(0, 1e-9)  # as training may leave it
    settled = quantized.settled()
    assert settled is not quantized
    assert float(next(reversed(settled.integers().values())).scale) >= floor
    assert float(next(reversed(quantized.integers().values())).scale) < floor, "the given one is untouched"


@pytest.mark.slow
def test_a_file_that_its_runtime_cannot_load_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, x = _quantized(_dead(), 3, 8, 8)
    made = export_model(quantized, x[:1], tmp_path / "net.tflite")
    assert all("skipped" not in entry for entry in made.manifest["parity"]["runtimes"].values())
    monkeypatch.setattr("edgepress.compress.quantize.model.settle_scales", lambda *_: [])
    unsettled, _ = _quantized(_dead(), 3, 8, 8)
    with pytest.raises(RuntimeFailure, match=r"litert cannot run bad\.tflite, so that it was not written: .*prepare"):
        export_model(unsettled, x[:1], tmp_path / "bad.tflite")
    assert not (tmp_path / "bad.tflite").exists()
    written = export_model(unsettled, x[:1], tmp_path / "bad.tflite", device="cortex-m4")
    assert "skipped" in written.manifest["parity"]["runtimes"]["litert"], "TFLite Micro is what this class has"


def test_a_file_that_aborts_its_runtime_ends_no_process_of_ours(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    x = torch.randn(4, 6)
    path = tmp_path / "sum.tflite"
    export_model(quantize_model(Sum(), (x[:1], x[:1]), [(x, x)]), (x[:1], x[:1]), path, runtimes=("litert",))
    model = read_objects(path.read_bytes())
    graph = model.subgraphs[0]
    graph.tensors[int(graph.inputs[0])].quantization.scale = np.array([2.0**20], np.float32)
    graph.tensors[int(graph.outputs[0])].quantization.scale = np.array([1.0], np.float32)
    path.write_bytes(pack(model))
    write_manifest(path, {"format": "tflite", "scheme": "w8a8"})  # that it looks like ours proves nothing
    with pytest.raises(RuntimeFailure, match=r"float network does not run, .* crashed on this file"):
        run_outside("litert-reference", path.read_bytes(), [x[:1].numpy().astype(np.int8)] * 2)
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match="crashed on this file"), open_session(path, "litert") as session:
            session.run(x.numpy(), x.numpy())


def test_a_file_runs_outside_before_it_runs_here(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    export_model(nn.Linear(3, 2), torch.randn(1, 3), path, verify=False)
    for isolated in (True, False):
        with open_session(path, "litert") as session:
            assert session.isolated is isolated
            session.run(np.zeros((1, 3), np.float32))


@pytest.mark.slow
def test_a_defect_of_a_runtime_is_named_and_refuses_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(lambda s, x: s.l(s.c(x).sum((2, 3))), c=nn.Conv2d(1, 8, 3, padding=1), l=nn.Linear(8, 4))
    quantized, x = _quantized(net, 1, 8, 8)
    figures = export_model(quantized, x[:1], tmp_path / "sum.tflite").manifest["parity"]["runtimes"]
    (said,) = figures["litert-reference"]["known_defects"]
    assert "SUM of int8" in said
    assert "https://github.com/google-ai-edge/LiteRT/issues/4079" in said
    assert figures["litert"]["max_lsb"] <= 3
    assert "known_defects" not in figures["litert"]


def test_the_operator_that_a_converter_refuses_is_found_with_its_module() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x) + 1

    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), Odd()), nn.Linear(4, 2)).eval()
    module = fold(net, torch.randn(1, 3)).module

    def refuse(*targets: str) -> Callable[[Any], None]:
        def convert(part: Any) -> None:
            if any(target in str(node.target) for node in part.graph.nodes for target in targets):
                raise UsageError("no")

        return convert

    assert find_culprit(module, refuse("tanh")) == "tanh in module '2.1'"
    assert find_culprit(module, refuse("relu", "tanh")) == "relu in module '1'", "the first of several"
    assert find_culprit(module, refuse("nothing")) == ""


def test_what_no_litert_has_a_kernel_for_is_named_and_not_written(tmp_path: Path) -> None:
    """LiteRT-Torch makes a sort of StableHLO of topk, which its format knows and no interpreter runs."""
    net = nn.Sequential(nn.Flatten(), Net(lambda s, x: s.layer(x).topk(2)[0], layer=nn.Linear(12, 5))).eval()
    x = torch.randn(4, 3, 2, 2)
    for made_of in (net, quantize_model(net, x[:1], [x])):
        with pytest.raises(UsageError, match=r"no kernel for .* STABLEHLO_SORT; it is topk in module '1' that"):
            export_model(made_of, x[:1], tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())
    quantized = export_model(quantize_model(net, x[:1], [x]), x[:1], tmp_path / "net.onnx")
    assert quantized.manifest["parity"]["runtimes"]["onnxruntime"]["max_lsb"] <= 1


class Tied(nn.Module):
    """A table of tokens that is the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.dense = nn.Embedding(50, 16), nn.Linear(16, 16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(torch.relu(self.dense(self.table(tokens))), self.table.weight)


def test_an_embedding_is_rows_of_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, tokens = Tied().eval(), torch.randint(50, (8, 6))
    quantized = quantize_model(net, tokens[:1], [tokens])
    for name in ("net.tflite", "net.onnx"):
        made = export_model(quantized, tokens[:1], tmp_path / name)
        assert made.manifest["float_islands"] == []
        for figures in made.manifest["parity"]["runtimes"].values():
            assert figures.get("skipped") or figures["max_lsb"] <= 1
    tensors = read_tflite(tmp_path / "net.tflite").subgraphs[0].tensors
    assert not [tensor.name for tensor in tensors if tensor.dtype == "float32" and 50 in tensor.shape]
    stored = onnx.load(tmp_path / "net.onnx").graph.initializer
    assert not [entry.name for entry in stored if entry.data_type == onnx.TensorProto.FLOAT and len(entry.dims) > 1]
