"""The arena of TFLite Micro, measured in a child process."""

from __future__ import annotations

import importlib.util

import pytest

from deploy.tflm_arena import Arena, measure_arena
from models.errors import RuntimeFailure, UsageError

needs_tflm = pytest.mark.skipif(importlib.util.find_spec("tflite_micro") is None,
                                reason="TFLite Micro's package exists for 64-bit x86 Linux only")


@needs_tflm
@pytest.mark.parametrize(("name", "expected"), [
    ("kws_ref_model", Arena(24_272, 16_000, 8_272)), ("pretrainedResnet_quant", Arena(55_984, 49_152, 6_832))])
def test_the_reference_models(shared, name, expected):
    assert measure_arena(shared / "data" / "reference_models" / f"{name}.tflite") == expected


@needs_tflm
def test_a_damaged_file_is_a_failure_with_one_sentence(shared, tmp_path):
    data = (shared / "data" / "reference_models" / "kws_ref_model.tflite").read_bytes()
    (tmp_path / "half.tflite").write_bytes(data[:20_000])
    with pytest.raises(RuntimeFailure, match="damaged") as caught:
        measure_arena(tmp_path / "half.tflite")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        measure_arena(tmp_path / "absent.tflite")


@needs_tflm
def test_a_child_that_takes_too_long_is_stopped(shared):
    with pytest.raises(RuntimeFailure, match=r"within 0\.001 s"):
        measure_arena(shared / "data" / "reference_models" / "kws_ref_model.tflite", timeout_s=0.001)
