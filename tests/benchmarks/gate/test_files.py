"""Several files at the gate, baselines of their own, what applies to this very file."""

from __future__ import annotations

import json
import shutil

import pytest

from edgepress.benchmarks.gate import shrunk
from edgepress.benchmarks.gate.baseline import Baseline
from edgepress.benchmarks.gate.files import fitting_baseline, same_architecture
from edgepress.benchmarks.gate.formats import render
from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.measure.profiling import profile_of
from tests.benchmarks.measure.profiles import small_profile


@pytest.fixture(scope="module")
def models(shared, tmp_path_factory):
    """The two reference models under the names a.tflite and b.tflite."""
    folder = tmp_path_factory.mktemp("models")
    for name, source in (("a", "kws_ref_model"), ("b", "pretrainedResnet_quant")):
        shutil.copy(shared / "data" / "reference_models" / f"{source}.tflite", folder / f"{name}.tflite")
    return folder


def test_a_baseline_is_found_by_its_name_then_by_its_layers(models, tmp_path):
    a, b = (profile_of(models / f"{name}.tflite", arena=False) for name in "ab")
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(models / "a.tflite", old / "a.tflite")
    shutil.copy(models / "b.tflite", old / "image-v1.tflite")
    given = [str(old / "a.tflite"), str(old / "image-v1.tflite")]
    assert fitting_baseline(a, given, alone=False) == given[0]
    assert fitting_baseline(b, given, alone=False) == given[1], "the gate measures it then, on the data and its arena"
    none = fitting_baseline(b, given[:1], alone=False)
    assert isinstance(none, Baseline)
    assert none.foreign
    assert fitting_baseline(b, given[:1], alone=True) == given[0], "the only one for the only file is meant"
    assert fitting_baseline(b, ["git:main", *given], alone=False) == "git:main"
    assert fitting_baseline(a, [], alone=True) is None


