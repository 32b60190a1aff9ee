# SPDX-License-Identifier: Apache-2.0
"""The profile of a compiled file (.pte, .ort, OpenVINO's .xml): its bytes; what is inside was made for one runtime."""

from __future__ import annotations

from pathlib import Path

from edgepress.benchmarks.measure.profiles import Profile
from edgepress.models.cost.op_costs import RULES
from edgepress.models.files.reading import file_sha256

#: Suffix -> format, and what is beside the file.
COMPILED = {".pte": "executorch", ".ort": "ort", ".xml": "openvino"}


def compiled_profile(path: Path, schema: int) -> Profile:
    """Bytes and sha256; every count is null, with the reason in `notes`.

    Args:
        path: a file with a suffix of `COMPILED`; of OpenVINO's two files the .xml, the bytes being those of both.
        schema: of profiles.
    """
    format = COMPILED[path.suffix.lower()]
    why = (
        f"a {path.suffix.lower()} holds what was compiled for one runtime, whose layers nobody can count: profile the "
        ".tflite or .onnx of the same checkpoint"
    )
    weights = path.with_suffix(".bin")
    file_bytes = path.stat().st_size + (weights.stat().st_size if format == "openvino" and weights.is_file() else 0)
    keys = ("params", "weight_bytes", "constant_bytes", "peak_activation_bytes")
    return {
        "schema": schema,
        "format": format,
        "sha256": file_sha256(path),
        "file_bytes": file_bytes,
        "arena_bytes": {"tflm": None},
        "macs": dict.fromkeys(RULES),
        "params": None,
        "weight_bytes": None,
        "constant_bytes": None,
        "peak_activation_bytes": None,
        "inputs": [],
        "outputs": [],
        "layers": [],
        "memory": [],
        "uncounted": [],
        "facts": {},
        "notes": {
            **dict.fromkeys(RULES, why),
            **dict.fromkeys(keys, why),
            "arena": f"TFLite Micro runs .tflite files, not {path.suffix.lower()}",
        },
    }
