# SPDX-License-Identifier: Apache-2.0
"""What a converter gives: a file in memory, and what its manifest has to say about it."""

from __future__ import annotations

from dataclasses import dataclass

from edgepress.models.errors import UsageError


class ConversionError(UsageError):
    """A converter cannot take the network."""


@dataclass(frozen=True)
class ConvertedFile:
    """A TFLite or ONNX file in memory.

    Attributes:
        data: the flatbuffer or protobuf.
        ranges: tensor name in the file -> {"scale", "zero_point"} of activations.
        islands: operators which stay in float, as "OPERATOR (value)".
        layouts: {"inputs": [...], "outputs": [...]} of "NHWC" (TFLite), "NCHW" (ONNX) or None for what is no image.
    """

    data: bytes
    ranges: dict[str, dict[str, float]]
    islands: list[str]
    layouts: dict[str, list[str | None]]
