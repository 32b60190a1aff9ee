"""How a model moved over commits and files."""

from __future__ import annotations

import json
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from edgepress.benchmarks.measure.result_log import read
from edgepress.benchmarks.report.model_history import as_svg, as_text, model_history
from edgepress.models.errors import UsageError


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def repository(tmp_path, shared):
    """Three commits of one model: the keyword network, a pointer of Git LFS, the image network."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    models = shared / "data" / "reference_models"
    path = tmp_path / "m.tflite"
    git(tmp_path, "init", "-q", "-b", "main")
    contents = {
        "keywords": (models / "kws_ref_model.tflite").read_bytes(),
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "images": (models / "pretrainedResnet_quant.tflite").read_bytes(),
    }
    for title, data in contents.items():
        path.write_bytes(data)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-qm", title)
    return path


def test_every_commit_is_a_point_and_a_pointer_says_what_it_is(repository, tmp_path):
    log = tmp_path / "results.jsonl"
    first = model_history(repository)["points"][0]
    record = {"schema": 1, "kind": "accuracy", "sha256": first["sha256"], "runtime": "tflm", "accuracy": 0.9}
    log.write_text(json.dumps({**record, "total": 10, "correct": 9}) + "\n")
    assert read(log)
    found = model_history(repository, results=[log])
    points = found["points"]
    assert [point["title"] for point in points] == ["keywords", "pointer", "images"]
    # Core MACs and bias additions of both reference models.
    assert [point["macs"] for point in points] == [2_656_768 + 72_012, None, 12_501_632 + 86_026]
    assert [point["file_bytes"] for point in points] == [53_936, None, 98_496]
    assert [point["accuracy"] for point in points] == [0.9, None, None]
    assert "Git LFS pointer" in points[1]["note"]
    assert [point["label"] for point in model_history(repository, last=1)["points"]] == [points[2]["label"]]
    assert len(as_text(found).splitlines()) == 4
    json.dumps(found, allow_nan=False)


def test_the_files_of_a_folder_are_points_and_become_a_figure(shared):
    pytest.importorskip("vl_convert")
    found = model_history(shared / "data" / "reference_models")
    assert [point["label"] for point in found["points"]] == ["kws_ref_model.tflite", "pretrainedResnet_quant.tflite"]
    assert ElementTree.fromstring(as_svg(found)).tag.endswith("svg")


def test_a_file_without_commits_and_an_empty_folder(repository, tmp_path):
    (tmp_path / "new.tflite").write_bytes(repository.read_bytes())
    with pytest.raises(UsageError, match="is in no commit here"):
        model_history(tmp_path / "new.tflite")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no \.tflite"):
        model_history(tmp_path / "empty")
