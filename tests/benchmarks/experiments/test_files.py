"""Public files through every command: the page is what the results say, and no command left as it may not."""

from __future__ import annotations

import json
from pathlib import Path

from edgepress.benchmarks.experiments.files import COMMANDS, _short, defects, find_files, page, run_one

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "files.json"


def test_the_page_is_what_the_results_say():
    result = json.loads(RESULTS.read_text())
    assert (ROOT / "docs" / "files.md").read_text() == page(result)
    assert len(result["files"]) >= 40
    assert {Path(row["file"]).suffix for row in result["files"]} == {".tflite", ".onnx"}


def test_every_command_left_with_a_code_and_a_reason():
    rows = json.loads(RESULTS.read_text())["files"]
    assert defects(rows) == []
    # What was not counted is not known, and a file whose operators nobody counts passes no limit on MACs.
    assert all(row["gate"]["code"] == 1 for row in rows if row["macs"] is None)


def test_a_wrong_code_or_a_missing_reason_is_a_defect():
    good = {command: {"code": 0, "reason": ""} for command in COMMANDS}
    row = {"file": "m.tflite", **good}
    assert defects([row]) == []
    for code, reason in ((139, "crashed"), (None, "did not end"), (2, ""), (3, "internal error: KeyError")):
        assert len(defects([{**row, "gate": {"code": code, "reason": reason}}])) == 1


def test_reasons_are_short_and_name_no_folder():
    assert _short("cannot read /a/b-c/d.tflite:\n  no") == "cannot read d.tflite: no"
    assert len(_short("x" * 500)) == 243


def test_files_of_packages_and_a_command_on_one(tmp_path, shared):
    folder = tmp_path / "magika" / "magika" / "models" / "v1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"nonsense")
    found = {
        name: path for package, name, path in find_files(tmp_path, shared) if "magika" in package or "shared" in package
    }
    assert found["v1/model.onnx"] == folder / "model.onnx"
    assert "tflm_dtln.tflite" in found
    outcome, printed = run_one("profile", folder / "model.onnx")
    assert (outcome["code"], printed) == (2, {})
    assert outcome["reason"].startswith("model.onnx is damaged or no .onnx file")
