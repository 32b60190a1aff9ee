# SPDX-License-Identifier: Apache-2.0
"""Inputs that spread the outputs of a network, what comes out for them, and a checksum of every layer.

Random integers drive most networks into the limits of their outputs, where a fault is clamped away. So inputs are real
ones where there are data, else the best of many that were made with different strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgepress.deploy.firmware import emit
from edgepress.deploy.firmware.host import HostProgram
from edgepress.deploy.firmware.lowering.constants import number_rows
from edgepress.deploy.firmware.lowering.steps import Network, Value
from edgepress.deploy.firmware.sources import Firmware
from edgepress.models.errors import EdgepressError, RuntimeFailure

#: At most so many vectors, and so many bytes of inputs, which lie in the flash of the example.
_VECTORS, _LARGEST_BYTES = 4, 1 << 16
#: So many inputs are tried.
_CANDIDATES = 48


@dataclass(frozen=True)
class Vectors:
    """What a generated project is tested with.

    Attributes:
        inputs, outputs: [vectors, *shape] each, in the file's own types.
        checksums: uint32 [vectors, layers]; of the plainest kernels on this machine. None without a compiler.
        source: where the inputs come from, for people.
        origin: what gave the outputs, for people.
    """

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    checksums: np.ndarray | None
    source: str
    origin: str


def find_vectors(
    made: Firmware, path: Path, data: str | None = None, *, trust: bool = False
) -> tuple[Vectors | None, int | None]:
    """Vectors for a network, and the head of TFLite Micro's arena where it runs here.

    Args:
        made: the lowered network.
        path: its file.
        data: see `edgepress.deploy.verify.inputs.load_inputs`; None takes the task of the network, else searches.
        trust: allow a task "package.module:factory" to run code.

    Returns:
        (None, ...) where neither TFLite Micro nor a compiler is here.

    Raises:
        UsageError: `data` does not fit the network.
    """
    network = made.network
    source, candidates = _real(path, data, trust) or ("searched", searched(network))
    head, outputs, origin = _from_tflm(path, network, candidates)
    checksums: np.ndarray | None = None
    try:
        with HostProgram(made, check=True) as program:
            given, checksums = program.run_checked(candidates)
    except RuntimeFailure:
        given = []
    if outputs is None:
        outputs, origin = given, "this C, compiled on a host"
    if not outputs:
        return None, head
    size = sum(array[0].nbytes for array in candidates)
    values = [network.values[t] for t in network.outputs]
    chosen = spread(outputs, values, max(1, min(_VECTORS, _LARGEST_BYTES // max(1, size))))
    vectors = Vectors(
        tuple(array[chosen] for array in candidates),
        tuple(array[chosen] for array in outputs),
        None if checksums is None else checksums[chosen],
        source,
        origin,
    )
    return vectors, head


def searched(network: Network, count: int = _CANDIDATES, seed: int = 1) -> list[np.ndarray]:
    """Inputs of many strengths around zero, [count, *shape] each: noise, smooth noise, and a pattern with an offset."""
    generator, found = np.random.default_rng(seed), []
    for tensor in network.inputs:
        value = network.values[tensor]
        made = np.stack([_one(generator, value, i, count) for i in range(count)])
        if value.dtype != "float32":
            info = np.iinfo(value.dtype)
            made = np.clip(np.rint(made * (info.max + 1) + (value.zero_point or 0)), info.min, info.max)
        found.append(made.astype(value.dtype))
    return found


def _one(generator: np.random.Generator, value: Value, number: int, count: int) -> np.ndarray:
    """Real values around 0; a strength of 1 fills the range."""
    strength = 2.0 ** -(6 * (number // 3) / max(1, count // 3 - 1))
    noise = generator.standard_normal(value.shape)
    if number % 3 and noise.ndim > 1:  # neighbours along the second and third dimension belong together
        for axis in range(1, min(3, noise.ndim)):
            noise = np.cumsum(noise, axis)
        noise = noise / max(1e-9, float(noise.std()))
    if number % 3 == 2:
        noise = noise + generator.standard_normal()
    return noise * strength


def spread(outputs: Sequence[np.ndarray], values: Sequence[Value], count: int) -> list[int]:
    """Numbers of the samples whose outputs are least at their limits and furthest from each other.

    One after the other is chosen whose distance to the nearest chosen one, less what lies at a limit, is largest.
    """
    rows = []
    free = np.zeros(len(outputs[0]))
    for array, value in zip(outputs, values, strict=True):
        flat = array.reshape(len(array), -1).astype(np.float64)
        if value.dtype == "float32":
            low, high = float(flat.min()), float(flat.max())
        else:
            low, high = float(np.iinfo(value.dtype).min), float(np.iinfo(value.dtype).max)
        free += ((flat > low) & (flat < high)).mean(1)
        rows.append((flat - low) / max(high - low, 1e-9))
    points = np.concatenate(rows, 1)
    chosen = [int(np.argmax(free))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < min(count, len(points)):
        nearest = np.minimum(nearest, np.abs(points - points[chosen[-1]]).mean(1))
        nearest[chosen[-1]] = -np.inf
        chosen.append(int(np.argmax(nearest + free / len(outputs))))
    return chosen


def _real(path: Path, data: str | None, trust: bool) -> tuple[str, list[np.ndarray]] | None:
    from edgepress.deploy.artifact import find_manifest
    from edgepress.deploy.runtimes.sessions import open_session
    from edgepress.deploy.verify.inputs import real_inputs

    manifest = find_manifest(path) or {}
    if data is None and not (manifest.get("spec") or {}).get("task"):
        return None
    with open_session(path, "host-c") as session:
        inputs = real_inputs(data, session, manifest, _CANDIDATES, trust, 0, [])
        return None if inputs is None else (inputs.source, list(session.quantize(*inputs.arrays)))


def _from_tflm(
    path: Path, network: Network, inputs: Sequence[np.ndarray]
) -> tuple[int | None, list[np.ndarray] | None, str]:
    """(head of the arena, outputs [N, *shape], what gave them) of TFLite Micro; nothing where it does not run here."""
    from edgepress.deploy.runtimes.sessions import open_session

    values = [network.values[t] for t in network.outputs]
    try:
        with open_session(path, "tflm") as session:
            made = []
            for i in range(len(inputs[0])):
                each = session.run_integer(*(array[i] for array in inputs))
                made.append(each if isinstance(each, tuple) else (each,))
            head = session.arena_bytes().get("head")
    except EdgepressError:
        return None, None, ""
    outputs = [np.stack([np.asarray(each[o]).reshape(value.shape) for each in made]) for o, value in enumerate(values)]
    return head, outputs, "TFLite Micro"


def header(made: Firmware, vectors: Vectors) -> str:
    """NAME_test_vector.h."""
    name, upper = made.name, made.name.upper()
    lines = [
        f"/* Inputs ({vectors.source}) and the outputs that {vectors.origin} gives for them. */",
        f"#ifndef {upper}_TEST_VECTOR_H_",
        f"#define {upper}_TEST_VECTOR_H_",
        "",
        "#include <stdint.h>",
        "",
        f"#define {upper}_TEST_VECTORS {len(vectors.inputs[0])}",
        "",
    ]
    for side, arrays in (("input", vectors.inputs), ("output", vectors.outputs)):
        for i, array in enumerate(arrays):
            declared = emit.declared(f"{name}_test_{side}_{i}", array).removeprefix("const ")
            lines += [f"static const {declared} = {{", *number_rows(array.reshape(-1).tolist()), "};"]
    if vectors.checksums is not None:
        declared = emit.declared(f"{name}_test_checksums", vectors.checksums).removeprefix("const ")
        numbers = number_rows(vectors.checksums.reshape(-1).tolist(), hexadecimal=True)
        lines += ["#if EP_CHECK", f"static const {declared} = {{", *numbers, "};", "#endif"]
    return "\n".join([*lines, "", "#endif", ""])
