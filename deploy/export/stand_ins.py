# SPDX-License-Identifier: Apache-2.0
"""Operators that converters take apart, carried through a converter by others which it keeps.

A function of one variable (GELU, ELU, Mish) or a PReLU becomes a leaky ReLU whose slope is its number: one operator in
every converted file, of the same shape and layout, which no two nodes share. One that stands for nothing keeps two
layers apart which a converter would merge. Both sides of the comparison of values run with the stand-ins, so that
everything else is matched as ever.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.deploy.export.marks import mark
from edgepress.deploy.export.whole_norms import make_norms_whole
from edgepress.deploy.tflite.carried import Carried, Same, Slopes, Table

if TYPE_CHECKING:
    from torch import fx

    from edgepress.compress.quantize.model import Quantized

#: Slopes lie between 1/4 and 3/4 in steps of 2^-17: exact in float32, and far from 0, where a value would be lost.
_STEP, _STEPS = 2.0**-17, 2**16
#: Slope -> how it is written ("table", "slopes" or "same"), and the node of the network that it stands for.
Stands = dict[float, tuple[str, Any]]


def with_stand_ins(module: fx.GraphModule, quantized: Quantized) -> tuple[Any, Stands]:
    """A network for the converter.

    Args:
        module: float GraphModule of `quantized`; untouched.
        quantized: edgepress.compress.quantize Quantized; what it leaves in float stays as it is.

    Returns:
        The network with stand-ins, and slope -> ("table", "slopes" or "same", the node of
        `module` that it stands for).
    """
    from torch import fx

    from edgepress.compress.quantize.operators.functions import aten, is_function

    changed = copy.deepcopy(module)
    originals = {node.name: node for node in module.graph.nodes}
    carried: Stands = {}
    integers = quantized.integers()
    _absorb(changed, integers)
    for node in list(changed.graph.nodes):
        if node.name in quantized.points.islands or node.name not in integers:
            continue
        table = is_function(node, integers[node.name].bits)
        if table or node.target is aten.prelu.default:
            slope = _slope(len(carried))
            carried[slope] = "table" if table else "slopes", originals[node.name]
            node.target, node.args, node.kwargs = aten.leaky_relu.default, (node.args[0], slope), {}
    for node in list(changed.graph.nodes):
        if node.name in integers and node.name not in quantized.points.islands and _would_merge(changed, node):
            slope = _slope(len(carried))
            with changed.graph.inserting_after(node):
                wall = changed.graph.call_function(aten.leaky_relu.default, (node, slope))
            carried[slope] = "same", originals[node.name]
            node.replace_all_uses_with(wall, delete_user_cb=lambda user, wall=wall: user is not wall)
    changed.graph.lint()
    return fx.GraphModule(changed, changed.graph).eval(), carried


def with_tables(module: fx.GraphModule, quantized: Quantized) -> tuple[Any, Stands]:
    """The same for ONNX, whose exporter keeps all but tables: only those that 8 bits are looked up in are carried.

    A function of 16 bits stays as it is, between its pairs. tanh, hardswish and abs are tables, too: ONNX Runtime
    computes them in float. Layer norms are whole.

    Fully connected layers on more than two axes become layers on rows: for others ONNX has a product without a bias,
    and the bias in 32 bits belongs to it.
    """
    from torch import fx

    from edgepress.compress.quantize.graph.constants import fetch
    from edgepress.compress.quantize.graph.layers import aten

    in_float = {aten.tanh.default, aten.hardswish.default, aten.abs.default}
    changed = copy.deepcopy(module)
    originals = {node.name: node for node in module.graph.nodes}
    carried: Stands = {}
    integers = quantized.integers()
    make_norms_whole(changed, quantized.points.islands)
    _absorb(changed, integers)
    for node in list(changed.graph.nodes):
        rank = node.meta["val"].dim() if node.target is aten.linear.default else 0
        table = node.name in integers and _is_coarse(node, integers, quantized.points.looked_up)
        table = table or (node.target in in_float and _has_8_bits(node, integers))
        if table and node.name not in quantized.points.islands:
            slope = _slope(len(carried))
            carried[slope] = "table", originals[node.name]
            node.target, node.args, node.kwargs = aten.leaky_relu.default, (node.args[0], slope), {}
        elif rank > 2:
            x = node.args[0]
            with changed.graph.inserting_before(node):
                sizes = [
                    -1,
                    *(changed.graph.call_function(aten.sym_size.int, (x, axis)) for axis in range(1, rank - 1)),
                ]
                outputs, inputs = fetch(changed, str(node.args[1].target)).shape
                rows = changed.graph.call_function(aten.reshape.default, (x, [-1, inputs]))
            node.args = (rows, *node.args[1:])
            with changed.graph.inserting_after(node):
                made = (node, [*sizes, outputs])
                whole = changed.graph.call_function(aten.reshape.default, made)
            node.replace_all_uses_with(whole, delete_user_cb=lambda user, whole=whole: user is not whole)
    changed.graph.lint()
    return fx.GraphModule(changed, changed.graph).eval(), carried


def _is_coarse(node: Any, integers: Mapping[str, Any], looked_up: Mapping[str, int]) -> bool:
    """Whether 8 bits choose from the table of a function."""
    given = integers.get(node.args[0].name) if node.name in looked_up else None
    return looked_up.get(node.name) == 8 or (given is not None and given.bits == 8)


def _has_8_bits(node: Any, integers: Mapping[str, Any]) -> bool:
    """Whether a function of one variable gives 8 bits of 8 bits."""
    return all(name in integers and integers[name].bits == 8 for name in (node.name, node.args[0].name))


def _absorb(module: fx.GraphModule, integers: Mapping[str, Any]) -> None:
    """Put a number that is added to a layer's result into its bias, where the value between them is in no file."""
    import torch

    from edgepress.compress.quantize.graph.constants import fetch
    from edgepress.compress.quantize.graph.layers import LAYERS, aten, weight_and_bias

    for node in list(module.graph.nodes):
        layer = node.args[0] if node.target is aten.add.Tensor else None
        if not isinstance(layer, torch.fx.Node) or layer.target not in LAYERS or layer.name in integers:
            continue
        number, (_, bias) = node.args[1], weight_and_bias(layer)
        if (
            len(layer.users) != 1
            or number.op != "get_attr"
            or fetch(module, str(number.target)).numel() != 1
            or not bias
        ):
            continue
        name = f"absorbed_{node.name}"
        module.register_buffer(name, (fetch(module, str(bias.target)) + fetch(module, str(number.target))).detach())
        with module.graph.inserting_before(node):
            node.target, node.args = layer.target, (*layer.args[:2], module.graph.get_attr(name), *layer.args[3:])
        module.graph.erase_node(layer)


