# SPDX-License-Identifier: Apache-2.0
"""An ONNX file in OpenVINO's own format (.xml and .bin); proven equal to what OpenVINO makes of the file itself.

https://docs.openvino.ai/2026/documentation/openvino-ir-format.html
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from edgepress.deploy.verify.conversion import SAMPLES, convert_apart, largest_difference, outputs_of, proven_equal
from edgepress.models.errors import UsageError


def openvino_files(path: str | Path, target: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write an .xml and a .bin that give what OpenVINO gives for the .onnx file.

    Args:
        path: an .onnx file.
        target: the .xml; the .bin stands beside it, and its manifest is that of `path`, with this report in it.
        overwrite: replace existing files.

    Returns:
        {"before": bytes, "after": bytes of both files, "samples": of random inputs, "max_abs": largest difference of
        an output between the two, "onnxruntime_max_abs": the same to ONNX Runtime, "onnxruntime_max_lsb": in steps of
        the first output, None in float}.

    Raises:
        UsageError: a target exists or does not end in .xml, or the file is missing or damaged.
        ParityError: outputs differ by more than float32 rounds; nothing is written.
        RuntimeFailure: OpenVINO is missing, or cannot convert or run the file.
    """
    from edgepress.deploy.artifact import find_manifest, sha256_of, write_manifest
    from edgepress.deploy.onnx_files.reader import read_onnx
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.verify.inputs import random_inputs
    from edgepress.models.atomic import write_bytes

    path, target = Path(path), Path(target)
    weights = target.with_suffix(".bin")
    if target.suffix != ".xml":
        raise UsageError(f"{target} must end in .xml, by which OpenVINO knows the format")
    for file in (target, weights):
        if file.exists() and not overwrite:
            raise UsageError(f"{file} exists already; choose another name or allow overwriting with --overwrite")
    read_onnx(path)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / target.name
        with open_session(path, "openvino") as before, open_session(path, "onnxruntime") as other:
            told = [f"{key}={value}" for key, value in _borders(before).items()]
            convert_apart("edgepress.deploy.openvino_ir.convert", "OpenVINO", path, draft, told)
            with open_session(draft) as after:
                inputs = random_inputs(before, SAMPLES)
                given, made, beside = (outputs_of(s.run(*inputs.arrays)) for s in (before, after, other))
            step = before.output.scale
        largest = proven_equal(given, made, path, target)
        files = draft.read_bytes(), draft.with_suffix(".bin").read_bytes()
    for file, data in zip((target, weights), files, strict=True):
        write_bytes(file, data)
    report = {
        "before": path.stat().st_size,
        "after": sum(map(len, files)),
        "samples": SAMPLES,
        "max_abs": largest,
        "onnxruntime_max_abs": largest_difference(given, beside),
        "onnxruntime_max_lsb": None if step is None else largest_difference(given[:1], beside[:1]) / step,
    }
    manifest = {"format": "openvino", "openvino": report, "files": {weights.name: sha256_of(weights)}}
    of_path = find_manifest(path)
    write_manifest(target, {**(of_path or {"scheme": "unknown"}), **manifest})
    return report


def _borders(session: Any) -> dict[str, str]:
    """Integers of each input and output, as `engine.BORDERS` has them; empty where not all have some."""
    sides = {"input": session.inputs, "output": session.outputs}
    if any(details.scale is None for details in (*session.inputs, *session.outputs)):
        return {}
    return {
        f"{side}{index}": f"{details.scale!r} {details.zero_point} {details.dtype}"
        for side, found in sides.items()
        for index, details in enumerate(found)
    }


def convert(path: str, target: str, *told: str) -> None:
    """The conversion itself, in this process; `told` is key=value of each border."""
    from edgepress.deploy.openvino_ir.engine import BORDERS, import_openvino

    openvino = import_openvino()
    model = openvino.Core().read_model(path)
    for entry in told:
        key, _, value = entry.partition("=")
        model.set_rt_info(value, [BORDERS, key])
    openvino.save_model(model, target, compress_to_fp16=False)


if __name__ == "__main__":
    convert(*sys.argv[1:])
