"""Files and words meant to hurt: one sentence and the right exit code, never a crash, a hang or a flood of memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.measure.manifests import spec_beside
from edgepress.models.errors import EdgepressError, UsageError
from tests.benchmarks.test_cli import call

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"macs": "3M", "file": "64kB", "params": "30k", "peak": "20kB"}
_GIGABYTE = 1 << 30
#: Mutations that are also run as a process of their own, with the memory bound, and on the arena.
_IN_PROCESSES = 6


@pytest.fixture(scope="module")
def tflite_file(shared):
    return shared / "data" / "reference_models" / "kws_ref_model.tflite"


def judge(path: Path) -> str:
    """Gate a file in this process: "verdict", or the class of the expected error; all else is a failure."""
    start = time.monotonic()
    try:
        verdict = evaluate_gate(path, LIMITS, try_fixes=False)
        json.dumps(verdict, allow_nan=False)
        found = "verdict"
    except EdgepressError as error:
        found, sentence, code = type(error).__name__, str(error), error.exit_code
    else:
        sentence, code = "a verdict", 0
    assert sentence
    assert code in (0, 2, 3)
    assert time.monotonic() - start < 10
    return found


def mutations(data: bytes, count: int, seed: int):
    """Each with one to eight flipped bits; half of them where the structure is, at the ends of the file."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        changed = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0, len(data), int(rng.integers(1, 9)))
        if rng.random() < 0.5:
            places = places % min(len(data), 2000)
            places = np.where(rng.random(len(places)) < 0.5, places, len(data) - 1 - places)
        changed[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
        yield changed.tobytes()


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_a_thousand_mutations_give_a_verdict_or_one_sentence(kind, request, tmp_path):
    data = request.getfixturevalue(f"{kind}_file").read_bytes()
    path = tmp_path / f"m.{kind}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, int] = {}
    for changed in mutations(data, 500, seed=len(kind)):
        path.write_bytes(changed)
        outcome = judge(path)
        found[outcome] = found.get(outcome, 0) + 1
    assert set(found) <= {"verdict", "UsageError", "RuntimeFailure"}
    assert found["verdict"] > 0, "most bits are weights: those files are still valid"
    assert found["UsageError"] > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes"


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_every_truncation_is_an_error_or_a_verdict(kind, request, tmp_path):
    data = request.getfixturevalue(f"{kind}_file").read_bytes()
    path = tmp_path / f"m.{kind}"
    for size in [0, 1, 4, 7, 8, 20, 100, *np.linspace(200, len(data) - 1, 30).astype(int)]:
        path.write_bytes(data[:size])
        judge(path)
    path.write_bytes(data[:8])
    assert judge(path) == "UsageError"


def gate_process(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`benchmarks gate` in a process whose address space is bounded, with a deadline."""

    def bound():
        # Reserved, not used: the sum of mapped libraries and arenas; the peak that is used is checked by the caller.
        resource.setrlimit(resource.RLIMIT_DATA, (_GIGABYTE, _GIGABYTE))

    return subprocess.run(
        [sys.executable, "-m", "edgepress.benchmarks", "gate", str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        preexec_fn=bound,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def well_behaved(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode in (0, 1, 2, 3), (done.returncode, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert "internal error" not in done.stderr
    if done.returncode in (2, 3):
        assert done.stderr.strip()
    return done.returncode


@pytest.mark.slow
def test_mutations_with_their_arena_measured_never_take_the_command_down(tflite_file, tmp_path):
    for number, changed in enumerate(mutations(tflite_file.read_bytes(), _IN_PROCESSES, seed=5)):
        path = tmp_path / f"m{number}.tflite"
        path.write_bytes(changed)
        well_behaved(gate_process(path, "--device", "cortex-m4", "--no-fixes"))


@pytest.mark.slow
def test_mutations_that_run_give_figures_or_name_the_runtime(tflite_file, shared, tmp_path):
    for number, changed in enumerate(mutations(tflite_file.read_bytes(), _IN_PROCESSES, seed=9)):
        path = tmp_path / f"m{number}.tflite"
        path.write_bytes(changed)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "edgepress.benchmarks",
                "run",
                str(path),
                "--runtime",
                "tflm,litert",
                "--data",
                str(shared / "data" / "kws01.npz"),
                "--limit",
                "20",
            ],
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        if well_behaved(done) == 3:
            assert "tflm" in done.stderr or "litert" in done.stderr or "TFLite Micro" in done.stderr


def test_a_sparse_file_of_two_gigabytes(tmp_path):
    for name in ("big.tflite", "big.onnx"):
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(b"\x1c\0\0\0TFL3" if name.endswith("tflite") else b"\x08\x09")
            file.truncate(2 << 30)
        start = time.monotonic()
        done = gate_process(path, "--limit", "macs=1M")
        assert well_behaved(done) == 2
        assert time.monotonic() - start < 10
        path.unlink()


def test_things_that_are_no_models(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("zip.tflite", "w") as archive:
        archive.writestr("weights", b"0" * 1000)
    shutil.copy("zip.tflite", "zip.onnx")
    Path("text.tflite").write_text("hello")
    Path("empty.onnx").touch()
    Path("folder.tflite").mkdir()
    os.mkfifo("pipe.tflite")
    Path("loop.tflite").symlink_to("loop.tflite")
    for name in (
        "zip.tflite",
        "zip.onnx",
        "text.tflite",
        "empty.onnx",
        "folder.tflite",
        "pipe.tflite",
        "loop.tflite",
        "none.tflite",
        "x" * 300,
        ".",
    ):
        code, out, err = call(capsys, "gate", name, "--limit", "macs=1M")
        assert code == 2, (name, err)
        assert err.startswith("error: "), err
        assert len(err.splitlines()) == 1
        assert out == ""


def test_unicode_and_odd_names_are_only_names(capsys, tflite_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("模型 é.tflite", "a'b\"c.tflite", "-dash.tflite", "new\nline.tflite", "%s{0}.tflite"):
        shutil.copy(tflite_file, name)
        for form in ("text", "markdown", "json", "junit", "sarif"):
            code, out, _ = call(capsys, "gate", "--limit", "macs=3M", "--format", form, "--", name)
            assert code == 0
            assert out


def test_a_name_that_is_no_utf8(tflite_file, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.tflite"
    shutil.copy(tflite_file, path)
    for form in ("text", "json", "junit"):
        done = gate_process(Path(os.fsdecode(path)), "--limit", "macs=3M", "--format", form)
        assert well_behaved(done) in (0, 2)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "2", '"much"', "null", "[]"])
def test_results_with_unusable_figures(capsys, tflite_file, tmp_path, value):
    from edgepress.benchmarks.measure.accuracy import model_sha256

    path = tmp_path / "r.jsonl"
    sha256 = model_sha256(tflite_file)
    path.write_text(f'{{"schema": 1, "sha256": "{sha256}", "runtime": "tflm", "accuracy": {value}}}\n')
    code, _, err = call(capsys, "gate", tflite_file, "--limit", "accuracy=90%", "--results", path)
    # A result without a figure is no result: the limit was asked for, so that the model does not pass.
    assert code == (1 if value == "null" else 2), err


@pytest.mark.parametrize(
    "baseline",
    [
        "{",
        '{"schema": 1, "macs": {"dcase": "x"}}',
        '{"schema": 1, "macs": {"dcase": NaN}}',
        "[" * 100_000,
        '{"schema": 1, "profile": {"macs": []}}',
    ],
)
def test_baselines_with_rubbish(capsys, tflite_file, tmp_path, baseline):
    path = tmp_path / "b.json"
    path.write_text(baseline)
    code, _, err = call(capsys, "gate", tflite_file, "--limit", "macs=3M", "--baseline", path)
    assert code == 2, err
    assert err.startswith("error: ")


def test_a_manifest_with_rubbish_does_not_matter(tflite_file, tmp_path):
    for text in ("{", "[]", '{"tools": 3, "spec": []}', "\x00" * 100, "[" * 100_000):
        path = shutil.copy(tflite_file, tmp_path / "m.tflite")
        Path(f"{path}.manifest.json").write_text(text)
        assert evaluate_gate(path, {"macs": "3M"}, baseline=path)["passed"]
    Path(f"{path}.manifest.json").write_text('{"spec": [1]}')
    assert spec_beside(path) == {}


def test_an_unknown_device_and_a_wrong_unit_together(tflite_file):
    with pytest.raises(UsageError):
        evaluate_gate(tflite_file, {"file": "128"}, "cortex-m99")


def test_functions_that_call_each_other_twice_are_counted_not_put_in(tmp_path):
    """Thirty functions of two calls each are 2^30 operators; runtimes and the checker would put them in."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]

    def function(number, calls):
        nodes = [helper.make_node("Relu", ["x"], ["y"])]
        if calls is not None:
            nodes = [helper.make_node(calls, a, b, domain="own") for a, b in ((["x"], ["t"]), (["t"], ["y"]))]
        return helper.make_function("own", f"f{number}", ["x"], ["y"], nodes, opsets)

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="own")], "g", value[:1], value[1:])
    for last, says in ((30, "operators, with those of its functions put in"), (60, "deep")):
        functions = [function(n, f"f{n + 1}" if n < last else None) for n in range(last + 1)]
        path = tmp_path / f"{last}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions), path)
        began = time.process_time()
        with pytest.raises(UsageError, match=says):
            evaluate_gate(path, LIMITS, try_fixes=False)
        assert time.process_time() - began < 5
    circle = [function(0, "f1"), function(1, "f0")]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=circle), tmp_path / "c.onnx")
    with pytest.raises(UsageError, match="calls itself"):
        evaluate_gate(tmp_path / "c.onnx", LIMITS, try_fixes=False)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_stand_for_nothing_are_refused(tmp_path, scale):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    constants = [
        helper.make_tensor("s", TensorProto.FLOAT, [], [scale]),
        helper.make_tensor("z", TensorProto.INT8, [], [0]),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="the scale 's' holds values that are not positive"):
        evaluate_gate(tmp_path / "m.onnx", LIMITS, try_fixes=False)


