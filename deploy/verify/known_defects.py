# SPDX-License-Identifier: Apache-2.0
"""Defects of runtimes themselves: the file is right, one runtime's kernel isn't, and its makers know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Defect:
    """A kernel that computes something else than its definition.

    Attributes:
        runtime: that has it.
        operator: TFLite operator.
        types: of the tensor that it reads.
        says: what goes wrong.
        link: where it was reported.
    """

    runtime: str
    operator: str
    types: tuple[str, ...]
    says: str
    link: str


#: A line goes when a released runtime is without the defect.
DEFECTS = (
    Defect(
        "litert-reference",
        "SUM",
        ("int8", "int16"),
        "its reference kernel reads signed integers as uint8",
        "https://github.com/google-ai-edge/LiteRT/issues/4079",
    ),
)


def defects_in(path: Path, runtime: str) -> list[str]:
    """Known defects of a runtime which a TFLite file meets, as sentences with a link."""
    from edgepress.deploy.tflite.reader import read_tflite

    candidates = [defect for defect in DEFECTS if defect.runtime == runtime]
    if not candidates or path.suffix.lower() != ".tflite":
        return []
    found: dict[str, None] = {}
    for graph in read_tflite(path.read_bytes()).subgraphs:
        for operator in graph.operators:
            read = graph.tensors[operator.inputs[0]].dtype if operator.inputs else ""
            for defect in candidates:
                if operator.code == defect.operator and str(read) in defect.types:
                    found[f"{runtime}: {defect.operator} of {read}: {defect.says} ({defect.link})"] = None
    return list(found)
