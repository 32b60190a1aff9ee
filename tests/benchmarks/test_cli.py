"""The command `benchmarks`: formats, defaults, exit codes, light imports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgepress.benchmarks.cli import app
from edgepress.models.command_line import run_command
from edgepress.models.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]


def call(capsys, *arguments):
    """(exit code, stdout, stderr) of a command, in this process."""
    code: object = 0
    try:
        run_command(app, [str(a) for a in arguments])
    except SystemExit as left:
        code = left.code or 0
    return code, *capsys.readouterr()


@pytest.fixture
def keywords(shared, tmp_path, monkeypatch):
    """The keyword model, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return shutil.copy(shared / "data" / "reference_models" / "kws_ref_model.tflite", tmp_path / "kws.tflite")


def test_gate_passes_and_prints_one_json_object(capsys, keywords):
    code, out, _ = call(capsys, "gate", keywords, "--limit", "macs=3M", "--limit", "file=64kB", "--format", "json")
    verdict = json.loads(out)
    assert code == 0
    assert verdict["schema"] == 1
    assert verdict["passed"]
    assert verdict["violations"] == []
    assert {c["metric"]: c["value"] for c in verdict["checks"]} == {"macs": 2_656_768 + 72_012, "file": 53_936}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--limit", "macs=2M"], 1, "FAIL"),
        (["--limit", "file=50kB", "--no-fixes"], 1, "FAIL"),
        (["--limit", "file=banana"], 2, "is not a quantity"),
        (["--limit", "file"], 2, "write METRIC=QUANTITY"),
        (["--limit", "macs=1M", "--limit", "macs=2M"], 2, "given twice"),
        (["--device", "no-such-device"], 2, "is unknown"),
        ([], 2, "nothing to check"),
        (["--device", "phone", "--format", "yaml"], 2, "allowed are text, markdown"),
        (["--budgets", "none.toml"], 2, "none.toml"),
        (["--limit", "macs=3M", "--results", "none.jsonl"], 2, "none.jsonl"),
        (["--limit", "macs=3M", "--macs-rule", "abacus"], 2, "abacus"),
        (["--device", "phone", "--limit", "latency=1 ms"], 0, ""),
    ],
)
def test_exit_codes_of_the_gate(capsys, keywords, arguments, code, sentence):
    found, out, err = call(capsys, "gate", keywords, *arguments)
    assert found == code, err
    assert sentence in out + err
    assert "Traceback" not in out + err
    if code == 2:
        assert len(err.strip().splitlines()) <= 2


def test_the_macs_rule_of_a_limit(capsys, keywords):
    _, out, _ = call(capsys, "gate", keywords, "--limit", "macs=3M", "--macs-rule", "core", "--format", "json")
    (check,) = json.loads(out)["checks"]
    assert (check["rule"], check["value"]) == ("core", 2_656_768)


def test_the_newest_artifact_of_the_run_is_taken_and_named(capsys, keywords):
    run = RunDirectory("runs/default")
    run.add("artifact", "kws.tflite", keywords)
    code, _, err = call(capsys, "gate", "--limit", "macs=3M")
    assert code == 0
    assert "newest artifact" in err
    assert "kws.tflite" in err


def test_the_newest_artifact_is_one_that_the_runtime_of_the_class_takes(capsys, keywords):
    """ONNX and C are artifacts too; a class that runs TFLite must not be judged by them."""
    run = RunDirectory("runs/default")
    run.add("artifact", "kws.tflite", keywords)
    for name in ("kws.onnx", "model_data.cc"):
        Path(name).write_bytes(b"later")
        run.add("artifact", name, name)
    for arguments in (["--device", "dcase2023"], ["--device", "phone", "--device", "dcase2023"]):
        code, _, err = call(capsys, "gate", *arguments)
        assert code == 0
        assert "taking the newest artifact of runs/default: runs/default/../../kws.tflite" in err
    assert "kws.onnx" in call(capsys, "gate", "--limit", "macs=3M")[2]
    Path("budgets.toml").write_text('[device.server]\nruntime = "onnxruntime"\nmacs = "3 M"\n')
    assert "kws.onnx" in call(capsys, "gate")[2]
    code, _, err = call(capsys, "gate", "--device", "server", "--device", "phone")
    assert code == 2
    assert "take different files (.onnx, .tflite): name the file" in err


