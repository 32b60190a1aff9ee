# SPDX-License-Identifier: Apache-2.0
"""Sizes that a .tflite leaves open, given from outside: LiteRT infers those of every tensor, in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgepress.deploy.tflite.reader import Tensor, TFLiteModel
from edgepress.models.children import bound
from edgepress.models.errors import RuntimeFailure, UsageError

_SECONDS = 60
_INFER = """
import json, sys
from ai_edge_litert.interpreter import Interpreter, OpResolverType
interpreter = Interpreter(
    sys.argv[1], experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
)
for index, sizes in json.loads(sys.argv[2]):
    interpreter.resize_tensor_input(index, sizes)
interpreter.allocate_tensors()
print(json.dumps({d["index"]: [int(s) for s in d["shape"]] for d in interpreter.get_tensor_details()}))
"""


def with_shapes(path: str | Path, model: TFLiteModel, shapes: Mapping[str, Sequence[int]]) -> TFLiteModel:
    """The model with the sizes that follow from those of its inputs.

    Args:
        path: of the file.
        model: as read from it.
        shapes: input -> sizes; "" names the only input.

    Raises:
        UsageError: no such input, or a size that the file fixes otherwise.
        RuntimeFailure: LiteRT is missing or refuses.
    """
    inputs = {tensor.name: tensor for tensor in model.inputs}
    wanted = []
    for name, sizes in shapes.items():
        tensor = inputs.get(name) or (model.inputs[0] if not name and len(model.inputs) == 1 else None)
        if tensor is None:
            raise UsageError(f"--shape names the input {name!r}; the file has {', '.join(inputs)}")
        fixed = tensor.shape_signature or tensor.shape
        if len(fixed) != len(sizes) or any(old not in (-1, new) for old, new in zip(fixed, sizes, strict=True)):
            stored = ",".join("?" if size < 0 else str(size) for size in fixed)
            raise UsageError(f"--shape {tensor.name}={','.join(map(str, sizes))} does not fit the file's {stored}")
        wanted.append([tensor.index, list(sizes)])
    found = _infer(Path(path), wanted)
    graph = model.subgraphs[0]
    tensors = tuple(_resized(tensor, found.get(tensor.index)) for tensor in graph.tensors)
    return replace(model, subgraphs=(replace(graph, tensors=tensors), *model.subgraphs[1:]))


def _resized(tensor: Tensor, sizes: Sequence[int] | None) -> Tensor:
    """What is only known once the network runs has no elements here, and stays open."""
    if tensor.constant or sizes is None or 0 in sizes:
        return tensor
    return replace(tensor, shape=tuple(sizes), shape_signature=tuple(sizes))


def _infer(path: Path, wanted: list[list[object]]) -> dict[int, list[int]]:
    command = bound([sys.executable, "-P", "-c", _INFER, str(path.resolve()), json.dumps(wanted)])
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            text=True,
            errors="replace",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"LiteRT did not infer the sizes of {path} within {_SECONDS} s") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        how = ": pip install ai-edge-litert" if "ModuleNotFoundError" in reason else ""
        raise RuntimeFailure(f"LiteRT does not infer the sizes of {path}: {reason[:300]}{how}")
    return {int(index): sizes for index, sizes in json.loads(done.stdout).items()}
