"""The table of front ends: its marks, its page, and labels from the waveform of a synthetic task."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

from edgepress.benchmarks.experiments import hearing
from edgepress.deploy.artifact import write_manifest
from edgepress.deploy.firmware.boards import missing_tools
from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.log_mel import MEL16K

RESULT = {
    "command": "python -m edgepress.benchmarks.experiments.hearing",
    "front_ends": [
        {
            "preset": "mel22",
            "core": "cortex-m4",
            "form": "float",
            "instructions": 4_900_000,
            "flash_bytes": 27_000,
            "ram_bytes": 19_992,
            "stack_bytes": 440,
            "largest_step": 1,
            "mean_step": 0.0001,
        }
    ],
    "features": [
        {
            "preset": "mel22",
            "clips": 100,
            "float_largest": 9e-5,
            "float_mean": 3e-7,
            "fixed_largest": 0.009,
            "fixed_mean": 0.0001,
        }
    ],
    "from_the_waveform": {
        "file": "scenes.tflite",
        "task": "scenes",
        "rows": [{"runtime": "cortex-m4", "clips": 1000, "equal": 995, "correct": 701, "python_correct": 700}],
    },
}


def test_what_keeps_the_marks_is_not_missed():
    assert hearing.violations(RESULT) == []
    page = hearing.page(RESULT)
    assert "| mel22 | cortex-m4 | float | 4,900,000 | 27,000 | 19,992 | 440 | 1, 0.0001 |" in page
    assert "| cortex-m4 | 1,000 | 99.50% | 70.10% | 70.00% |" in page
    assert "Missed" not in page
    assert "$" not in page


@pytest.mark.parametrize(
    ("where", "change", "words"),
    [
        ("front_ends", {"instructions": 5_000_001}, "instructions 5,000,001, allowed are 5,000,000"),
        ("front_ends", {"flash_bytes": 30_001}, "flash_bytes 30,001"),
        ("front_ends", {"ram_bytes": 20_001}, "ram_bytes 20,001"),
        ("features", {"float_largest": 1.1e-4}, "1.1e-04 from training's features"),
        ("heard", {"equal": 989}, "98.90% of the labels"),
        ("heard", {"correct": 696}, "accuracy -0.40%"),
    ],
)
def test_what_misses_a_mark_is_said(where, change, words):
    result = deepcopy(RESULT)
    rows = result["from_the_waveform"]["rows"] if where == "heard" else result[where]
    rows[0].update(change)
    assert any(words in line for line in hearing.violations(result))
    assert "Missed: " in hearing.page(result)


def test_labels_from_the_waveform_are_those_of_python(tmp_path):
    pytest.importorskip("tflite_micro")
    path = tmp_path / "back.tflite"
    path.write_bytes(hearing.pass_through(MEL16K, 32))
    with pytest.raises(UsageError, match="names no front end"):
        hearing.from_the_waveform(path, "synthetic", {"host-c": 4})
    spec = {"factory": "x", "arguments": {}, "input_shapes": [[1, 128, 32]], "front_end": MEL16K.to_json()}
    write_manifest(path, {"format": "tflite", "scheme": "w8a8", "spec": spec, "ranges": {}})
    found = hearing.from_the_waveform(path, "synthetic", {"host-c": 12, "host-c fixed point": 12})
    for row in found["rows"]:
        assert row["clips"] == 12
        # The loudest band of all is the same one but for ties in int8.
        assert row["equal"] >= 11


@pytest.mark.slow
def test_a_row_of_the_table(monkeypatch):
    if reason := missing_tools("cortex-m4"):
        pytest.skip(reason)
    clips = np.round(np.random.default_rng(0).normal(size=(2, 16000)) * 3000).astype(np.int16)
    row = hearing.front_end_row("mel16k", "cortex-m4", clips)
    assert row["form"] == "float"
    assert row["largest_step"] <= 1
    assert row["instructions"] < 2_500_000
    assert 4 * 1024 < row["flash_bytes"] < 20_000