def test_scales_in_a_tflite_file_are_positive(tflite_file):
    """Every scale of a real file in turn, in the file itself."""
    from edgepress.deploy.tflite.reader import read_tflite

    data = tflite_file.read_bytes()
    model = read_tflite(data)
    found = [t for t in model.tensors if t.quantization is not None and not t.constant and t.dtype == "int8"]
    assert len(found) > 3
    for tensor in found[:4]:
        stored = np.float32(tensor.quantization.scale[0]).tobytes()
        for scale in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(UsageError, match="a scale that is not positive"):
                read_tflite(data.replace(stored, np.float32(scale).tobytes()))


def test_more_tensors_than_any_network_has(tmp_path):
    pytest.importorskip("torch")
    from edgepress.benchmarks.experiments.hostile.damage import many_tensors
    from edgepress.models.files.arrays import load_tensors

    (tmp_path / "w.safetensors").write_bytes(many_tensors(300_000))
    began = time.process_time()
    with pytest.raises(UsageError, match=r"tensors; at most|is too large"):
        load_tensors(tmp_path / "w.safetensors")
    assert time.process_time() - began < 2
    (tmp_path / "w.safetensors").write_bytes(many_tensors(100))
    assert len(load_tensors(tmp_path / "w.safetensors")) == 100


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    from edgepress import ModelSpec, build, load_checkpoint, save_checkpoint

    model = build("ds_cnn", channels=4, n_blocks=1)
    spec = ModelSpec("ds_cnn", {"channels": 4, "n_blocks": 1}, ((1, 49, 10),))
    name, weight = next(iter(model.named_parameters()))
    for value in (float("nan"), float("inf")):
        with torch.no_grad():
            weight.view(-1)[0] = value
        save_checkpoint(tmp_path / str(value), model, spec)
        with pytest.raises(UsageError, match=f"{name} holds NaN or infinite"):
            load_checkpoint(tmp_path / str(value))


