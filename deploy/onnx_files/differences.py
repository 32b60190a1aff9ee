# SPDX-License-Identifier: Apache-2.0
"""a - b as a + (-b): ONNX Runtime adds 8-bit integers, but has no kernel that subtracts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgepress.compress.quantize.scheme import Integers

if TYPE_CHECKING:
    import onnx


def differences_as_sums(
    graph: onnx.GraphProto,
    integers: dict[str, Integers],
    constants: dict[str, np.ndarray],
    stays_float: Callable[[str], bool],
) -> None:
    """Write each difference of integers as a sum, in place; -b has b's own steps, so that nothing is rounded anew.

    Args:
        graph: of a float model.
        integers: value -> its integers; what is made is added.
        constants: initializer -> its values; what is made is added.
        stays_float: whether the operator behind a value is to work in float.
    """
    from onnx import helper, numpy_helper

    def constant(name: str, values: np.ndarray) -> str:
        if name not in constants:
            constants[name] = values
            graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    nodes = []
    for node in graph.node:
        nodes.append(node)
        own = integers.get(node.output[0]) if node.op_type == "Sub" else None
        if own is None or own.bits != 8 or stays_float(node.output[0]):
            continue
        taken = node.input[1]
        given, negative = integers.get(taken), f"{taken}_negative"
        if taken in constants:
            constant(negative, np.asarray(-constants[taken]))
        elif given is None or given.bits != 8:
            continue
        elif negative not in integers:
            minus_one = constant("minus_one", np.asarray(-1, np.float32))
            nodes.insert(-1, helper.make_node("Mul", [taken, minus_one], [negative]))
            integers[negative] = replace(given, zero_point=-1 - given.zero_point)
        node.op_type = "Add"
        node.input[1] = negative
    del graph.node[:]
    graph.node.extend(nodes)
