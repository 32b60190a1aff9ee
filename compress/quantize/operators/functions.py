# SPDX-License-Identifier: Apache-2.0
"""Functions of one variable, which a file holds as a table of 256 integers.

Exact for 8 bits, whatever the function. Of 16 bits the upper ones choose the entry, and the rest is multiplied with the
slope there, which a second table holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

aten = torch.ops.aten


def log_from_root(root: torch.Tensor, count: int) -> torch.Tensor:
    """log(sum of `count` values) of 1 / sqrt of their mean."""
    return math.log(count) - 2 * torch.log(root)


#: Operators of one tensor (and numbers) that give each element a function of itself. Those with an integer kernel in
#: LiteRT, in its reference kernels and in TFLite Micro alike (tanh, sigmoid, hardswish, leaky ReLU) aren't among them.
FUNCTIONS: set[Any] = {
    aten.acos.default,
    aten.acosh.default,
    aten.asin.default,
    aten.asinh.default,
    aten.atan.default,
    aten.atanh.default,
    aten.ceil.default,
    aten.celu.default,
    aten.cos.default,
    aten.cosh.default,
    aten.elu.default,
    aten.erf.default,
    aten.erfc.default,
    aten.exp.default,
    aten.exp2.default,
    aten.expm1.default,
    aten.floor.default,
    aten.fmod.Scalar,
    aten.frac.default,
    aten.gelu.default,
    aten.hardshrink.default,
    aten.log.default,
    aten.log10.default,
    aten.log1p.default,
    aten.log2.default,
    aten.log_sigmoid.default,
    aten.logit.default,
    aten.mish.default,
    aten.pow.Scalar,
    aten.pow.Tensor_Scalar,
    aten.reciprocal.default,
    aten.remainder.Scalar,
    aten.round.default,
    aten.selu.default,
    aten.sign.default,
    aten.sin.default,
    aten.sinh.default,
    aten.softplus.default,
    aten.softshrink.default,
    aten.special_expit.default,
    aten.sqrt.default,
    aten.tan.default,
    aten.threshold.default,
    aten.trunc.default,
    log_from_root,
}


#: Functions whose integer kernels have 8 bits.
_ONLY_IN_8_BITS = {aten.hardswish.default}


def values_of(node: fx.Node) -> Callable[[np.ndarray], np.ndarray]:
    """A node of `FUNCTIONS` as a function of float32 values."""
    target, arguments, options = node.target, node.args, dict(node.kwargs)

    def function(values: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(values, np.float32))
        given = [x if isinstance(argument, fx.Node) else argument for argument in arguments]
        with torch.no_grad():
            return target(*given, **options).numpy()  # type: ignore[operator]

    return function


def is_whole_power(node: fx.Node, largest: int) -> bool:
    """Whether a power is a product of a few factors."""
    exponent = node.args[1]
    return isinstance(exponent, (int, float)) and math.isfinite(exponent) and exponent in range(1, largest + 1)


#: Operators that cut values off at one or two limits.
RELUS = {aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default}


def clipping_of(node: fx.Node) -> tuple[float | None, float | None] | None:
    """(low, high) of an operator of `RELUS` whose range holds 0, so that saturating integers do its work; else None."""
    if node.target is aten.relu.default:
        return 0.0, None
    if node.target is aten.relu6.default:
        return 0.0, 6.0
    low = node.args[1] if len(node.args) > 1 else (-1.0 if node.target is aten.hardtanh.default else None)
    high = node.args[2] if len(node.args) > 2 else (1.0 if node.target is aten.hardtanh.default else None)
    if any(isinstance(limit, fx.Node) for limit in (low, high)):
        return None
    inside = (low is None or low <= 0) and (high is None or high >= 0)  # type: ignore[operator]
    return (low, high) if inside else None  # type: ignore[return-value]


def is_function(node: fx.Node, bits: int = 8) -> bool:
    """Whether an operator gives each element a function of itself that takes a table, for a result of so many bits."""
    if len(node.all_input_nodes) != 1:
        return False
    if node.target in RELUS:
        return clipping_of(node) is None
    return node.target in FUNCTIONS or (bits == 16 and node.target in _ONLY_IN_8_BITS)