def test_pipes_and_endless_files_among_clips_do_not_wait(tmp_path):
    from edgepress.models.tasks.sources.audio import check_clips

    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    clips = [tmp_path / "pipe.wav", tmp_path / "zero.wav"]
    began = time.monotonic()
    _, errors = check_clips(clips, ["pipe", "zero"])
    assert len(errors) == 2
    assert all("no audio file" in error for error in errors)
    assert time.monotonic() - began < 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tflite", "onnx", "checkpoint", "arrays", "text", "audio"])
def test_a_part_of_the_hostile_experiment(kind, hostile_files, tmp_path):
    """3,000 cases are `python -m edgepress.benchmarks.experiments.hostile`; these are the first few of each kind."""
    from edgepress.benchmarks.experiments.hostile.files import is_bad, read_all

    entries = read_all(kind, 12, hostile_files, tmp_path, print)
    assert len(entries) == 12
    assert [(is_bad(entry), entry) for entry in entries if is_bad(entry)] == []
    assert 2 in {entry["code"] for entry in entries}


@pytest.fixture(scope="module")
def hostile_files(tmp_path_factory):
    pytest.importorskip("litert_torch")
    from edgepress.benchmarks.experiments.hostile.cases import write_seeds

    folder = tmp_path_factory.mktemp("hostile") / "valid"
    write_seeds(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tflite", "onnx", "checkpoint", "arrays", "text", "audio"])
def test_what_is_damaged_there_was_valid_before(kind, hostile_files, tmp_path, capsys):
    from edgepress.benchmarks.experiments.hostile.cases import prepare
    from edgepress.models.command_line import run_command

    for number in range(11):
        folder = tmp_path / str(number)
        folder.mkdir()
        reading = prepare(kind, number, hostile_files, folder, damage=False)
        with suppress(SystemExit):
            run_command(reading.app, list(reading.arguments))
        assert "error" not in capsys.readouterr().err, number
