"""`compress run`: stages are skipped where they are finished, children share the lock, the table says all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgepress.compress.pipeline import run as module
from edgepress.compress.pipeline.entries import free_name, key_of
from edgepress.compress.pipeline.run import benchmark_stages, export_stages
from edgepress.compress.pipeline.table import table
from edgepress.models.checkpoints.plan import chain_plans
from edgepress.models.errors import RuntimeFailure, UsageError, VerdictError
from edgepress.models.run_directory import RunDirectory
from tests.compress.pipeline.test_recipe import GOOD

RECIPE = {**GOOD, "measure": {"formats": ["tflite"], "runtimes": ["litert", "onnxruntime"], "devices": ["dcase2023"]}}


@pytest.fixture
def recipe():
    from edgepress.compress.recipes.recipe import parse_recipe

    return parse_recipe(RECIPE)


@pytest.fixture
def directory(tmp_path):
    found = RunDirectory(tmp_path / "run")
    checkpoint = found.place("checkpoint", "dense-w8a8-ptq")
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.json").write_text("{}")
    return found


@pytest.fixture
def networks(directory):
    entry = {"name": "dense-w8a8-ptq", "path": directory.place("checkpoint", "dense-w8a8-ptq")}
    return [
        {
            "name": "dense",
            "float": {"macs": 38_071_324, "params": 187_146, "rule": "dcase", "test_accuracy": 0.9},
            "int8": entry,
        }
    ]


@pytest.fixture
def children(directory, monkeypatch):
    """Stand-ins for the commands to the right: they note the call and leave what the real ones leave."""
    calls = []

    def child(run, command, capture=False, verdict=False):
        calls.append(command)
        if command[0] == "deploy":
            path = run.place("artifact", "dense.tflite")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"TFL3")
            run.add("artifact", path.name, path, checkpoint="dense-w8a8-ptq", format="tflite")
            return ""
        if command[1] == "run":
            return '{"results": [{"runtime": "litert", "accuracy": 0.85}]}'
        return '{"passed": false}'

    monkeypatch.setattr(module, "_child", child)
    return calls


def test_finished_child_stages_are_skipped_and_deleted_or_changed_files_made_again(
    directory, recipe, networks, children
):
    files = export_stages(directory, recipe, networks)
    results = benchmark_stages(directory, recipe, files)
    assert [command[:2] for command in children] == [
        ["deploy", "export"],
        ["benchmarks", "run"],
        ["benchmarks", "gate"],
    ]
    assert export_stages(directory, recipe, networks) == files
    assert benchmark_stages(directory, recipe, files) == results
    assert len(children) == 3
    files["dense"]["tflite"].unlink()
    export_stages(directory, recipe, networks)
    assert len(children) == 4
    files["dense"]["tflite"].write_bytes(b"TFL3 changed by hand")
    assert export_stages(directory, recipe, networks) == files
    assert len(children) == 5
    assert files["dense"]["tflite"].read_bytes() == b"TFL3"


def test_each_file_is_measured_on_the_runtimes_that_run_it(directory, children):
    from edgepress.compress.recipes.recipe import parse_recipe

    runtimes = ["litert", "onnxruntime", "openvino", "executorch"]
    recipe = parse_recipe({**RECIPE, "measure": {"formats": ["executorch"], "runtimes": runtimes, "devices": []}})
    forms = ("tflite", "onnx", "ort", "openvino", "executorch", "c")
    files = {"dense": {form: directory.place("artifact", f"dense.{form}") for form in forms}}
    benchmark_stages(directory, recipe, files)
    ran = {
        Path(command[2]).suffix[1:]: command[command.index("--runtime") + 1]
        for command in children
        if command[1] == "run"
    }
    assert ran == {
        "tflite": "litert",
        "onnx": "onnxruntime,openvino",
        "ort": "onnxruntime",
        "openvino": "openvino",
        "executorch": "executorch",
    }


def test_the_table_has_a_row_per_network(directory, recipe, networks, children):
    files = export_stages(directory, recipe, networks)
    header, rows = table(networks, files, benchmark_stages(directory, recipe, files))
    assert header == ["network", "MACs (dcase)", "parameters", "TFLite", "fp32", "int8 litert", "dcase2023"]
    assert rows == [["dense", "38.07 M", "187,146", "4 B", "90.00 %", "85.00 %", "failed"]]


@pytest.mark.parametrize(
    ("code", "error"), [(1, VerdictError), (2, UsageError), (3, RuntimeFailure), (9, RuntimeFailure)]
)
def test_a_failed_child_keeps_its_exit_code(tmp_path, monkeypatch, code, error):
    monkeypatch.setattr(sys, "executable", _script(tmp_path, f"exit {code}"))
    with pytest.raises(error, match=f"exit code {code}"):
        module._child(RunDirectory(tmp_path), ["deploy", "export"])


def test_a_verdict_is_no_failure_where_one_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", _script(tmp_path, "echo '{}'; exit 1"))
    assert module._child(RunDirectory(tmp_path), ["benchmarks", "gate"], capture=True, verdict=True) == "{}\n"


def test_children_get_the_lock_of_their_parent_and_outsiders_do_not(tmp_path):
    import subprocess

    run = RunDirectory(tmp_path)
    code = (
        f"from edgepress.models.run_directory import RunDirectory as R\nwith R({str(tmp_path)!r}).lock(): print('in')"
    )
    root = str(Path(__file__).resolve().parents[3])
    with run.lock():
        child = subprocess.run(
            [sys.executable, "-c", code],
            env=run.environment_for_children(),
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        outsider = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert child.stdout == "in\n"
    assert "is in use" in outsider.stderr


def test_an_orphaned_child_keeps_the_next_command_out(tmp_path, monkeypatch):
    from filelock import FileLock

    run = RunDirectory(tmp_path)
    with FileLock(tmp_path / ".lock-child"), pytest.raises(UsageError, match="in use"), run.lock():
        pass
    with run.lock():
        pass


def test_names_are_never_taken_twice(tmp_path):
    run = RunDirectory(tmp_path)
    for expected in ("20M-admm", "20M-admm-2", "20M-admm-3"):
        name = free_name(run, "20M-admm")
        assert name == expected
        run.place("checkpoint", name).mkdir(parents=True)


def test_keys_follow_from_what_goes_in():
    assert key_of("train", {"a": 1, "b": 2}) == key_of("train", {"b": 2, "a": 1})
    assert len({key_of("train", {"a": 1}), key_of("prune", {"a": 1}), key_of("train", {"a": 2})}) == 3


def test_the_plans_of_two_prunings_become_one():
    first = {
        "schema": 1,
        "kind": "modules",
        "tensors": {"a.weight": {"0": [0, 2, 5]}},
        "attributes": {"a": {"out_channels": 3}},
    }
    second = {
        "schema": 1,
        "kind": "modules",
        "tensors": {"a.weight": {"0": [1, 2]}, "b.weight": {"1": [0]}},
        "attributes": {"a": {"out_channels": 2}},
    }
    both = chain_plans(first, second)
    assert both["tensors"] == {"a.weight": {"0": [2, 5]}, "b.weight": {"1": [0]}}
    assert both["attributes"] == {"a": {"out_channels": 2}}
    assert chain_plans(None, second) is second


def _script(folder, body):
    path = folder / "child.sh"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)
