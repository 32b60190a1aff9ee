"""ONNX Runtime's own format: the same outputs, nothing written where they are not, strangers' files refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgepress.deploy.runtimes.sessions import open_session
from edgepress.deploy.verify import ort
from edgepress.models.errors import ParityError, RuntimeFailure, UsageError


def test_an_ort_file_gives_what_the_onnx_file_gives(onnx_file, tmp_path):
    report = ort.ort_file(onnx_file, tmp_path / "m.ort")
    data = (tmp_path / "m.ort").read_bytes()
    assert data[4:8] == b"ORTM"
    assert (report["before"], report["after"]) == (onnx_file.stat().st_size, len(data))
    x = np.random.default_rng(1).normal(size=(5, 1, 16, 16)).astype(np.float32)
    with open_session(onnx_file) as before, open_session(tmp_path / "m.ort", runtime="onnxruntime") as after:
        np.testing.assert_allclose(after.run(x), before.run(x), atol=1e-5)
    with pytest.raises(UsageError, match="exists already"):
        ort.ort_file(onnx_file, tmp_path / "m.ort")
    with pytest.raises(UsageError, match=r"must end in \.ort"):
        ort.ort_file(onnx_file, tmp_path / "m.onnx2")


def test_nothing_is_written_where_the_outputs_differ(onnx_file, tmp_path, monkeypatch):
    def of_another(module, tool, path, target):
        changed = tmp_path / "changed.onnx"
        import onnx

        model = onnx.load(str(onnx_file))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
                values = onnx.numpy_helper.to_array(tensor) * np.float32(1.5)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, str(changed))
        ort.convert(str(changed), str(target))

    monkeypatch.setattr(ort, "convert_apart", of_another)
    with pytest.raises(ParityError, match="departs from"):
        ort.ort_file(onnx_file, tmp_path / "m.ort")
    assert not (tmp_path / "m.ort").exists()


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(UsageError):
        ort.ort_file(tmp_path / "bad.onnx", tmp_path / "m.ort")
    (tmp_path / "bad.ort").write_bytes(b"\x14\x00\x00\x00ORTM" + bytes(100))
    with pytest.raises((UsageError, RuntimeFailure)):
        open_session(tmp_path / "bad.ort")


def test_the_manifest_goes_along(onnx_file, tmp_path):
    from edgepress.deploy.artifact import load_artifact, read_manifest, write_manifest

    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_file.read_bytes())
    write_manifest(path, {"format": "onnx", "scheme": "float32", "names": {"inputs": ["x"], "outputs": ["y"]}})
    report = ort.ort_file(path, tmp_path / "m.ort")
    manifest = read_manifest(tmp_path / "m.ort")
    assert (manifest["format"], manifest["ort"]) == ("ort", report)
    assert manifest["names"] == {"inputs": ["x"], "outputs": ["y"]}
    assert load_artifact(tmp_path / "m.ort").format == "ort"
