"""Text, JSON and TOML of strangers: one sentence for whatever cannot be counted with, printed or written again."""

from __future__ import annotations

import json
import os

import pytest
from typing_extensions import TypedDict

from edgepress.models.errors import UsageError
from edgepress.models.files.reading import parse_json, read_json, read_text, read_toml
from edgepress.models.run_directory import RunDirectory

#: What no reader of ours may take, and what its sentence says.
REFUSED = [
    ("[" * 3000 + "]" * 3000, "nested"),
    ("[" * 70 + "]" * 70, "nested"),
    ("[" * 1_000_000, "nested"),
    ("1" * 5000, "5000 digits"),
    ("1" * 21, "21 digits"),
    ("99999999999999999999", "64 bits"),
    ("1e999", "too large"),
    ("-1e999", "too large"),
    ("NaN", "NaN is not a number"),
    ("Infinity", "not a number"),
    ('"\\ud800"', "surrogates not allowed"),
    ('{"\\ud800": 1}', "surrogates not allowed"),
    ("{", "no JSON"),
    ("", "no JSON"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED, ids=[text[:12] for text, _ in REFUSED])
def test_what_is_refused(text, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        parse_json(text, "it")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_what_is_read_is_what_was_written():
    value = {"a": [1, -2.5, None, True, "é", {"b": 18446744073709551616}], "c": "[" * 64}
    assert parse_json(json.dumps(value), "it") == value
    deepest = json.loads("[" * 64 + "]" * 64)
    assert parse_json(json.dumps(deepest), "it") == deepest


def test_bytes_that_are_no_text_and_files_that_are_none(tmp_path):
    (tmp_path / "a").write_bytes(b"abc\xff")
    with pytest.raises(UsageError, match="byte 3 is no UTF-8"):
        read_text(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "none", "a\0b"):
        with pytest.raises(UsageError):
            read_text(tmp_path / name)
    with pytest.raises(UsageError, match="more than 3 bytes"):
        read_text(tmp_path / "a", largest_bytes=3)
    for text in ("a = " + "[" * 3000, "a = " + "9" * 5000, "a = " + "9" * 30, "[" + ".".join("a" * 3000) + "]"):
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(UsageError, match=r"a\.toml is not valid TOML"):
            read_toml(tmp_path / "a.toml")


class Shape(TypedDict, total=False):
    macs: int
    share: float | None


def test_a_schema_names_everything_that_is_wrong():
    assert parse_json('{"macs": 3, "share": 1, "more": "x"}', "it", Shape) == {"macs": 3, "share": 1, "more": "x"}
    with pytest.raises(UsageError, match=r"it is damaged: macs: .*integer, not True; share: .*, not 'x'"):
        parse_json('{"macs": true, "share": "x"}', "it", Shape)


GOOD = '{"kind": "checkpoint", "name": "dense", "path": "checkpoints/dense", "macs": 3}\n'


@pytest.mark.parametrize(
    "line",
    [
        b"\xff",
        b"[" * 3000,
        b"3",
        b'{"kind": "checkpoint"}',
        GOOD.replace("3", '"3"').encode(),
        GOOD.replace("3", "1" * 5000).encode(),
        GOOD.replace("3", "[" * 3000 + "]" * 3000).encode(),
        GOOD.replace("checkpoints/dense", "/usr").encode(),
        GOOD.replace("checkpoints/dense", "a\\u0000b").encode(),
        GOOD.replace('"dense"', "[]").encode(),
        GOOD.replace('"checkpoint"', '"thing"').encode(),
    ],
)
def test_a_damaged_line_of_the_index_is_one_sentence(tmp_path, line):
    (tmp_path / "index.jsonl").write_bytes(GOOD.encode() + line)
    for ask in (lambda run: run.entries("checkpoint"), lambda run: run.add("checkpoint", "a", tmp_path / "a")):
        with pytest.raises(UsageError, match=r"index\.jsonl.* is damaged"):
            ask(RunDirectory(tmp_path))


@pytest.mark.parametrize("name", ["a.tflite", "a.onnx", "a.npz", "a.npy", "a.jsonl", "a.json", "a.toml", "a.wav"])
def test_a_pointer_of_git_lfs_is_named_whatever_the_file_is(tmp_path, name):
    from edgepress.benchmarks.measure.result_log import read
    from edgepress.deploy.onnx_files.reader import read_onnx
    from edgepress.deploy.tflite.reader import read_tflite
    from edgepress.models.files.arrays import read_npy, read_npz
    from edgepress.models.files.reading import open_regular, read_json, read_toml

    readers = {".tflite": read_tflite, ".onnx": read_onnx, ".npz": read_npz, ".npy": read_npy}
    readers |= {".jsonl": read, ".json": read_json, ".toml": read_toml, ".wav": open_regular}
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UsageError, match=r"is a Git LFS pointer and not the file: `git lfs pull` fetches it"):
        readers[path.suffix](path)
