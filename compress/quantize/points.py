# SPDX-License-Identifier: Apache-2.0
"""Where integers sit: which values of the graph an integer file holds, and which of them share one range.

A *point* is a set of values with one scale and zero point. TFLite demands equal parameters at the input and output
of pooling, concatenation, padding, slicing, reshaping and resizing; softmax, logistic and tanh have fixed outputs.
A ReLU belongs to the layer before it: the value between the two exists in no integer file.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.layers import LAYERS, argument, aten
from edgepress.compress.quantize.graph.outputs import named_nodes
from edgepress.compress.quantize.graph.trace import module_path
from edgepress.compress.quantize.operators.build import WANTED_SCHEME
from edgepress.compress.quantize.operators.functions import RELUS, clipping_of, is_function
from edgepress.compress.quantize.scheme import FLOAT, SCHEMES

#: Operators whose output has the scale of their input.
SAME_RANGE: set[Any] = {
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.cat.default,
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    operator.getitem,
    aten.constant_pad_nd.default,
    aten.pad.default,
    aten.expand.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bilinear2d.default,
    aten.stack.default,
    aten.pixel_shuffle.default,
    aten.repeat.default,
    aten.flip.default,
    aten.roll.default,
    aten.amax.default,
    aten.max_pool1d.default,
    aten.avg_pool1d.default,
    aten.channel_shuffle.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.index_select.default,
    aten.amin.default,
    aten.where.self,
    aten.unflatten.int,
    aten.pixel_unshuffle.default,
    aten.upsample_nearest1d.vec,
    aten.movedim.int,
    aten.swapaxes.default,
    aten.tile.default,
    aten.narrow.default,
}
#: Pooling that computes new values; these are rounded again, to the same range.
AVERAGES = {aten.avg_pool2d.default, aten.avg_pool1d.default}
#: Of these, what TFLite Micro has for int8 alone: the 16 bits of a norm are rounded to 8 before them.
_NARROW: set[Any] = {
    aten.upsample_bilinear2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_nearest1d.vec,
    aten.amax.default,
    aten.amin.default,
    aten.index_select.default,
}
#: Operator -> bits -> range of its output; exactly the scales of the specification (1/256, 1/128, 1/16, 1/32768).
FIXED: dict[Any, dict[int, tuple[float, float]]] = {
    aten.softmax.int: {8: (0.0, 255 / 256), 16: (0.0, 32767 / 32768)},
    aten._softmax.default: {8: (0.0, 255 / 256), 16: (0.0, 32767 / 32768)},
    aten.sigmoid.default: {8: (0.0, 255 / 256), 16: (0.0, 32767 / 32768)},
    aten.tanh.default: {8: (-1.0, 127 / 128), 16: (-1.0, 32767 / 32768)},
}
#: Operators with integer kernels and an output range of their own.
COMPUTED: set[Any] = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.mean.dim,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool1d.default,
    aten.hardswish.default,
    aten.leaky_relu.default,
    aten.rsqrt.default,
    aten.sum.dim_IntList,
    aten.abs.default,
    aten.prelu.default,
    aten.matmul.default,
    aten.bmm.default,
    aten.mm.default,
    aten.embedding.default,
    *(target for target, layer in LAYERS.items() if layer.integers),
}
#: What a ReLU melts into.
_FUSING = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, *LAYERS}
#: Layers whose bias takes in a number that is added to their result.
_ABSORBING = {aten.conv2d.default, aten.conv2d.padding, aten.linear.default}
_PADS = {aten.constant_pad_nd.default, aten.pad.default}
#: Constants of this size and more are no values but marks.
_FAR = 1e4
_POOLS = {aten.max_pool2d.default, aten.avg_pool2d.default}


@dataclass(frozen=True)
class Point:
    """Values with one range.

    Attributes:
        key: stable name, the module path and operator of its first value; "input" or "input.1" for inputs.
        nodes: names of the nodes whose values are rounded here, in the order of the graph.
        followers: names of nodes which carry the same integers without rounding (max pooling, reshape).
        fixed: the range which the specification prescribes, or None.
        scheme: "w8a8" (int8), "a16w8" (int16) or "float" (not quantized).
    """

    key: str
    nodes: tuple[str, ...]
    followers: tuple[str, ...] = ()
    fixed: tuple[float, float] | None = None
    scheme: str = "w8a8"


@dataclass(frozen=True)
class Points:
    """All points of a graph.

    Attributes:
        points: in the order of the graph.
        layers: name of a node with weights -> key of the layer.
        constants: constant operand, name of its get_attr node -> scheme.
        islands: name of a node which stays in float -> its operator; no integer kernel covers it, or it was asked for.
        outputs: (name of its node, scheme in which it leaves) of each tensor that the network returns, in the order of
            `named_nodes`. What was written with more bits than the network has, leaves with those of the network.
        looked_up: name of a function of one variable -> bits of its input that choose from its table. They are 16 in a
            network of 16 bits; where an operator was written with more bits than the network has, 8 are enough.
    """

    points: tuple[Point, ...]
    layers: dict[str, str]
    constants: dict[str, str]
    islands: dict[str, str]
    outputs: tuple[tuple[str, str], ...]
    looked_up: dict[str, int]

    def of_node(self) -> dict[str, Point]:
        """Node name -> its point, followers included."""
        return {name: point for point in self.points for name in (*point.nodes, *point.followers)}


def find_points(graph: fx.Graph, scheme: str, exceptions: dict[str, str]) -> Points:
    """Decide where integers sit.

    Args:
        graph: of a folded network.
        scheme: "w8a8" or "a16w8".
        exceptions: key of a layer or operator (or the module path it came from) -> "float", "w8a8" or "a16w8".
    """
    keys = node_keys(graph)
    parent: dict[str, str] = {}
    rounded: set[str] = set()
    fixed: dict[str, tuple[float, float]] = {}
    islands: dict[str, str] = {}
    constants: dict[str, str] = {}
    hidden = {node.name for node in graph.nodes if _melts(node)}
    bits: dict[str, int] = {}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    def unite(sources: list[str], name: str) -> None:
        # A prescribed range is kept from values that need another one: concatenating a sigmoid with a convolution
        # rounds the sigmoid's output once more, to the range of the concatenation.
        prescribed = {fixed.get(find(source)) for source in sources}
        for source in sources:
            a, b = find(source), find(name)
            if a != b and not (len(prescribed) > 1 and a in fixed):
                parent[b] = a
                if b in fixed:
                    fixed[a] = fixed[b]

    for node in graph.nodes:
        if node.op == "output" or node.name in hidden or is_constant(node) or not holds_floats(node):
            continue
        parent[node.name] = node.name
        body = _body(node, hidden)
        wanted = exception_of(body, keys, exceptions, exception_of(node, keys, exceptions, scheme))
        inputs = [source for source in node.all_input_nodes if holds_floats(source) and not is_constant(source)]
        taken_out = node.target is operator.getitem and inputs and inputs[0].name in islands
        bits[node.name] = SCHEMES.get(wanted, 8)
        if _is_narrow(node) and bits[node.name] == 8 and any(bits.get(source.name) == 16 for source in inputs):
            rounded.add(node.name)
            continue
        if node.target in SAME_RANGE and wanted != FLOAT and not taken_out:
            unite([source.name for source in inputs if source.name in parent], node.name)
            bits[node.name] = next((bits[source.name] for source in inputs if source.name in bits), bits[node.name])
            if node.target in AVERAGES or _takes_in_constants(node):
                rounded.add(node.name)
            continue
        if isinstance(node.meta.get("val"), (tuple, list)):
            islands[node.name] = str(node.target)  # several results at once: each is rounded where it is taken out
            continue
        rounded.add(node.name)
        if node.op == "placeholder" or taken_out:
            continue
        if wanted == FLOAT or not has_integer_kernel(body, wanted):
            islands[node.name] = str(body.target)
        elif body.target in FIXED:
            fixed[node.name] = FIXED[body.target][SCHEMES.get(wanted, 8)]
        if node.target in RELUS and body is node and inputs and inputs[0].target in _POOLS:
            unite([inputs[0].name], node.name)  # converters move a ReLU into the pooling before it
    for node in graph.nodes:
        if node.op == "get_attr" and any(_reads_as_operand(user, node) for user in node.users) and holds_floats(node):
            constants[node.name] = scheme
    members: dict[str, list[str]] = {}
    for name in parent:
        members.setdefault(find(name), []).append(name)
    by_name = {node.name: node for node in graph.nodes}
    points = []
    for root, names in members.items():
        nodes = tuple(name for name in names if name in rounded)
        if not nodes:  # made from constants alone
            continue
        followers = tuple(name for name in names if name not in rounded)
        own = by_name[nodes[0]]
        of_point = exception_of(_body(own, hidden), keys, exceptions, exception_of(own, keys, exceptions, scheme))
        if all(name in islands for name in nodes) and not _feeds_integers(names, by_name, islands, hidden):
            of_point = FLOAT
        elif of_point == FLOAT:
            of_point = scheme
        points.append(Point(keys[own.name], nodes, followers, fixed.get(root), of_point))
    layers = {node.name: keys[node.name] for node in graph.nodes if node.target in LAYERS}
    of_node = {name: point for point in points for name in (*point.nodes, *point.followers)}
    outputs = []
    for _, leaf in named_nodes(graph):
        point, leaving = of_node.get(leaf.name), FLOAT
        if point is not None and point.scheme != FLOAT:
            own = by_name[point.nodes[0]]
            asked = _asked_for(_body(own, hidden), keys, exceptions) or _asked_for(own, keys, exceptions) or scheme
            leaving = point.scheme if asked == FLOAT else asked
        outputs.append((leaf.name, leaving))
    looked_up = {
        node.name: 8 if WANTED_SCHEME in node.meta else SCHEMES[own]
        for node in graph.nodes
        if node.op == "call_function"
        and node.name in of_node
        and (own := of_node[node.name].scheme) != FLOAT
        and is_function(node, SCHEMES[own])
    }
    return Points(tuple(points), layers, constants, islands, tuple(outputs), looked_up)


def node_keys(graph: fx.Graph) -> dict[str, str]:
    """A stable, readable and unique name for every node: "stage1.conv1/conv2d"; "input", "input.1" for inputs."""
    keys: dict[str, str] = {}
    counts: dict[str, int] = {}
    placeholders = 0
    for node in graph.nodes:
        if node.op == "placeholder":
            keys[node.name] = "input" if not placeholders else f"input.{placeholders}"
            placeholders += 1
            continue
        kind = str(getattr(node.target, "__name__", node.target)).split(".")[0]
        path = module_path(node)
        key = f"{path}/{kind}" if path else kind
        counts[key] = counts.get(key, 0) + 1
        keys[node.name] = key if counts[key] == 1 else f"{key}#{counts[key]}"
    return keys


def exception_of(node: fx.Node, keys: dict[str, str], exceptions: dict[str, str], scheme: str) -> str:
    """The scheme of a node: that of its key, of its module path or of a module around it, else the default."""
    return _asked_for(node, keys, exceptions) or node.meta.get(WANTED_SCHEME, scheme)


def _asked_for(node: fx.Node, keys: dict[str, str], exceptions: dict[str, str]) -> str | None:
    for name in (keys[node.name], module_path(node)):
        while name:
            if name in exceptions:
                return exceptions[name]
            name = name.rpartition(".")[0]
    return None


def holds_floats(node: fx.Node) -> bool:
    """Whether a node's value is a float tensor (or several)."""
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        return any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in value)
    if value is None:
        return node.op in ("call_function", "get_attr", "placeholder") and "sym_size" not in node.name
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def is_constant(node: fx.Node) -> bool:
    """Whether a node is a tensor of the network, or such a tensor in another shape."""
    if node.op == "call_function" and node.target in SAME_RANGE:
        return bool(node.all_input_nodes) and all(is_constant(source) for source in node.all_input_nodes)
    return node.op == "get_attr"