def test_nothing_in_the_run_names_the_command_to_run_first(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "gate", "--device", "dcase2023")
    assert code == 2
    assert "deploy export" in err


def test_budgets_of_the_working_directory_decide(capsys, keywords):
    Path("budgets.toml").write_text("""
        [gate]
        file = "kws.tflite"
        baseline = "kws.tflite"
        [device.tiny]
        runtime = "tflm"
        macs = { max = "3 M", max_growth = "0%" }
        accuracy = { min = "90%", max_drop = 0.01 }
        """)
    code, out, err = call(capsys, "gate", "--format", "json")
    verdict = json.loads(out)
    assert code == 1, "an accuracy that is demanded and was never measured fails"
    assert "using budgets.toml" in err
    assert verdict["devices"] == ["tiny"]
    assert verdict["cause"]["model_changed"] is False
    assert {(c["metric"], c["kind"]): c["status"] for c in verdict["checks"]} == {
        ("macs", "max"): "passed",
        ("macs", "max_growth"): "passed",
        ("accuracy", "min"): "failed",
        ("accuracy", "max_drop"): "failed",
    }


def test_budgets_name_several_files_and_a_baseline_of_each(capsys, keywords, shared, monkeypatch):
    image = shared / "data" / "reference_models" / "pretrainedResnet_quant.tflite"
    Path("ci/models").mkdir(parents=True)
    Path("ci/old").mkdir()
    for source, name in ((keywords, "kws"), (image, "image")):
        shutil.copy(source, f"ci/models/{name}.tflite")
        shutil.copy(source, f"ci/old/{name}-v1.tflite")
    rules = '[device.tiny]\nruntime = "tflm"\nmacs = { max = "30 M", max_growth = "0%" }\n'

    def verdicts(gate):
        Path("ci/budgets.toml").write_text(f"{rules}[gate]\nfile = ['models/*.tflite']\n{gate}\n")
        code, out, err = call(capsys, "gate", "--budgets", "ci/budgets.toml", "--format", "json")
        return code, [(Path(v["file"]).name, v["baseline"], v["checks"]) for v in json.loads(out)["files"]], err

    own = {"image.tflite": "ci/old/image-v1.tflite", "kws.tflite": "ci/old/kws-v1.tflite"}
    for gate in (
        "baseline = ['old/kws-v1.tflite', 'old/image-v1.tflite']",
        "baseline = { 'models/kws.tflite' = 'old/kws-v1.tflite', 'models/image.tflite' = 'old/image-v1.tflite' }",
    ):
        code, found, _ = verdicts(gate)
        assert code == 0, gate
        assert {name: before["source"] for name, before, _ in found} == own
        assert all(check["change"] == 0 for _, _, checks in found for check in checks if check["kind"] == "max_growth")
    code, found, _ = verdicts("baseline = { 'models/kws.tflite' = 'old/kws-v1.tflite' }")
    assert code == 1, "the other one has no baseline, and its growth was not measured"
    assert [(name, before is None) for name, before, _ in found] == [("image.tflite", True), ("kws.tflite", False)]
    code, out, err = call(capsys, "gate", "ci/models/*.onnx", "--limit", "macs=1M")
    assert (code, out) == (2, "")
    assert "there is no model ci/models/*.onnx" in err


