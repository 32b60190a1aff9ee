# SPDX-License-Identifier: Apache-2.0
"""An ONNX file in ONNX Runtime's own format (.ort), for its small builds; proven equal to the file it came from.

https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from edgepress.deploy.verify.conversion import SAMPLES, convert_apart, outputs_of, proven_equal
from edgepress.models.errors import UsageError


def ort_file(path: str | Path, target: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write an .ort file that gives what the .onnx file gives.

    Graph optimisations are those that hold on every processor: what is laid out for this one is left out.

    Args:
        path: an .onnx file.
        target: the .ort file; its manifest is that of `path`, with this report in it.
        overwrite: replace an existing file.

    Returns:
        {"before": bytes, "after": bytes, "samples": of random inputs, "max_abs": largest difference of an output}.

    Raises:
        UsageError: `target` exists or does not end in .ort, or the file is missing or damaged.
        ParityError: outputs differ by more than float32 rounds; nothing is written.
        RuntimeFailure: ONNX Runtime is missing, or cannot convert or run the file.
    """
    from edgepress.deploy.artifact import find_manifest, write_manifest
    from edgepress.deploy.onnx_files.reader import read_onnx
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.verify.inputs import random_inputs
    from edgepress.models.atomic import write_bytes

    path, target = Path(path), Path(target)
    if target.suffix != ".ort":
        raise UsageError(f"{target} must end in .ort, by which ONNX Runtime knows the format")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already; choose another name or allow overwriting with --overwrite")
    read_onnx(path)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / target.name
        with open_session(path, "onnxruntime") as before:
            convert_apart("edgepress.deploy.verify.ort", "ONNX Runtime", path, draft)
            with open_session(draft, "onnxruntime") as after:
                inputs = random_inputs(before, SAMPLES)
                given, made = before.run(*inputs.arrays), after.run(*inputs.arrays)
        largest = proven_equal(outputs_of(given), outputs_of(made), path, target)
        data = draft.read_bytes()
    write_bytes(target, data)
    report = {"before": path.stat().st_size, "after": len(data), "samples": SAMPLES, "max_abs": largest}
    manifest = find_manifest(path)
    if manifest is not None:
        write_manifest(target, {**manifest, "format": "ort", "ort": report})
    return report


def convert(path: str, target: str) -> None:
    """The conversion itself, in this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = target
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
    )


if __name__ == "__main__":
    convert(*sys.argv[1:])
