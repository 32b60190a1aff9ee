# SPDX-License-Identifier: Apache-2.0
"""The types in which an ONNX file holds 8-bit activations and weights."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from edgepress.models.errors import UsageError

IntegerType: TypeAlias = type[np.int8] | type[np.uint8]

#: ONNX Runtime's names of the types of activations and of weights -> both. All hold the same real values to the bit;
#: what differs is the kernels. On x86 without VNNI those of int8 weights add two products in saturating 16 bits.
TYPES: dict[str, tuple[IntegerType, IntegerType]] = {
    "u8u8": (np.uint8, np.uint8),
    "u8s8": (np.uint8, np.int8),
    "s8s8": (np.int8, np.int8),
}


def integer_types(name: str) -> tuple[IntegerType, IntegerType]:
    """The types of activations and weights.

    Raises:
        UsageError: an unknown name.
    """
    if name not in TYPES:
        raise UsageError(f"onnx_integers = {name!r} is unknown: allowed are {', '.join(TYPES)}")
    return TYPES[name]


def in_type(values: np.ndarray, dtype: IntegerType) -> np.ndarray:
    """int8 in that type; as uint8 128 higher."""
    return values if dtype is np.int8 else (values.astype(np.int16) + 128).astype(np.uint8)