def _slope(number: int) -> float:
    """Different for each of 65,536 numbers, and very different for numbers in a row."""
    return 0.25 + (number * 40503 + 1) % _STEPS * _STEP


def _would_merge(module: fx.GraphModule, node: Any) -> bool:
    """Whether converters work a layer's bias, or a product with a constant, into the weights of the layer behind it, or
    a layer's bias into a map that is added to its result.

    The value between the two would be in no file, and nothing would say which integers it has.
    """
    from edgepress.compress.quantize.graph.layers import LAYERS, aten
    from edgepress.compress.quantize.operators.functions import RELUS

    scaling = node.target in (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor) and len(_computed(node)) == 1
    if node.target not in LAYERS and not scaling:
        return False
    # What is cut off between limits takes its integers from the layer, not from a wall behind it.
    clipped = any(user.target in RELUS for user in node.users)
    pending = list(node.users)
    while pending:
        user = pending.pop()
        added = user.target is aten.add.Tensor and any(_is_map(module, source) for source in user.all_input_nodes)
        if user.target in LAYERS or (added and node.target in LAYERS and not clipped):
            return True
        if user.target in (aten.reshape.default, aten.permute.default, aten.transpose.int, aten.unsqueeze.default):
            pending += user.users
    return False


def _is_map(module: fx.GraphModule, node: Any) -> bool:
    from edgepress.compress.quantize.graph.constants import fetch

    return node.op == "get_attr" and fetch(module, str(node.target)).numel() > 1


def _computed(node: Any) -> set[Any]:
    return {source for source in node.all_input_nodes if source.op != "get_attr"}


def described(
    carried: Stands,
    module: fx.GraphModule,
    ours: Mapping[str, np.ndarray] | None = None,
    theirs: Mapping[float, np.ndarray] | None = None,
) -> dict[float, Carried]:
    """What the file's writer needs to know of each stand-in.

    Args:
        carried: of `with_stand_ins`.
        module: which holds the constants.
        ours: node -> value of the `marked` network, in torch's layout.
        theirs: slope -> value of the stand-in in the converted file.
    """
    from edgepress.compress.quantize.graph.constants import fetch
    from edgepress.compress.quantize.operators.functions import values_of

    found: dict[float, Carried] = {}
    for slope, (kind, node) in carried.items():
        if kind == "table":
            found[slope] = Table(node.name, values_of(node))
            continue
        if kind == "same":
            found[slope] = Same(node.name)
            continue
        slopes = fetch(module, str(node.args[1].target)).detach().cpu().numpy()
        axis = None
        if slopes.size > 1 and ours is not None and theirs is not None and slope in theirs:
            axis = _channel_axis(ours[node.name], mark(theirs[slope], slope))
        found[slope] = Slopes(node.name, slopes, axis)
    return found


def _channel_axis(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Where axis 1 of our value is in the file's."""
    channels = ours.shape[1]
    last = np.ascontiguousarray(np.moveaxis(ours, 1, -1)).ravel()
    if theirs.shape[-1] == channels and np.allclose(last, theirs.ravel(), rtol=1e-3, atol=1e-5):
        return theirs.ndim - 1
    ahead = [axis for axis, size in enumerate(theirs.shape) if size == channels and axis > 0]
    return next(axis for axis in ahead if int(np.prod(theirs.shape[:axis])) == ours.shape[0])
