"""ExecuTorch programs: our integers through XNNPACK within the parity of the other runtimes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.compress.quantize import quantize_model
from edgepress.deploy.export.export import export_model
from edgepress.deploy.runtimes.registry import available_runtimes
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.verify.parity import verify
from edgepress.models.errors import RuntimeFailure, UsageError
from tests.compress.quantize.quantized_networks import Residual, trained_like
from tests.deploy.pte.test_pairs import Mixed, quantized_of


def needs_executorch() -> None:
    pytest.importorskip("executorch", reason="the extra executorch is not installed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    needs_executorch()
    quantized, x = quantized_of(Residual, (2, 40, 32))
    path = tmp_path_factory.mktemp("pte") / "net.pte"
    return quantized, x, export_model(quantized, x[:1], path, samples=x)


def test_a_program_gives_the_integers_of_the_network(exported) -> None:
    quantized, x, artifact = exported
    assert artifact.format == "executorch"
    assert artifact.manifest["layouts"] == {"inputs": ["NCHW"], "outputs": [None]}
    figures = artifact.manifest["parity"]["runtimes"]["executorch"]
    assert figures["max_lsb"] <= 1
    with torch.no_grad():
        wanted = quantized.model(x).numpy()
    with open_session(artifact.path) as session:
        assert session.runtime == "executorch"
        ours = quantized.output_integers()[0]
        assert (session.output.scale, session.output.zero_point) == (pytest.approx(float(ours.scale)), ours.zero_point)
        made = session.run(x.numpy())
        raw = session.run_integer(*session.quantize(x.numpy()))
    assert np.abs(made - wanted).max() <= 1.001 * float(ours.scale)
    assert raw.dtype == np.int8
    np.testing.assert_allclose((raw.astype(int) - ours.zero_point) * ours.scale, made, rtol=1e-6)


def test_it_is_verified_beside_the_other_formats(exported, tmp_path: Path) -> None:
    quantized, x, artifact = exported
    np.save(tmp_path / "x.npy", x.numpy())
    onnx = export_model(quantized, x[:1], tmp_path / "net.onnx", verify=False)
    report = verify(artifact.path, data=tmp_path / "x.npy", also=[onnx.path])
    pair = next(p for p in report["pairs"] if {p["a"], p["b"]} == {"onnxruntime", "executorch"})
    assert pair["max_lsb"] <= 1
    assert report["passed"]


@pytest.mark.slow
def test_a_float_network_with_operators_of_many_kinds(tmp_path: Path) -> None:
    needs_executorch()
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = export_model(trained_like(Mixed), x[:1], tmp_path / "float.pte", samples=x)
    assert plain.manifest["parity"]["runtimes"]["executorch"]["max_abs"] < 1e-4
    assert plain.file_bytes > 0
    with open_session(plain.path) as session:
        assert session.output.scale is None


@pytest.mark.slow
def test_the_same_in_integers(tmp_path: Path) -> None:
    """A value that a mean and a function read: with one dequantize for both, XNNPACK refused the file, and crashed."""
    needs_executorch()
    quantized, x = quantized_of(Mixed, (2, 8, 8))
    made = export_model(quantized, x[:1], tmp_path / "net.pte", samples=x)
    assert made.manifest["parity"]["runtimes"]["executorch"]["max_lsb"] <= 3


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    x = torch.randn(8, 2, 40, 32)
    quantized = quantize_model(trained_like(Residual), x[:1], [x], scheme="a16w8")
    with pytest.raises(UsageError, match=r"XNNPACK has integer kernels of 8 bits only, and .* is a16w8"):
        export_model(quantized, x[:1], tmp_path / "net.pte")
    assert not list(tmp_path.iterdir())


def test_damaged_programs_are_refused(exported, tmp_path: Path) -> None:
    data = exported[2].path.read_bytes()
    bad = tmp_path / "bad.pte"
    for cut in (b"no program", data[: len(data) // 2], bytes(64) + data[64:]):
        bad.write_bytes(cut)
        with pytest.raises((UsageError, RuntimeFailure)):
            open_session(bad, isolate=True).close()


def test_other_runtimes_say_what_they_run(exported, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"the runtime litert runs tflite files, and .* is executorch: take executorch"
    ):
        open_session(exported[2].path, "litert")


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "executorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    quantized, x = quantized_of(Residual, (2, 40, 32))
    with pytest.raises(UsageError, match=r"needs executorch .*edgepress?.*\[executorch\]|\[executorch\]"):
        export_model(quantized, x[:1], tmp_path / "net.pte")
    (tmp_path / "some.pte").write_bytes(b"some")
    with pytest.raises(RuntimeFailure, match=r"needs the package executorch.*\[executorch\]"):
        open_session(tmp_path / "some.pte", isolate=False)


def test_the_command_measures_what_it_can(exported, capsys: pytest.CaptureFixture[str]) -> None:
    from edgepress.benchmarks.measure.profiling import format_profile, profile_of

    found = profile_of(exported[2].path)
    assert found["file_bytes"] == exported[2].path.stat().st_size
    assert found["params"] is None
    assert "profile the .tflite or .onnx of the same checkpoint" in " ".join(format_profile(found).split())
    assert json.loads(json.dumps(found))["format"] == "executorch"


def test_the_table_knows_it_without_having_it() -> None:
    assert set(available_runtimes("executorch")) == {"executorch"}
