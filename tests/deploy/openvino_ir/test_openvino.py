"""OpenVINO: our ONNX files as they are, and its own format with the same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgepress.deploy.export.export import export_model
from edgepress.deploy.runtimes.messages import pack, unpack
from edgepress.deploy.runtimes.registry import available_runtimes
from edgepress.deploy.runtimes.sessions import open_session
from edgepress.models.errors import ParityError, RuntimeFailure, UsageError
from tests.compress.quantize.quantized_networks import Residual, trained_like
from tests.deploy.pte.test_pairs import quantized_of


def needs_openvino() -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    needs_openvino()
    pytest.importorskip("onnxscript")
    quantized, x = quantized_of(Residual, (2, 40, 32))
    path = tmp_path_factory.mktemp("openvino") / "net.onnx"
    return quantized, x, export_model(quantized, x[:1], path, samples=x)


def test_our_onnx_gives_the_integers_of_the_network(exported) -> None:
    quantized, x, artifact = exported
    with torch.no_grad():
        wanted = quantized.model(x).numpy()
    with open_session(artifact.path, "openvino") as session:
        step = session.output.scale
        assert step == pytest.approx(float(quantized.output_integers()[0].scale))
        made = session.run(x.numpy())
        assert session.run(x.numpy()[:1]).shape == (1, 3)
    assert np.abs(made - wanted).max() <= 3.001 * step


def test_its_own_format_gives_the_same_and_counts_in_steps(exported, tmp_path: Path) -> None:
    from edgepress.benchmarks.measure.profiling import profile_of
    from edgepress.deploy.artifact import read_manifest
    from edgepress.deploy.openvino_ir.convert import openvino_files

    _, x, artifact = exported
    report = openvino_files(artifact.path, tmp_path / "net.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml", "net.xml.manifest.json"]
    assert report["max_abs"] == 0
    assert report["onnxruntime_max_lsb"] <= 3
    with open_session(artifact.path, "openvino") as before, open_session(tmp_path / "net.xml") as after:
        assert after.runtime == "openvino"
        assert after.output.scale == before.output.scale
        np.testing.assert_array_equal(after.run(x.numpy()), before.run(x.numpy()))
    assert read_manifest(tmp_path / "net.xml")["format"] == "openvino"
    sizes = [(tmp_path / name).stat().st_size for name in ("net.xml", "net.bin")]
    assert profile_of(tmp_path / "net.xml")["file_bytes"] == sum(sizes) == report["after"]
    with pytest.raises(UsageError, match="exists already"):
        openvino_files(artifact.path, tmp_path / "net.xml")
    with pytest.raises(UsageError, match=r"must end in \.xml"):
        openvino_files(artifact.path, tmp_path / "net.ir")
    (tmp_path / "net.bin").write_bytes(b"changed")
    with pytest.raises(UsageError, match="missing or was changed"):
        read_manifest(tmp_path / "net.xml")


def test_nothing_is_written_where_the_outputs_differ(exported, tmp_path: Path, monkeypatch) -> None:
    from edgepress.deploy.openvino_ir import convert

    of_another = export_model(trained_like(Residual, seed=3), exported[1][:1], tmp_path / "other.onnx", verify=False)
    real = convert.convert_apart
    monkeypatch.setattr(
        convert, "convert_apart", lambda module, tool, path, *rest: real(module, tool, of_another.path, *rest)
    )
    with pytest.raises(ParityError, match="departs from"):
        convert.openvino_files(exported[2].path, tmp_path / "net.xml")
    assert not (tmp_path / "net.xml").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    needs_openvino()
    (tmp_path / "bad.xml").write_text("<net>")
    with pytest.raises(UsageError, match=r"cannot read .*bad\.bin"):
        open_session(tmp_path / "bad.xml")
    (tmp_path / "bad.bin").write_bytes(bytes(8))
    with pytest.raises((UsageError, RuntimeFailure)):
        open_session(tmp_path / "bad.xml").close()


def test_two_files_cross_as_one() -> None:
    assert unpack(pack(b"<net/>", b"\x01\x02")) == (b"<net/>", b"\x01\x02")
    assert unpack(pack(b"", b"")) == (b"", b"")
    assert unpack(b"\x08\x07 an onnx file") is None


def test_nobody_is_told_of_a_runtime_that_another_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepress.deploy.runtimes import registry

    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    assert "openvino" not in available_runtimes("onnx")
    assert "[openvino]" in str(available_runtimes("openvino")["openvino"])
    assert "[openvino]" in str(available_runtimes("onnx", emulated=True)["openvino"])
