"""Programs of torch.export made elsewhere: their ranges in our files, and .pt2 files read without trust."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepress.compress.quantize.model import Quantized
from edgepress.deploy.export.export import export_model
from edgepress.deploy.pt2.archive import load_program
from edgepress.deploy.pt2.foreign import network_of, taken_apart
from edgepress.models.errors import UsageError
from tests.compress.quantize.quantized_networks import Residual, trained_like

SHAPE = (2, 40, 32)


def inputs(count: int = 16) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(5))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.register_buffer("k", torch.linspace(0.5, 1, 4).reshape(1, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)) * self.k + 0.5


class Plain(Residual):
    """Without the batch norm ahead of the first layer, which that quantizer leaves in float, and without concatenation,
    whose inputs have one range in a file and each their own in a program."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.Identity(), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(x))
        return self.head(torch.relu(self.bn(self.depthwise(x)) + x).mean((2, 3)))


@pytest.fixture(scope="module")
def program():
    """A network quantized by torchao's PT2E flow with its XNNPACK quantizer, a scale for each channel."""
    quantizers = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantizer = quantizers.XNNPACKQuantizer()
        quantizer.set_global(quantizers.get_symmetric_quantization_config(is_per_channel=True))
        x = inputs()
        exported = torch.export.export(trained_like(Plain), (x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
        prepared = prepare_pt2e(exported.module(check_guards=False), quantizer)
        for part in x.split(4):
            prepared(part)
        return torch.export.export(convert_pt2e(prepared), (x[:1],))


def test_ranges_of_the_program_are_those_of_the_network(program) -> None:
    theirs = taken_apart(program).ranges
    quantized, reference, batch = network_of(program, (inputs(2)[:1],))
    assert isinstance(quantized, Quantized)
    assert batch == 1
    ours = {(round(float(i.scale), 7), i.zero_point) for i in quantized.integers().values()}
    # (lowest, highest) of 8 bits: 255 steps, and 0 is one of them.
    wanted = {(round((high - low) / 255, 7), round(-128 - 255 * low / (high - low))) for low, high in theirs.values()}
    assert ours <= wanted
    assert len(ours) > 3
    x = inputs()[:1]
    with torch.no_grad():
        step = float(quantized.output_integers()[0].scale)
        assert float((quantized.model(x) - reference(x)).abs().max()) <= 1.001 * step


def test_it_becomes_tflite_and_onnx_with_parity(program, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx = export_model(program, inputs()[:1], tmp_path / "net.onnx", samples=inputs())
    assert onnx.manifest["scheme"] == "w8a8"
    assert onnx.manifest["parity"]["runtimes"]["onnxruntime"]["max_lsb"] <= 2
    scales = {round(float(np.float32((high - low) / 255)), 7) for low, high in taken_apart(program).ranges.values()}
    assert {round(entry["scale"], 7) for entry in onnx.manifest["ranges"].values()} <= scales
    pytest.importorskip("litert_torch")
    tflite = export_model(program, inputs()[:1], tmp_path / "net.tflite", samples=inputs())
    assert tflite.manifest["parity"]["runtimes"]["litert"]["max_lsb"] <= 3
    assert not tflite.manifest["float_islands"]


def test_what_has_no_pair_stays_in_float() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pair = torch.ops.quantized_decomposed
            how = (0.05, 3, -128, 127, torch.int8)
            x = pair.dequantize_per_tensor(pair.quantize_per_tensor(x, *how), *how)
            y = self.a(x)
            out = (0.1, 0, -128, 127, torch.int8)
            return self.b(pair.dequantize_per_tensor(pair.quantize_per_tensor(y, *out), *out))

    from torch.ao.quantization.fx import _decomposed  # noqa: F401

    x = inputs(2)
    quantized, _, _ = network_of(torch.export.export(Two().eval(), (x[:1],)), (x[:1],))
    found = {(round(float(i.scale), 6), i.zero_point) for i in quantized.integers().values()}
    assert found == {(0.05, 3), (0.1, 0)}
    assert len(quantized.points.islands) == 1
    assert quantized.output_integers() == [None]


def test_unsigned_and_symmetric_ranges_keep_their_step() -> None:
    from torch.ao.quantization.fx import _decomposed  # noqa: F401

    pair = torch.ops.quantized_decomposed

    def ranges(*how):
        class One(nn.Module):
            def forward(self, x):
                return pair.dequantize_per_tensor(pair.quantize_per_tensor(x * 2, *how), *how) + 1

        return list(taken_apart(torch.export.export(One(), (torch.ones(1, 4),))).ranges.values())

    assert ranges(0.5, 10, 0, 255, torch.uint8) == [(-5.0, 122.5)]
    assert ranges(0.5, 0, -127, 127, torch.int8) == [(-64.0, 63.5)]
    with pytest.raises(UsageError, match="activations of 8 bits"):
        ranges(0.5, 0, -32768, 32767, torch.int16)


def saved(tmp_path: Path, program=None) -> Path:
    path = tmp_path / "program.pt2"
    program = program or torch.export.export(
        Small().eval(), (torch.randn(2, 2, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)
    return path


def changed(path: Path, name: str, change) -> Path:
    """The same archive with one entry in another form; None leaves it out."""
    made = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith(name):
                data = change(data)
            if data is not None:
                new.writestr(entry.filename, data)
    return made


def test_a_program_comes_back_from_its_file(tmp_path: Path) -> None:
    original = torch.export.export(
        Small().eval(), (torch.randn(2, 2, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    read = load_program(saved(tmp_path, original))
    x = torch.randn(3, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(read.module(check_guards=False)(x), original.module(check_guards=False)(x))


def test_nothing_pickled_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path)

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    bomb = io.BytesIO()
    pickle.dump(Bomb(), bomb)
    # The example inputs are a pickle in every such file: they are not looked at.
    load_program(changed(path, "sample_inputs/model.pt", lambda data: bomb.getvalue()))

    def pickled(data: bytes) -> bytes:
        told = json.loads(data)
        next(iter(told["config"].values()))["use_pickle"] = True
        return json.dumps(told).encode()

    with pytest.raises(UsageError, match="nothing pickled is read"):
        load_program(changed(path, "model_weights_config.json", pickled))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "torch.ops.aten.relu.default",
            "torch.ops.aten.from_file.default",
            "has the operator 'torch.ops.aten.from_file",
        ),
        ("torch.ops.aten.relu.default", "torch.hub.load", "has the operator 'torch.hub.load'"),
        ("torch.ops.aten.relu.default", "_operator.methodcaller", "has the operator '_operator.methodcaller'"),
        ("Symbol('s", "__import__('os').getcwd() or Symbol('s", "has the size"),
        ("Symbol('s", "9**9**9*Symbol('s", "has the size"),
    ],
)
def test_operators_and_sizes_come_from_a_list(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = saved(tmp_path)

    def change(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    with pytest.raises(UsageError, match=says.replace("(", r"\(").replace(".", r"\.")):
        load_program(changed(path, "models/model.json", change))


def test_damage_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path)
    for name in ("models/model.json", "model_weights_config.json", "weights/weight_0"):
        with pytest.raises(UsageError):
            load_program(changed(path, name, lambda data: None))
    for name in ("models/model.json", "model_weights_config.json", "weights/weight_0"):
        with pytest.raises(UsageError):
            load_program(changed(path, name, lambda data: data[: len(data) // 2]))
    (tmp_path / "no.pt2").write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"is no \.pt2 file"):
        load_program(tmp_path / "no.pt2")
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pt2")
    with pytest.raises(UsageError, match=r"it has no models/model\.json"):
        load_program(tmp_path / "weights.pt2")


def test_the_command_exports_a_file(program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    from edgepress.deploy.program_export import export_program

    path = saved(tmp_path, program)
    np.savez(tmp_path / "x.npz", x=inputs().numpy())
    export_program(path, "onnx", output=None, data=str(tmp_path / "x.npz"), overwrite=False)
    out, err = capsys.readouterr()
    assert f"wrote {path.with_suffix('.onnx')}" in out
    assert "onnxruntime: at most" in err
    with pytest.raises(UsageError, match="exists already"):
        export_program(path, "onnx", output=None, data=None, overwrite=False)
    np.savez(tmp_path / "y.npz", x=inputs().numpy()[..., 0])
    with pytest.raises(UsageError, match=r"x has the shape \[16, 2, 40\]"):
        export_program(path, "onnx", output=tmp_path / "o.onnx", data=str(tmp_path / "y.npz"), overwrite=False)
