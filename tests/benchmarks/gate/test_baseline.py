"""Baselines: a file, a git revision, a JSON."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from edgepress.benchmarks.gate.baseline import as_json, load_baseline
from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.measure.environment import changed_tools, environment
from edgepress.benchmarks.measure.profiles import named
from edgepress.models.errors import UsageError
from tests.benchmarks.measure.profiles import small_profile


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(tmp_path, shared):
    """Two revisions: the keyword model, then the larger image model under the same name."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    models = shared / "data" / "reference_models"
    folder = tmp_path / "répo"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    shutil.copy(models / "kws_ref_model.tflite", folder / "m.tflite")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    shutil.copy(models / "pretrainedResnet_quant.tflite", folder / "m.tflite")
    return folder


def test_names_that_shrinking_took_out_come_back_from_the_manifest():
    found = small_profile(memory=[{"step": 0, "layer": "tensor 2", "live_bytes": 5}])
    found["layers"][0]["name"], found["layers"][1]["name"] = "tensor 2", "tensor 99"
    manifest = {"sha256": found["sha256"], "shrink": {"tensor_names": ["x", "w", "stem/relu"]}}
    assert [layer["name"] for layer in named(found, manifest)["layers"]] == ["stem/relu", "tensor 99", "head"]
    assert named(found, manifest)["memory"][0]["layer"] == "stem/relu"
    for other in ({**manifest, "sha256": "0"}, {"sha256": found["sha256"], "shrink": 3}, {}):
        assert named(found, other) is found


def test_a_git_revision_is_profiled_from_its_own_bytes(repository):
    verdict = evaluate_gate(repository / "m.tflite", {"macs": "20M"}, baseline="git:main")
    (check,) = verdict["checks"]
    # Core MACs and bias additions of both reference models.
    assert check["baseline"] == 2_656_768 + 72_012
    assert check["value"] == 12_501_632 + 86_026
    assert verdict["cause"]["model_changed"] is True
    assert "DEPTHWISE_CONV_2D" in verdict["cause"]["operators"]


def test_an_unchanged_file_is_known_as_unchanged(repository):
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "two")
    verdict = evaluate_gate(repository / "m.tflite", {"macs": "20M"}, baseline="git:HEAD")
    assert verdict["checks"][0]["change"] == 0
    assert verdict["cause"]["model_changed"] is False


def test_a_new_model_has_no_baseline_and_still_gets_a_verdict(repository):
    shutil.copy(repository / "m.tflite", repository / "new.tflite")
    verdict = evaluate_gate(repository / "new.tflite", {"macs": "20M"}, baseline="git:main")
    assert verdict["passed"]
    assert any("a new model" in note for note in verdict["notes"])


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("git:nowhere", "'nowhere' is unknown here: fetch it"),
        ("git:", "names no revision"),
        ("git:--output=x", "names no revision"),
        ("missing.tflite", "there is no model"),
    ],
)
def test_baselines_that_are_wrong(repository, baseline, message):
    with pytest.raises(UsageError, match=message):
        evaluate_gate(repository / "m.tflite", {"macs": "20M"}, baseline=baseline)


def test_a_typo_in_the_path_is_an_error_that_names_the_near_one(repository):
    with pytest.raises(UsageError, match=r"mm\.tflite does not exist at 'main': did you mean /.*/m\.tflite\?"):
        evaluate_gate(repository / "m.tflite", {"macs": "20M"}, baseline=f"git:main:{repository}/mm.tflite")


def test_a_path_counts_from_here_else_from_the_top_as_in_git(repository, monkeypatch):
    (repository / "sub").mkdir()
    shutil.copy(repository / "m.tflite", repository / "sub" / "n.tflite")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "two")
    monkeypatch.chdir(repository / "sub")
    current = {"file": "n.tflite"}
    for path, name in (("n.tflite", "n.tflite"), ("m.tflite", "m.tflite"), ("../m.tflite", "../m.tflite")):
        assert load_baseline(f"git:HEAD:{path}", current=current, arena=False).profile["file"] == f"HEAD:{name}"
    with pytest.raises(UsageError, match=r"did you mean \.\./m\.tflite\?"):
        load_baseline("git:HEAD:../mm.tflite", current=current)
    monkeypatch.chdir(repository)
    with pytest.raises(UsageError, match=r"did you mean sub/n\.tflite\?"):
        load_baseline("git:HEAD:sub/nn.tflite", current=current)
    with pytest.raises(UsageError, match="sub is no file at 'HEAD'"):
        load_baseline("git:HEAD:sub", current=current)


def test_the_reason_of_git_itself_is_passed_on(repository, monkeypatch):
    """A repository of another user, as a checkout that is mounted into a container."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UsageError, match="dubious ownership") as caught:
        evaluate_gate(repository / "m.tflite", {"macs": "20M"}, baseline="git:main")
    assert "safe.directory" in str(caught.value)


def test_outside_of_a_repository(tmp_path, shared):
    path = shutil.copy(shared / "data" / "reference_models" / "kws_ref_model.tflite", tmp_path)
    with pytest.raises(UsageError, match="in no git repository"):
        evaluate_gate(path, {"macs": "20M"}, baseline="git:main")


def test_a_lfs_pointer_is_no_model(repository):
    (repository / "big.tflite").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "lfs")
    with pytest.raises(UsageError, match="Git LFS pointer"):
        load_baseline("git:HEAD:" + str(repository / "big.tflite"), current={"file": str(repository / "m.tflite")})


def test_the_json_of_a_baseline_comes_back_with_its_accuracy(tmp_path):
    profile = small_profile()
    results = [
        {"schema": 1, "sha256": "ab" * 32, "runtime": "tflm", "accuracy": 0.5, "total": 2},
        {"schema": 1, "sha256": "ab" * 32, "runtime": "tflm", "accuracy": 0.9, "total": 2},
        {"schema": 1, "sha256": "00" * 32, "runtime": "tflm", "accuracy": 0.1, "total": 2},
    ]
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(as_json(profile, results, environment(), {})))
    loaded = load_baseline(str(path), current=profile)
    assert [r["accuracy"] for r in loaded.results] == [0.9], "only the newest of this very file"
    now = [{"schema": 1, "sha256": "ef" * 32, "runtime": "tflm", "accuracy": 0.8, "total": 2}]
    verdict = evaluate_gate(small_profile(sha256="ef" * 32), {"accuracy": "50%"}, baseline=str(path), results=now)
    assert verdict["checks"][0]["change"] == pytest.approx(-0.1)


@pytest.mark.parametrize("text", ["[1]", "nonsense", '{"schema": 7}', '{"schema": 1}', '{"schema": 1, "profile": 3}'])
def test_json_that_is_no_baseline(tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        load_baseline(str(path), current=small_profile())


def test_changed_tools():
    assert changed_tools({"a": "1", "b": "2"}, {"a": "1", "c": "3"}) == {"b": ["2", None], "c": [None, "3"]}
