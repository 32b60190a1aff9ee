# SPDX-License-Identifier: Apache-2.0
"""The folder that `deploy export --format c-inference` makes: flat C sources, or a project of a build system."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

from edgepress.deploy.artifact import find_manifest
from edgepress.deploy.firmware import emit
from edgepress.deploy.firmware.front_end.emit import definition_of
from edgepress.deploy.firmware.projects.example import audio_example, input_example
from edgepress.deploy.firmware.projects.interface import class_names, interface_header, interface_source
from edgepress.deploy.firmware.projects.systems import SYSTEMS, Parts, project_files
from edgepress.deploy.firmware.sources import (
    HOT_SOURCES,
    KERNEL_SOURCES,
    Firmware,
    compiled_sources,
    firmware,
    identifier,
    kernels,
    kernels_digest,
    sources,
    substituted,
)
from edgepress.deploy.firmware.vectors import find_vectors, header
from edgepress.models.atomic import new_directory
from edgepress.models.errors import UsageError


def write_project(
    model: str | Path,
    folder: str | Path,
    *,
    name: str | None = None,
    system: str | None = None,
    data: str | None = None,
    trust: bool = False,
    overwrite: bool = False,
) -> Firmware:
    """Write a folder with sources, CMakeLists.txt, an example main and test vectors, or a project of a build system.

    Args:
        model: a .tflite file.
        folder: to make.
        name: prefix of its names in C; None takes the file's.
        system: a key of `SYSTEMS`, whose example prints the label of a recording or an input in flash; None for a flat
            folder.
        data: real inputs for the test vectors (see `edgepress.deploy.verify.inputs.load_inputs`); None takes the task
            that the file's manifest names, else searches some.
        trust: allow a task "package.module:factory" to run code.
        overwrite: replace an existing folder.

    Raises:
        UsageError: something in the file has no kernel (nothing is written then), the folder exists, or there is no
            such build system.
    """
    path = Path(model)
    if system is not None and system not in SYSTEMS:
        raise UsageError(f"project = {system!r} is unknown: allowed are {', '.join(SYSTEMS)}")
    made = firmware(path, name or identifier(path.stem), definition_of(path))
    vectors, head = find_vectors(made, path, data, trust=trust)
    spec = (find_manifest(path) or {}).get("spec") or {}
    kind = (spec.get("front_end") or {}).get("kind", "log_mel")
    if kind not in ("log_mel", "images"):
        made = replace(made, deaf=f"features of the kind {kind} have no C")
    names = class_names(made, spec.get("classes") or ())
    texts = sources(made, path.name, head)
    texts[f"{made.name}_classes.h"] = interface_header(made, names)
    texts[f"{made.name}_classes.c"] = interface_source(made, names)
    if vectors is not None:
        texts[f"{made.name}_test_vector.h"] = header(made, vectors)
    if system is None:
        texts["CMakeLists.txt"] = _cmake_lists(made)
        if vectors is not None:
            texts["main.c"] = _example(made)
    else:
        shown = audio_example(made, made.front_end, data, trust) if made.front_end else input_example(made, vectors)
        shared = kernels()
        own = {file: text for file, text in texts.items() if file not in shared}
        texts = project_files(system, Parts(made.name, shared, own, shown.files, kernels_digest()))
    with new_directory(folder, overwrite=overwrite) as draft:
        emit.write_sources(draft, texts)
    return made


def _cmake_lists(made: Firmware) -> str:
    own = [file for file in compiled_sources(made) if file not in KERNEL_SOURCES]
    return substituted(
        "CMakeLists.txt",
        made,
        digest=kernels_digest(),
        kernels=" ".join(KERNEL_SOURCES),
        sources=" ".join([*own, f"{made.name}_classes.c"]),
        hot=" ".join(HOT_SOURCES),
    )


def _example(made: Firmware) -> str:
    name, upper = made.name, made.name.upper()
    given = [
        f"  memcpy({name}_input({i}), {name}_test_input_{i} + vector * {_elements(made, t)}, "
        f"{upper}_INPUT_{i}_BYTES);\n"
        for i, t in enumerate(made.network.inputs)
    ]
    if made.network.states:
        given.insert(0, f"  {name}_reset();\n")
    checked = [
        f"  wrong |= memcmp({name}_output({i}), {name}_test_output_{i} + vector * {_elements(made, t)}, "
        f"{upper}_OUTPUT_{i}_BYTES) != 0;\n"
        for i, t in enumerate(made.network.outputs)
    ]
    return substituted("main.c", made, set_inputs="".join(given), check_outputs="".join(checked))


def _elements(made: Firmware, tensor: int) -> int:
    return prod(made.network.values[tensor].shape)
