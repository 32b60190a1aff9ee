from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgepress.deploy.artifact import (
    find_manifest,
    load_artifact,
    manifest_path,
    read_manifest,
    sha256_of,
    write_manifest,
)
from edgepress.models.errors import UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"abc")
    write_manifest(path, {"format": "tflite", "scheme": "w8a8", "ranges": {"y": {"scale": 0.5, "zero_point": 3}}})
    return path


def _change(path: Path, **changes: object) -> None:
    beside = manifest_path(path)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **changes}))


def test_manifest_comes_back_with_the_hash_of_its_file(file: Path) -> None:
    manifest = read_manifest(file)
    assert manifest["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"
    assert (manifest["file_bytes"], manifest["schema"], manifest["float_islands"]) == (3, 1, [])
    assert manifest["ranges"]["y"] == {"scale": 0.5, "zero_point": 3}
    assert manifest == read_manifest(manifest_path(file)) == load_artifact(file).manifest


def test_changed_file_is_not_the_manifests(file: Path) -> None:
    file.write_bytes(b"abd")
    with pytest.raises(UsageError, match="belongs to other bytes"):
        read_manifest(file)


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "..", "a/b", "a\\b", ""])
def test_no_path_of_a_strangers_manifest_leaves_the_folder(file: Path, name: str) -> None:
    _change(file, files={name: "0" * 64})
    with pytest.raises(UsageError, match="plain file name"):
        read_manifest(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "use a newer"),
        ({"format": "exe"}, "allowed are tflite, onnx, c"),
        ({"ranges": []}, "wrong type"),
        ({"schema": True}, "wrong type"),
        ({"layouts": {"inputs": ["NWHC"], "outputs": []}}, "NHWC, NCHW or null"),
        ({"files": {"model_data.h": "0" * 64}}, "missing or was changed"),
    ],
)
def test_what_a_manifest_may_not_say(file: Path, changes: dict[str, object], message: str) -> None:
    _change(file, **changes)
    with pytest.raises(UsageError, match=message):
        read_manifest(file)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '{"schema": 1}'])
def test_damaged_manifest_is_an_error(file: Path, text: str) -> None:
    manifest_path(file).write_text(text)
    with pytest.raises(UsageError, match=r"damaged|no manifest"):
        read_manifest(file)


def test_foreign_file_has_an_empty_manifest(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(b"x")
    assert find_manifest(path) is None
    assert (load_artifact(path).format, load_artifact(path).manifest) == ("onnx", {})
    with pytest.raises(UsageError, match="has no manifest"):
        read_manifest(path)


def test_hash_of_a_directory_follows_names_and_contents(tmp_path: Path) -> None:
    for name, (x, y) in {"a": b"12", "b": b"12", "c": b"21"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").write_bytes(bytes([x]))
        (tmp_path / name / "weights.safetensors").write_bytes(bytes([y]))
    assert sha256_of(tmp_path / "a") == sha256_of(tmp_path / "b") != sha256_of(tmp_path / "c")


def test_a_folder_that_is_no_checkpoint_is_not_read(tmp_path: Path) -> None:
    """A manifest may name any folder: /usr has neither a model.json nor few files."""
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "model.json").touch()
    for number in range(64):
        (tmp_path / "many" / f"f{number}").touch()
    (tmp_path / "other").mkdir()
    for folder in ("many", "other"):
        with pytest.raises(UsageError, match="is no checkpoint"):
            sha256_of(tmp_path / folder)
