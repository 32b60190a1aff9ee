# SPDX-License-Identifier: Apache-2.0
"""The folder of C sources that `deploy export --format c-inference` makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgepress.deploy.firmware import emit
from edgepress.deploy.firmware.host import HostProgram
from edgepress.deploy.firmware.lowering.lower import lower
from edgepress.deploy.firmware.sources import (
    HOT_SOURCES,
    Firmware,
    compiled_sources,
    firmware,
    identifier,
    random_sample,
    sources,
    substituted,
)
from edgepress.models.atomic import new_directory
from edgepress.models.errors import EdgepressError

#: Inputs, outputs, and what gave them.
Vector = tuple[Sequence[np.ndarray], Sequence[np.ndarray], str]


def write_project(
    model: str | Path, folder: str | Path, *, name: str | None = None, overwrite: bool = False
) -> Firmware:
    """Write a folder with sources, CMakeLists.txt, an example main and a test vector.

    Args:
        model: a .tflite file.
        folder: to make.
        name: prefix of its names in C; None takes the file's.
        overwrite: replace an existing folder.

    Raises:
        UsageError: something in the file has no kernel (nothing is written then), or the folder exists.
    """
    path = Path(model)
    made = firmware(path, name or identifier(path.stem))
    vector, head = _reference(path)
    texts = sources(made, path.name, head)
    texts["CMakeLists.txt"] = substituted(
        "CMakeLists.txt", made, sources=" ".join(compiled_sources(made)), hot=" ".join(HOT_SOURCES)
    )
    if vector is None:
        vector = _own_vector(made)
    if vector is not None:
        inputs, outputs, origin = vector
        texts[f"{made.name}_test_vector.h"] = _test_vector(made, inputs, outputs, origin)
        texts["main.c"] = _example(made)
    with new_directory(folder, overwrite=overwrite) as draft:
        emit.write_sources(draft, texts)
    return made


def _reference(path: Path) -> tuple[Vector | None, int | None]:
    """A test vector from TFLite Micro, and the head of its arena; nothing where it does not run here."""
    from edgepress.deploy.runtimes.sessions import open_session

    network = lower(path)
    if any(network.values[t].shape[:1] != (1,) for t in network.inputs):
        return None, None
    inputs = [sample[0] for sample in random_sample(network)]
    try:
        with open_session(path, "tflm") as session:
            outputs = session.run_integer(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            return (inputs, outputs, "TFLite Micro"), session.arena_bytes().get("head")
    except EdgepressError:
        return None, None


def _own_vector(made: Firmware) -> Vector | None:
    """A test vector of this very C, compiled here: it shows that another compiler gives the same."""
    inputs = random_sample(made.network)
    try:
        with HostProgram(made) as program:
            return inputs, program.run(inputs), "this C, compiled on a host"
    except EdgepressError:
        return None


def _test_vector(made: Firmware, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], origin: str) -> str:
    lines = [f"/* A random input and the output that {origin} gives for it. */", "#include <stdint.h>", ""]
    for side, arrays in (("input", inputs), ("output", outputs)):
        for i, array in enumerate(arrays):
            declared = emit.declared(f"{made.name}_test_{side}_{i}", array).removeprefix("const ")
            lines += [f"static const {declared} = {{", *emit.number_rows(array.reshape(-1).tolist()), "};"]
    return "\n".join([*lines, ""])


def _example(made: Firmware) -> str:
    name, upper = made.name, made.name.upper()
    given = [
        f"  memcpy({name}_input({i}), {name}_test_input_{i}, {upper}_INPUT_{i}_BYTES);\n"
        for i in range(len(made.network.inputs))
    ]
    checked = [
        f"  wrong |= memcmp({name}_output({i}), {name}_test_output_{i}, {upper}_OUTPUT_{i}_BYTES) != 0;\n"
        for i in range(len(made.network.outputs))
    ]
    return substituted("main.c", made, set_inputs="".join(given), check_outputs="".join(checked))
