# SPDX-License-Identifier: Apache-2.0
"""Quantization pairs in a graph for torch.export: the integers of a network, where its other files have them, too.

Operators are those of `torch.ops.quantized_decomposed`, by which ExecuTorch's partitioners know integer kernels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from edgepress.compress.quantize.fake import inverse_root
from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.layers import aten
from edgepress.compress.quantize.graph.outputs import flat
from edgepress.compress.quantize.graph.trace import quiet
from edgepress.compress.quantize.model import Quantized
from edgepress.compress.quantize.operators.functions import RELUS, clipping_of
from edgepress.compress.quantize.scheme import (
    FLOAT,
    SCHEMES,
    Integers,
    bias_scales,
    constant_integers,
    quantize_bias,
    quantize_weight,
    weight_scales,
)

_ACTIVATIONS, _WEIGHTS, _CONSTANTS = "activation_quantizers", "weight_quantizers", "constant_quantizers"


@dataclass
class Paired:
    """A graph with quantization pairs.

    Attributes:
        module: GraphModule that returns its tensors one after the other; float inputs and outputs.
        ranges: name of the integer value -> {"scale", "zero_point"} of activations.
        islands: operators which stay in float, as "operator (key)".
        inputs, outputs: integers right behind each input and right before each output; None for what stays float.
    """

    module: fx.GraphModule
    ranges: dict[str, dict[str, float]] = field(default_factory=dict)
    islands: list[str] = field(default_factory=list)
    inputs: list[Integers | None] = field(default_factory=list)
    outputs: list[Integers | None] = field(default_factory=list)


def with_pairs(quantized: Quantized) -> Paired:
    """The network with its integers written out: int8 weights and activations between quantize and dequantize.

    Args:
        quantized: untouched; where it has 16 bits, values stay in float.
    """
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators

    with quiet():
        module = copy.deepcopy(flat(quantized.model)[0]).cpu().eval()
    writer = _Writer(module, quantized)
    writer.write()
    return writer.paired


class _Writer:
    def __init__(self, module: fx.GraphModule, quantized: Quantized):
        self.module, self.graph, self.quantized = module, module.graph, quantized
        self.of_node = quantized.points.of_node()
        self.integers: dict[fx.Node, Integers] = {}  # result of a pair -> its integers
        self.paired = Paired(module)

    def write(self) -> None:
        nodes = list(self.graph.nodes)
        kinds: dict[str, Callable[[fx.Node], None]] = {
            _ACTIVATIONS: self._activation,
            _WEIGHTS: self._weight,
            _CONSTANTS: self._constant,
        }
        for node in nodes:
            if node.target is inverse_root:
                node.target = aten.rsqrt.default
            if node.op == "call_module":
                kinds[str(node.target).partition(".")[0]](node)
            else:
                self._follower(node)
        self._borders(nodes)
        self._drop_clipping()
        self._one_reader_each()
        keys = {name: point.key for name, point in self.of_node.items()}
        self.paired.islands = [
            f"{str(kind).removeprefix('aten.')} ({keys.get(name, name)})"
            for name, kind in self.quantized.points.islands.items()
        ]
        wide = {p.key: None for p in self.quantized.points.points if p.scheme != FLOAT and SCHEMES[p.scheme] != 8}
        self.paired.islands += [f"{key.rpartition('/')[2]} ({key})" for key in wide]
        self.graph.eliminate_dead_code()
        self.graph.lint()
        with quiet():
            self.paired.module = fx.GraphModule(self.module, self.graph, class_name="Integers").eval()

    def _activation(self, node: fx.Node) -> None:
        """A pair; 16 bits, which the parts of norms and attention have, stay in float: XNNPACK's kernels have 8.

        Their limits stay: of a channel that is nearly 0, 1 / sqrt is thousands of times what the integers can say.
        """
        quantizer: Any = self.module.get_submodule(str(node.target))
        integers = quantizer.integers(node.kwargs.get("bits"))
        if integers.bits == 8:
            self._replace(node, self._pair(node, node.args[0], integers))
            return
        source: Any = node.args[0]
        low, high = (float(integers.dequantize(end)) for end in (integers.lowest, integers.highest))
        given = self.integers.get(source)
        slack = float(integers.scale) / 2  # what rounds to the last integer is within
        if (
            given is None
            or float(given.dequantize(given.lowest)) < low - slack
            or float(given.dequantize(given.highest)) > high + slack
        ):
            with self.graph.inserting_after(node):
                source = self.graph.call_function(aten.clamp.default, (source, low, high))
        self._replace(node, source)

    def _follower(self, node: fx.Node) -> None:
        """Kernels of integers have a pair on both sides of what only moves values, too."""
        point = self.of_node.get(node.name)
        if (
            point is None
            or point.scheme == FLOAT
            or node.name not in point.followers
            or node.op != "call_function"
            or not isinstance(node.meta.get("val"), torch.Tensor)
        ):
            return
        quantizer: Any = self.quantized.quantizer(point)
        if quantizer.bits != 8:
            return
        made = self._pair(node, node, quantizer.integers())
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made.args[0])

    def _pair(self, place: fx.Node, source: Any, integers: Integers) -> fx.Node:
        operators = torch.ops.quantized_decomposed
        scale, zero = float(integers.scale), integers.zero_point
        how = (scale, zero, integers.lowest, integers.highest, torch.int8)
        with self.graph.inserting_after(place):
            whole = self.graph.call_function(operators.quantize_per_tensor.default, (source, *how))
        with self.graph.inserting_after(whole):
            real = self.graph.call_function(operators.dequantize_per_tensor.default, (whole, *how))
        self.integers[real] = integers
        self.paired.ranges[whole.name] = {"scale": scale, "zero_point": zero}
        return real

    def _weight(self, node: fx.Node) -> None:
        quantizer: Any = self.module.get_submodule(str(node.target))
        weight_node, bias_node = (*node.args, None)[:2]
        layer = next(user for part in node.users for user in part.users)
        parts = {int(user.args[1]): user for user in node.users}  # type: ignore[arg-type]
        given = self.integers.get(layer.args[0])  # type: ignore[arg-type]
        weight = _array(self.module, weight_node)
        bias = None if bias_node is None else _array(self.module, bias_node)
        scale = None if given is None else given.scale
        axis = quantizer.axis
        steps = weight_scales(weight, axis, bias, scale)
        whole = quantize_weight(weight, steps, axis)
        with self.graph.inserting_before(node):
            real = self._stored(layer, "weight", torch.from_numpy(whole), steps, 0, axis, integers=given is not None)
            parts[0].replace_all_uses_with(real)
            if 1 in parts and bias is not None:
                rounded = bias
                if given is not None:  # as it comes out of int32
                    each = bias_scales(given.scale, steps)
                    rounded = quantize_bias(bias, each, 8, name=f"bias of {layer.name}").astype("float32") * each
                parts[1].replace_all_uses_with(self._attribute(f"{layer.name}_bias", torch.from_numpy(rounded)))
        for part in parts.values():
            self.graph.erase_node(part)
        self.graph.erase_node(node)

    def _constant(self, node: fx.Node) -> None:
        quantizer: Any = self.module.get_submodule(str(node.target))
        if quantizer.bits != 8:
            self._replace(node, node.args[0])  # type: ignore[arg-type]
            return
        values = _array(self.module, node.args[0])
        integers = constant_integers(values, 8)
        with self.graph.inserting_before(node):
            whole = torch.from_numpy(np.asarray(integers.quantize(values)))
            user = next(iter(node.users))
            made = self._stored(user, "operand", whole, integers.scale, integers.zero_point, None)
        self._replace(node, made)

    def _stored(
        self,
        user: fx.Node,
        role: str,
        whole: torch.Tensor,
        scale: Any,
        zero: int,
        axis: int | None,
        integers: bool = True,
    ) -> fx.Node:
        """Integers as a buffer behind a dequantize, or, where no integer kernel reads them, their float values."""
        operators, name = torch.ops.quantized_decomposed, f"{user.name}_{role}"
        lowest, highest = (-127, 127) if role == "weight" else (-128, 127)
        if axis is None:
            arguments: tuple[Any, ...] = (float(scale) if role != "weight" else float(scale[0]), zero, lowest, highest)
            function: Any = operators.dequantize_per_tensor.default
        else:
            scales = torch.from_numpy(scale)
            tables = (
                self._attribute(f"{name}_scale", scales),
                self._attribute(f"{name}_zero", torch.zeros_like(scales, dtype=torch.int64)),
            )
            arguments, function = (*tables, axis, lowest, highest), operators.dequantize_per_channel.default
        if not integers:
            given = [fetch(self.module, str(a.target)) if isinstance(a, fx.Node) else a for a in arguments]
            return self._attribute(name, function(whole, *given, torch.int8))
        stored = self._attribute(name, whole)
        return self.graph.call_function(function, (stored, *arguments, torch.int8))

    def _attribute(self, name: str, value: torch.Tensor) -> fx.Node:
        number, taken = 1, name
        while hasattr(self.module, taken):
            number += 1
            taken = f"{name}_{number}"
        self.module.register_buffer(taken, value.detach().clone().contiguous())
        return self.graph.get_attr(taken)

    def _borders(self, nodes: list[fx.Node]) -> None:
        for node in nodes:
            if node.op != "placeholder":
                continue
            readers = {
                user for user in node.users if user.target is torch.ops.quantized_decomposed.quantize_per_tensor.default
            }
            found = {self.integers[real] for user in readers for real in user.users if real in self.integers}
            self.paired.inputs.append(found.pop() if len(found) == 1 and len(readers) == len(node.users) else None)
        returned = self.graph.output_node().args[0]
        for leaf in returned if isinstance(returned, (tuple, list)) else (returned,):
            self.paired.outputs.append(self.integers.get(leaf))  # type: ignore[arg-type]

    def _drop_clipping(self) -> None:
        """Each ReLU whose work saturation does (the lowest integer means 0, the highest at most its limit) goes."""
        for node in list(self.graph.nodes):
            limits = clipping_of(node) if node.target in RELUS else None
            users = list(node.users)
            if limits is None or len(users) != 1:
                continue
            integers = next((self.integers[real] for real in users[0].users if real in self.integers), None)
            if users[0].target is not torch.ops.quantized_decomposed.quantize_per_tensor.default or integers is None:
                continue
            low, high = limits
            below = low is None or (low == 0 and integers.zero_point == integers.lowest)
            if below and (high is None or high >= float(integers.dequantize(integers.highest))):
                node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
                self.graph.erase_node(node)

    def _one_reader_each(self) -> None:
        """Each operator behind a value gets a dequantize of its own, as in PT2E's graphs: XNNPACK's passes change the
        layout of what an operator reads, and take all readers along."""
        for real in self.integers:
            for user in list(real.users)[1:]:
                with self.graph.inserting_after(real):
                    user.replace_input_with(real, self.graph.node_copy(real))

    def _replace(self, node: fx.Node, made: fx.Node) -> None:
        node.replace_all_uses_with(made)
        self.graph.erase_node(node)


def _array(module: fx.GraphModule, node: Any) -> Any:
    """A constant of the graph, possibly behind reshapes, as a NumPy array."""
    if node.op == "get_attr":
        return fetch(module, str(node.target)).detach().cpu().numpy()
    arguments = [
        torch.from_numpy(_array(module, argument)) if isinstance(argument, fx.Node) else argument
        for argument in node.args
    ]
    return node.target(*arguments, **node.kwargs).numpy()
