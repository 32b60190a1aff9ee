# SPDX-License-Identifier: Apache-2.0
"""Other converters: a float network and calibration batches go in, their int8 file comes out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgepress.models.errors import RuntimeFailure, UsageError


def litert_file(model: Any, example: tuple[Any, ...], batches: Sequence[Any], path: Path) -> None:
    """The float file of LiteRT-Torch, quantized by ai-edge-quantizer with its own calibration."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    from edgepress.deploy.export.to_tflite import convert_float, silenced

    data, _ = convert_float(model.eval(), tuple(x[:1] for x in example))
    plain = path.with_name("plain.tflite")
    plain.write_bytes(data)
    signature, names = next(iter(Interpreter(model_content=data).get_signature_list().items()))
    clips = [
        {name: _channels_last(x[i : i + 1].numpy()) for name, x in zip(sorted(names["inputs"]), batch, strict=True)}
        for batch in batches
        for i in range(len(batch[0]))
    ]
    with silenced():
        maker = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
        path.write_bytes(cast("bytes", maker.quantize(maker.calibrate({signature: clips})).quantized_model))


def onnxruntime_file(
    model: Any, example: tuple[Any, ...], batches: Sequence[Any], path: Path, *, dynamic_batch: bool = True
) -> None:
    """torch's own ONNX export, quantized by onnxruntime with its own calibration, per channel."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from edgepress.deploy.export.to_tflite import silenced

    plain, prepared = path.with_name("plain.onnx"), path.with_name("prepared.onnx")
    names = plain_onnx(model, example, plain, dynamic_batch=dynamic_batch)
    with silenced():
        # The symbolic inference of shapes fails on reductions without axes; that of onnx is enough.
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)

        class Reader(CalibrationDataReader):
            """The clips of the calibration split, one at a time."""

            def __init__(self) -> None:
                self._clips = (
                    {name: x[i : i + 1].numpy() for name, x in zip(names, batch, strict=True)}
                    for batch in batches
                    for i in range(len(batch[0]))
                )

            def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
                return next(self._clips, None)

        quantize_static(str(prepared), str(path), Reader(), per_channel=True)


def onnx2tf_file(model: Any, example: tuple[Any, ...], batches: Sequence[Any], path: Path, python: Path) -> None:
    """torch's own ONNX export by onnx2tf and TensorFlow's converter: int8 with int8 inputs and outputs, per channel.

    Raises:
        RuntimeFailure: the other Python fails; the message carries its last line.
    """
    plain, clips = path.with_name("static.onnx"), path.with_name("clips.npy")
    (name,) = plain_onnx(model, example, plain, dynamic_batch=False)
    np.save(clips, np.concatenate([np.moveaxis(x.numpy(), 1, -1) for (x,) in batches]))
    command = [
        str(python),
        "-I",
        "-m",
        "onnx2tf",
        "-i",
        plain.name,
        "-o",
        "onnx2tf",
        "-n",
        "-oiqt",
        "-qt",
        "per-channel",
        "-cind",
        name,
        clips.name,
        "[[[[0]]]]",
        "[[[[1]]]]",
    ]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    made = path.parent / "onnx2tf" / f"{plain.stem}_full_integer_quant.tflite"
    if done.returncode or not made.is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RuntimeFailure(f"onnx2tf of {python} failed: {last:.200}")
    made.rename(path)


def plain_onnx(model: Any, example: tuple[Any, ...], path: Path, *, dynamic_batch: bool) -> list[str]:
    """torch's own ONNX export; gives the names of the inputs."""
    import torch

    from edgepress.deploy.export.to_onnx import OPSET
    from edgepress.deploy.export.to_tflite import silenced

    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in example) if dynamic_batch else None
    inputs = tuple(torch.cat([x, x])[:2] for x in example) if dynamic_batch else example
    with silenced():
        program = torch.onnx.export(
            model.eval(),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            external_data=False,
            dynamic_shapes=shapes,
        )
        assert program is not None, "the exporter gave nothing"
        program.save(str(path))
    return [value.name for value in program.model_proto.graph.input]


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def versions_of(python: Path) -> dict[str, str]:
    """Versions of onnx2tf and its tensorflow.

    Raises:
        UsageError: that Python does not have them.
    """
    names = ("onnx2tf", "tensorflow")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    try:
        done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise UsageError(
            f"--onnx2tf {python} is no Python with onnx2tf and tensorflow; make one with python -m venv "
            "and pip install onnx2tf==1.29.24"
        ) from error