def has_integer_kernel(node: fx.Node, scheme: str = "w8a8") -> bool:
    """Whether TFLite computes the operator on integers of a scheme, or reads its values from a table."""
    if is_function(node, SCHEMES[scheme]):
        return True
    if node.target in RELUS:
        return clipping_of(node) is not None
    if node.target is aten.adaptive_avg_pool2d.default:
        return list(node.args[1]) == [1, 1]  # type: ignore[arg-type]
    if node.target in FIXED:
        return SCHEMES[scheme] in FIXED[node.target]
    return node.target in SAME_RANGE or node.target in COMPUTED


def _melts(node: fx.Node) -> bool:
    """Whether the value is seen by one ReLU only, or a layer's by one sum with a number, so that no file holds it."""
    if node.target not in _FUSING or len(node.users) != 1:
        return False
    user = next(iter(node.users))
    if user.target in RELUS:
        return clipping_of(user) is not None
    return node.target in _ABSORBING and user.target is aten.add.Tensor and user.all_input_nodes == [node]


def _is_narrow(node: fx.Node) -> bool:
    """Whether an operator that keeps the range has 8 bits only; of padding, that by what is there."""
    return node.target in _NARROW or (node.target is aten.pad.default and argument(node, "mode") == "reflect")


def _takes_in_constants(node: fx.Node) -> bool:
    """Whether values come in that no point has yet: the class token of a transformer, what an image is padded with.

    Not where they are far away, as -1e9 or -inf behind a mask: they would leave no steps for anything else, and the
    lowest integer stands for them.
    """
    if node.target in _PADS:
        amount = argument(node, "value")
        return isinstance(amount, (int, float)) and 0 < abs(amount) < _FAR
    module = node.graph.owning_module
    constants = [source for source in node.all_input_nodes if is_constant(source) and holds_floats(source)]
    while module is not None and constants:
        source = constants.pop()
        if source.op == "get_attr":
            largest = float(fetch(module, str(source.target)).detach().abs().max())
            if 0 < largest < _FAR:
                return True
        constants += [inner for inner in source.all_input_nodes if holds_floats(inner)]
    return False