def test_widths_do_not_make_another_architecture():
    thin = small_profile()
    thin["layers"] = [{**layer, "params": layer["params"] // 2, "macs": 1} for layer in thin["layers"]]
    assert same_architecture(small_profile(), thin)
    assert not same_architecture(small_profile(), small_profile(layers=small_profile()["layers"][:2]))
    assert not same_architecture(small_profile(layers=[]), small_profile(layers=[]))


def test_a_foreign_baseline_leaves_growth_unmeasured_and_says_so(tmp_path):
    budgets = tmp_path / "budgets.toml"
    budgets.write_text('[device.mine]\nruntime = "tflm"\nfile = { max = "2 kB", max_growth = "5%" }\n')
    foreign = Baseline({}, "a.tflite", note="no baseline is of this network", foreign=True)
    verdict = evaluate_gate(small_profile(), budgets=budgets, baseline=foreign)
    assert [(v["metric"], v["kind"]) for v in verdict["violations"]] == [("file", "max_growth")]
    assert "no baseline is of this network" in verdict["notes"]
    new = Baseline({}, "git:main", note="a new model")
    assert evaluate_gate(small_profile(), budgets=budgets, baseline=new)["passed"]


def test_another_network_as_a_baseline_is_named_as_such(models):
    verdict = evaluate_gate(models / "b.tflite", {"file": "1MB"}, baseline=str(models / "a.tflite"), try_fixes=False)
    assert any("is another network" in note for note in verdict["notes"])
    same = evaluate_gate(models / "a.tflite", {"file": "1MB"}, baseline=str(models / "a.tflite"))
    assert not any("another network" in note for note in same["notes"])


def test_the_old_file_is_measured_on_the_same_data(models, tmp_path):
    budgets = tmp_path / "budgets.toml"
    budgets.write_text('[device.mine]\nruntime = "litert"\naccuracy = { max_drop = 0.01 }\n')
    asked = []

    def measure(path):
        asked.append(path.name)
        sha = profile_of(path, arena=False)["sha256"]
        accuracy = 0.95 if len(asked) == 1 else 0.90
        return [{"schema": 1, "sha256": sha, "runtime": "litert", "accuracy": accuracy, "total": 100}]

    old = tmp_path / "a.tflite"
    shutil.copy(models / "b.tflite", old)
    verdict = evaluate_gate(
        models / "a.tflite",
        budgets=budgets,
        baseline=str(old),
        results=[{**measure(models / "a.tflite")[0], "accuracy": 0.90}],
        measure=measure,
    )
    (check,) = verdict["checks"]
    assert asked == ["a.tflite", "a.tflite"]
    assert (check["baseline"], check["value"], check["status"]) == (0.90, 0.90, "passed")
    without = evaluate_gate(models / "a.tflite", budgets=budgets, baseline=str(old))
    assert not without["passed"]


def test_shrinking_comes_first_and_is_said_where_it_was_not_tried(models, monkeypatch):
    b = models / "b.tflite"
    verdict = evaluate_gate(b, {"file": "90kB"})
    (fix,) = verdict["fixes"]
    assert (fix["measured"], fix["enough"], fix["command"]) == (True, True, f"deploy shrink {b}")
    assert fix["after"] < 90_000
    assert any("no checkpoint is known for this file" in note for note in verdict["notes"])
    (untried,) = evaluate_gate(b, {"file": "90kB"}, try_fixes=False)["fixes"]
    assert untried["fix"] == "lossless shrinking was not tried (it was not asked for)"
    monkeypatch.setattr(shrunk, "CPU_SECONDS", 0)
    late = shrunk.Shrunk(str(b), cpu_seconds=0)
    assert late.file_bytes() is None
    assert "0 s of CPU time" in late.not_tried(plan=False)


def test_a_command_can_be_copied_whatever_the_file_is_called(models, tmp_path):
    path = shutil.copy(models / "b.tflite", tmp_path / "my model (1).tflite")
    (fix,) = evaluate_gate(path, {"file": "90kB"}, try_fixes=False)["fixes"]
    assert fix["command"] == f"deploy shrink '{path}'"


def test_what_needs_the_network_is_named_only_where_it_is(models, tmp_path):
    assert evaluate_gate(models / "a.tflite", {"macs": "1M"})["fixes"] == []
    path = tmp_path / "a.tflite"
    shutil.copy(models / "a.tflite", path)
    (tmp_path / "checkpoint").mkdir()
    manifest = {"sha256": profile_of(path, arena=False)["sha256"], "checkpoint": {"path": "checkpoint"}}
    path.with_name("a.tflite.manifest.json").write_text(json.dumps(manifest))
    (fix,) = evaluate_gate(path, {"macs": "1M"})["fixes"]
    assert fix["command"] == "compress prune --target-macs 1000000"
    assert fix["fix"] == "prune to 1.00 M: 63.4 % less"
    (far,) = evaluate_gate(path, {"macs": "20"})["fixes"]
    assert far["fix"].startswith("a smaller network: the limit is 0.00% of what this one has")


def test_several_files_have_one_table_in_front_and_passed_ones_folded():
    good = evaluate_gate(small_profile(file="good.tflite"), {"macs": "2 k"})
    bad = evaluate_gate(small_profile(file="bad.tflite"), {"macs": "1 k", "accuracy": "90%"}, try_fixes=False)
    text = render([good, bad], "text")
    assert text.splitlines()[0].split() == ["File", "What", "failed"]
    assert text.splitlines()[1].startswith("ok    good.tflite")
    assert text.splitlines()[2] == "FAIL  bad.tflite   macs (dcase) 1.7 k, limit ≤ 1.0 k; accuracy not measured"
    assert text.rstrip().endswith("1 of 2 files passed")
    page = render([good, bad], "markdown")
    assert page.index("bad.tflite: FAILED") < page.index("<details><summary>good.tflite: passed</summary>")
    whole = json.loads(render([good, bad], "json"))
    assert (whole["passed"], [v["file"] for v in whole["files"]]) == (False, ["good.tflite", "bad.tflite"])
    assert 'name="bad.tflite: limits"' in render([good, bad], "junit")
    uris = [
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in json.loads(render([good, bad], "sarif"))["runs"][0]["results"]
    ]
    assert uris == ["bad.tflite", "bad.tflite"]