def test_run_and_latency_know_the_classes_of_the_budgets(capsys, keywords, shared):
    data = shared / "data" / "kws01.npz"
    Path("budgets.toml").write_text('[device.doorbell]\nlike = "phone"\n')
    code, out, _ = call(
        capsys, "run", keywords, "--data", data, "--device", "doorbell", "--limit", "8", "--format", "json"
    )
    assert code == 0
    assert [(r["runtime"], r["device_classes"]) for r in json.loads(out)["results"]] == [("litert", ["doorbell"])]
    code, out, _ = call(capsys, "latency", keywords, "--device", "doorbell", "--no-measure", "--format", "json")
    assert (code, list(json.loads(out)["estimated"])) == (0, ["doorbell"])
    assert call(capsys, "run", keywords, "--data", data, "--device", "doorbel")[0] == 2


def test_a_limit_names_the_runtime_that_its_accuracy_is_measured_on(capsys, keywords, shared):
    data = shared / "data" / "kws01.npz"
    Path("budgets.toml").write_text(
        '[device.doorbell]\nruntime = "litert"\naccuracy = { min = "90%", runtime = "litert-reference" }\n'
    )
    code, out, _ = call(capsys, "gate", keywords, "--data", data, "--format", "json")
    assert (code, [check["rule"] for check in json.loads(out)["checks"]]) == (0, ["litert-reference"])


def test_a_baseline_found_by_its_layers_is_measured_on_the_data(capsys, keywords, shared):
    data = shared / "data" / "kws01.npz"
    image = shared / "data" / "reference_models" / "pretrainedResnet_quant.tflite"
    shutil.copy(keywords, "before.tflite")
    Path("budgets.toml").write_text(
        '[device.doorbell]\nruntime = "litert-reference"\naccuracy = { min = "90%", max_drop = 0.01 }\n'
    )
    code, out, _ = call(
        *(capsys, "gate", keywords, "--baseline", image, "--baseline", "before.tflite", "--data", data),
        *("--device", "doorbell", "--format", "json"),
    )
    checks = json.loads(out)["checks"]
    assert code == 0
    assert [(c["kind"], c["value"], c["baseline"]) for c in checks] == [
        ("min", 0.901, 0.901),
        ("max_drop", 0.901, 0.901),
    ]


def test_accuracy_is_measured_once_and_used_by_the_gate(capsys, keywords, shared):
    data = shared / "data" / "kws01.npz"
    code, out, _ = call(
        capsys, "run", keywords, "--data", data, "--runtime", "litert-reference", "--run", "here", "--format", "json"
    )
    assert code == 0
    assert [r["correct"] for r in json.loads(out)["results"]] == [901]
    assert call(capsys, "gate", keywords, "--limit", "accuracy=90%", "--run", "here")[0] == 0
    assert call(capsys, "gate", keywords, "--limit", "accuracy=91%", "--run", "here")[0] == 1


def test_update_baseline_then_compare_against_it(capsys, keywords):
    assert call(capsys, "gate", keywords, "--limit", "macs=3M", "--update-baseline", "base.json")[0] == 0
    code, out, _ = call(capsys, "gate", keywords, "--limit", "macs=3M", "--baseline", "base.json")
    assert code == 0
    assert "the model file is the same to the byte; no tool changed" in out


def test_output_is_written_once(capsys, keywords):
    arguments = ("gate", keywords, "--limit", "macs=3M", "--format", "junit", "-o", "gate.xml")
    assert call(capsys, *arguments)[0] == 0
    assert Path("gate.xml").read_text().startswith("<?xml")
    assert call(capsys, *arguments)[0] == 2
    assert call(capsys, *arguments, "--overwrite")[0] == 0