def _body(node: fx.Node, hidden: set[str]) -> fx.Node:
    """The operator that computes a value: the layer behind a melted ReLU, else the node itself."""
    source = node.args[0] if node.args else None
    while isinstance(source, fx.Node) and source.name in hidden:
        node = source
        source = node.args[0] if node.args else None
    return node


def _reads_as_operand(user: fx.Node, constant: fx.Node) -> bool:
    return user.op == "call_function" and user.target not in LAYERS and constant in user.all_input_nodes


def _feeds_integers(names: list[str], by_name: dict[str, fx.Node], islands: dict[str, str], hidden: set[str]) -> bool:
    for name in names:
        for user in by_name[name].users:
            while user.name in hidden:  # it works as what it melts into
                user = next(iter(user.users))
            if user.op != "output" and user.name not in names and user.name not in islands:
                return True
    return False


def known_names(graph: fx.Graph) -> set[str]:
    """Names which exceptions may use: keys of operators, paths of modules and of the modules around them."""
    names: set[str] = set()
    keys = node_keys(graph)
    for node in graph.nodes:
        if node.op == "call_function":
            names.add(keys[node.name])
            path = module_path(node)
            while path:
                names.add(path)
                path = path.rpartition(".")[0]
    # torch.export's own name for what no module wrote.
    return {name for name in names if not name.startswith("_empty_nn_module_stack")}
