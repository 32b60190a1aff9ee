from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepress.models.run_directory import RunDirectory
from tests.deploy.small_models import chain, unary

KWS = "data/reference_models/kws_ref_model.tflite"


def deploy(*arguments: object, cwd: Path | None = None, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; `without` names packages that cannot be imported in it."""
    code = (
        "import sys\n"
        + "".join(f"sys.modules[{name!r}] = None\n" for name in without.split())
        + "from edgepress.deploy.cli import main\nmain()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


def expect(code: int, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    done = deploy(*arguments, **options)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_run_needs_no_torch_and_gives_the_labels(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "outputs.npy"
    done = expect(
        0,
        "run",
        shared / KWS,
        "--input",
        shared / "data/kws01.npz",
        "--runtime",
        "litert",
        "-o",
        out,
        "--format",
        "json",
        without="torch lightning litert_torch onnx",
    )
    result = json.loads(done.stdout)
    assert (result["correct"], result["total"], result["accuracy"]) == (902, 1000, 0.902)
    assert np.load(out, allow_pickle=False).shape == (1000, 12)
    assert "exists already" in expect(2, "run", shared / KWS, "--input", shared / "data/kws01.npz", "-o", out).stderr


def test_verify_prints_one_object_and_gates(shared: Path) -> None:
    common = (
        "verify",
        shared / KWS,
        "--data",
        shared / "data/kws01.npz",
        "--samples",
        50,
        "--random-samples",
        2,
        "--format",
        "json",
    )
    report = json.loads(expect(0, *common).stdout)
    assert {"a", "b", "max_lsb", "mean_lsb", "equal", "label_agreement", "samples"} <= set(report["pairs"][0])
    assert report["schema"] == 1
    assert json.loads(expect(1, *common, "--max-lsb", 1).stdout)["passed"] is False


def test_verify_shows_a_table_of_layers(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(chain([64, 32, 96]))
    text = expect(0, "verify", path, "--layers").stdout
    assert "SLICE" in text
    assert "tflm: no layer departs from litert-reference" in text
    assert text.rstrip().endswith("passed")


def test_shrink_writes_beside_and_never_over(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(chain([4320, 2880, 2880, 5760, 2880]))
    report = json.loads(expect(0, "shrink", path, "--format", "json").stdout)
    small = tmp_path / "m.small.tflite"
    assert small.stat().st_size == report["after"]["file_bytes"] < report["before"]["file_bytes"] == path.stat().st_size
    assert "exists already" in expect(2, "shrink", path).stderr
    assert "arena plan" in expect(0, "shrink", path, "--overwrite").stdout


def test_operators_explains_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "sqrt.tflite"
    path.write_bytes(unary("SQRT"))
    text = expect(0, "operators", path).stdout
    assert "tflm, SQRT int8: TFLite Micro's kernel does not take this element type" in text
    assert "litert: runs the file" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("verify",), 2, "run `deploy export` first"),
        (("export",), 2, "run `compress train` first"),
        (("export", "none"), 2, "none"),
        (("export", "--format", "elf"), 2, ""),
        (("run", "none.tflite", "--input", "x.npz"), 2, "x.npz"),
        (("run", "text.tflite", "--input", "x.npy"), 2, "text.tflite"),
        (("verify", "none.tflite"), 2, "none.tflite does not exist"),
        (("verify", "text.tflite"), 2, "text.tflite"),
        (("shrink", "text.tflite"), 2, ""),
        (("operators", "text.tflite"), 2, ""),
        (("verify", "gelu.tflite", "--runtime", "tflm"), 3, "GELU"),
        (("verify", "gelu.tflite", "--format", "xml"), 2, "text and json"),
        (("run", "gelu.tflite", "--input", "x.npy", "--on", "pi"), 2, "ssh://user@host"),
        (("run", "gelu.tflite", "--input", "x.npy", "--on", "ssh://127.0.0.1:1"), 3, "connection failed"),
    ],
)
def test_exit_codes(tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    (tmp_path / "text.tflite").write_text("hello")
    (tmp_path / "gelu.tflite").write_bytes(unary("GELU"))
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 4, 4), np.float32))
    done = expect(code, *arguments, cwd=tmp_path)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gelu.tflite", "text.tflite", "x.npy"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with one float checkpoint, whose task is an .npz."""
    import torch

    from edgepress.models.checkpoints.checkpoint import save_checkpoint
    from edgepress.models.checkpoints.registry import build
    from edgepress.models.checkpoints.spec import ModelSpec

    folder = tmp_path_factory.mktemp("run")
    generator = np.random.default_rng(0)
    np.savez(
        folder / "task.npz",
        x=generator.standard_normal((90, 1, 24, 16)).astype(np.float32),
        y=generator.integers(0, 4, 90),
        split=np.array(["train"] * 50 + ["validation"] * 10 + ["test"] * 30),
    )
    arguments = {"rho": 4, "n_classes": 4, "base_channels": 8, "n_blocks": (1, 1, 1)}
    torch.manual_seed(0)
    model = build("cp_resnet", **arguments).eval()
    spec = ModelSpec(
        "cp_resnet", arguments, ((1, 24, 16),), classes=("a", "b", "c", "d"), task=str(folder / "task.npz")
    )
    runs = RunDirectory(folder / "runs")
    path = runs.place("checkpoint", "dense")
    save_checkpoint(path, model, spec, {})
    runs.add("checkpoint", "dense", path)
    return folder / "runs"


@pytest.mark.slow
def test_export_calibrates_shrinks_verifies_and_can_be_repeated(run: Path) -> None:
    first = expect(0, "export", "--format", "tflite", "--run", run)
    assert "dense is float: calibrating w8a8 on" in first.stderr
    assert "verified on" in first.stderr
    artifact = RunDirectory(run).entries("artifact")[-1]
    assert artifact["name"] == "dense-w8a8.tflite"
    assert artifact["format"] == "tflite"
    assert artifact["macs"] > 0
    manifest = json.loads(Path(f"{artifact['path']}.manifest.json").read_text())
    assert manifest["checkpoint"]["path"] == "../checkpoints/dense-w8a8"
    assert {pair["a"] for pair in manifest["parity"]["pairs"]} >= {"torch"}
    assert (
        manifest["shrink"]["after"]["file_bytes"]
        == artifact["path"].stat().st_size
        < manifest["shrink"]["before"]["file_bytes"]
    )
    assert "litert" in manifest["shrink"]["proof"]["runtimes"]

    again = expect(0, "export", "--format", "tflite", "--run", run)
    assert again.stdout.startswith("already there, unchanged:")
    assert [e["name"] for e in RunDirectory(run).entries("checkpoint")] == ["dense", "dense-w8a8"]
    # The float checkpoint by name finds its own calibration again.
    assert "already there" in expect(0, "export", run / "checkpoints/dense", "--run", run).stdout

    report = json.loads(expect(0, "verify", "--run", run, "--format", "json").stdout)
    assert {pair["b"] for pair in report["pairs"] if pair["a"] == "torch"} == {"litert-reference", "tflm", "litert"}
    assert all(pair["max_lsb"] <= 3 for pair in report["pairs"])
    assert report["inputs"]["samples"] == 30

    moved = run.parent / "moved"
    run.rename(moved)
    try:
        there = json.loads(expect(0, "verify", "--run", moved, "--format", "json", "--samples", 5).stdout)
    finally:
        moved.rename(run)
    assert any(pair["a"] == "torch" for pair in there["pairs"])


def test_export_for_a_device_class(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the class runs decides: LiteRT may refuse a file for a microcontroller, TFLite Micro may not."""
    from edgepress.deploy.export import from_checkpoint, in_run
    from edgepress.deploy.verify import parity
    from edgepress.models.errors import RuntimeFailure, UsageError

    source = run / "checkpoints/dense"
    for arguments, said in (
        (("--device", "cortex-m4", "--format", "onnx"), "runs .tflite files, by tflm"),
        (("--device", "cortex-m4", "--no-verify"), "leave --no-verify out"),
        (("--device", "cortex-x"), "cortex-x"),
    ):
        assert said in expect(2, "export", source, "-o", tmp_path / "m.file", *arguments, "--run", run).stderr
    figures = {"a": "torch", "b": "litert", "max_lsb": 0.0, "mean_lsb": 0.0}
    refused = {"ran": False, "reason": "it does not fit"}
    for device, runtime in (("cortex-m4", "tflm"), (None, "litert")):
        report = {"pairs": [figures], "runtimes": {runtime: refused}, "notes": [], "passed": True, "output_bits": 8}
        monkeypatch.setattr(parity, "verify", lambda *_, report=report, **__: report)
        options = in_run.ExportOptions(device=device)
        with pytest.raises(
            RuntimeFailure, match=f"{runtime}.* cannot run m.tflite, so that it was not written: it does"
        ):
            from_checkpoint._verified(tmp_path / "m.tflite", options, print)
    with pytest.raises(UsageError, match=r"raspberry-pi-4.* runs \.tflite files, by litert"):
        in_run.ExportOptions(format="onnx", device="raspberry-pi-4").must_run()


@pytest.mark.slow
def test_export_of_other_formats(run: Path, tmp_path: Path) -> None:
    source = run / "checkpoints/dense"
    fp32 = tmp_path / "fp32.onnx"
    expect(0, "export", source, "--float", "--format", "onnx", "-o", fp32, "--run", run)
    assert json.loads(Path(f"{fp32}.manifest.json").read_text())["scheme"] == "float32"
    assert (
        "exists already" in expect(2, "export", source, "--float", "--format", "onnx", "-o", fp32, "--run", run).stderr
    )
    code = tmp_path / "net.cc"
    expect(0, "export", source, "--format", "c", "-o", code, "--run", tmp_path / "other")
    manifest = json.loads(Path(f"{code}.manifest.json").read_text())
    assert list(manifest["files"]) == ["net.h"]
    assert manifest["c"]["arena_bytes"] > 0
    assert manifest["checkpoint"]["path"] is None  # the calibration was not kept
    assert not (tmp_path / "other").exists()
    assert "MicroMutableOpResolver" in (tmp_path / "net.h").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("format", "suffix"), [("ort", ".ort"), ("openvino", ".xml"), ("executorch", ".pte")])
def test_export_of_what_stands_outside_of_all(run: Path, format: str, suffix: str) -> None:
    """Files of ONNX Runtime's and OpenVINO's own formats come from an ONNX file that is compared with torch."""
    if format in ("openvino", "executorch"):
        pytest.importorskip(format, reason=f"the extra {format} is not installed")
    source = run / "checkpoints/dense"
    made = expect(0, "export", source, "--format", format, "--run", run)
    assert "verified on 30 inputs" in made.stderr
    entry = RunDirectory(run).entries("artifact")[-1]
    assert (entry["name"], entry["format"]) == (f"dense-w8a8{suffix}", format)
    assert not entry["path"].with_suffix(".onnx").exists()
    manifest = json.loads(Path(f"{entry['path']}.manifest.json").read_text())
    assert manifest["checkpoint"]["path"] == "../checkpoints/dense-w8a8"
    assert {pair["a"] for pair in manifest["parity"]["pairs"]} >= {"torch"}
    beside = [entry["path"].with_name(name) for name in manifest.get("files", {})]
    assert [path.suffix for path in beside] == ([".bin"] if format == "openvino" else [])
    assert entry["file_bytes"] == sum(path.stat().st_size for path in (entry["path"], *beside))
    assert expect(0, "export", source, "--format", format, "--run", run).stdout.startswith("already there")


@pytest.mark.slow
def test_export_that_departs_writes_nothing(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.tflite"
    done = expect(1, "export", run / "checkpoints/dense", "-o", out, "--max-lsb", 0, "--mean-lsb", 0, "--run", run)
    assert "departs from its checkpoint, so that it is not written" in done.stderr
    assert list(tmp_path.iterdir()) == []