def test_profile_compare_and_devices(capsys, keywords, shared):
    code, out, _ = call(capsys, "profile", keywords, "--format", "json", "--no-arena")
    assert code == 0
    assert json.loads(out)["macs"]["core"] == 2_656_768
    assert call(capsys, "profile", keywords)[0] == 0
    other = shared / "data" / "reference_models" / "pretrainedResnet_quant.tflite"
    code, out, _ = call(capsys, "compare", keywords, other, "--format", "json")
    rows = {row["metric"]: (row["a"], row["b"]) for row in json.loads(out)["rows"]}
    assert rows["macs (core)"] == (2_656_768, 12_501_632)
    assert rows["file"] == (53_936, 98_496)
    assert "| macs (core) |" in call(capsys, "compare", keywords, other, "--format", "markdown")[1]
    assert call(capsys, "compare", keywords, "none.tflite")[0] == 2
    code, out, _ = call(capsys, "devices", "--format", "json")
    assert {d["name"]: d["limits"] for d in json.loads(out)["devices"]}["dcase2023"] == {
        "macs": 30_000_000,
        "weight_bytes": 128_000,
    }
    assert "cortex-m4" in call(capsys, "devices")[1]


def test_results_on_different_data_are_not_compared(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = {
        "schema": 1,
        "kind": "accuracy",
        "runtime": "tflm",
        "accuracy": 0.5,
        "sha256": "a",
        "data": {"fingerprint": "x"},
        "environment": {"tools": {"numpy": "1"}},
    }
    Path("a.jsonl").write_text(json.dumps(record))
    Path("b.jsonl").write_text(json.dumps({**record, "accuracy": 0.6, "environment": {"tools": {"numpy": "2"}}}))
    Path("c.jsonl").write_text(json.dumps({**record, "data": {"fingerprint": "y"}}))
    code, out, _ = call(capsys, "compare", "a.jsonl", "b.jsonl")
    assert code == 0
    assert "+10.00 %" in out
    assert "numpy 1 -> 2" in out
    code, _, err = call(capsys, "compare", "a.jsonl", "c.jsonl")
    assert code == 2
    assert "different data" in err


def test_latency_without_measuring(capsys, keywords):
    code, out, _ = call(capsys, "latency", keywords, "--no-measure", "--device", "cortex-m4", "--device", "esp32-s3")
    assert code == 0
    assert "80% interval" in out
    assert "no published measurements" in out


@pytest.fixture(scope="module")
def base_packages(tmp_path_factory) -> Path:
    """A folder with the packages of the base installation alone, as links: no torch, no TFLite Micro, no tests."""
    folder, seen, waiting = tmp_path_factory.mktemp("base"), set(), ["edgepress"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        waiting += [
            required.name
            for required in map(Requirement, found.requires or ())
            if required.marker is None or required.marker.evaluate({"extra": ""})
        ]
        for top in {file.parts[0] for file in found.files or () if name != "edgepress"} - {"..", "__pycache__"}:
            source = Path(str(found.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    return folder


def test_the_gate_is_light_and_needs_no_torch(keywords, base_packages):
    """A cold start without the packages of any extra, static figures only."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join((str(base_packages), str(ROOT)))}

    def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
        # -S: not even the folder of installed packages.
        return subprocess.run(
            [sys.executable, "-S", *arguments], capture_output=True, text=True, check=False, env=environment
        )

    assert "No module named 'torch'" in alone("-c", "import torch").stderr
    script = (
        "import resource, subprocess, sys; "
        "done = subprocess.run([sys.executable, '-S', '-m', 'benchmarks', 'gate', *sys.argv[1:]]); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); sys.stdout.flush(); "
        "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    limits = ("macs=3M", "file=64kB", "params=30k", "weights=30kB", "flash=1MB")
    # Processor time, which other programs hardly double: the best of three counts. The wall clock is under a second
    # where the machine is free.
    for _ in range(3):
        done = alone("-c", script, str(keywords), *(word for limit in limits for word in ("--limit", limit)))
        assert "passed: 5 checks" in done.stdout, done.stderr
        code, seconds, kilobytes = done.stdout.splitlines()[-1].split()
        assert code == "0"
        assert int(kilobytes) < 150 * 1024
        if float(seconds) < 1.0:
            break
    assert float(seconds) < 1.0


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom edgepress.benchmarks.cli import app\nfrom typer.main import get_command\nget_command(app)\n"
        "heavy = {'numpy', 'scipy', 'torch', 'pydantic', 'onnx', 'ai_edge_litert'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
