# SPDX-License-Identifier: Apache-2.0
"""Quantized networks: fake quantization on the folded graph, with one set of integer parameters for every format."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from edgepress.compress.quantize.equalize import correct_biases, equalize_layers
from edgepress.compress.quantize.fake import ActivationQuantizer, ConstantQuantizer, WeightQuantizer, inverse_root
from edgepress.compress.quantize.fold import Folded, fold, in_single_precision
from edgepress.compress.quantize.graph.absorb import Origin
from edgepress.compress.quantize.graph.layers import LAYERS, aten, weight_and_bias
from edgepress.compress.quantize.graph.outputs import named_nodes
from edgepress.compress.quantize.graph.trace import pieces, quiet
from edgepress.compress.quantize.observe import INPUT_CLIPPING, METHODS, choose_range, observe
from edgepress.compress.quantize.points import (
    AVERAGES,
    SAME_RANGE,
    Point,
    Points,
    find_points,
    holds_floats,
    is_constant,
    known_names,
)
from edgepress.compress.quantize.scheme import FLOAT, SCHEMES, Integers, activation_bits
from edgepress.compress.quantize.settle import settle_scales
from edgepress.models.cost.graph import as_inputs
from edgepress.models.errors import UsageError

#: Means settle with fewer inputs than extremes, and all of them are held at once.
CORRECTION_SAMPLES = 64
_ACTIVATIONS, _WEIGHTS, _CONSTANTS = "activation_quantizers", "weight_quantizers", "constant_quantizers"


@dataclass(frozen=True)
class Quantized:
    """A fake-quantized network and what an exporter needs to write its integers.

    Attributes:
        model: GraphModule; batch norm folded, trains with any optimiser, gives what the integer file gives up to
            the rounding inside a runtime's kernels.
        scheme: "w8a8" or "a16w8".
        points: where integers sit in `model`.
        origins: name of a layer's node -> where its tensors came from.
        exceptions: layers with another scheme, or "float".
        per_tensor_dense: whether fully connected layers have one weight scale for all outputs.
        fixed_batch: the only size of batch that `model` takes; None means any.
        fixed_by: which operator of which module fixes it.
        method: how the ranges were found.
    """

    model: fx.GraphModule
    scheme: str
    points: Points
    origins: dict[str, Origin]
    exceptions: dict[str, str] = field(default_factory=dict)
    per_tensor_dense: bool = False
    fixed_batch: int | None = None
    fixed_by: str = ""
    method: str = "mse"

    @property
    def dynamic_batch(self) -> bool:
        """Whether `model` takes batches of any size."""
        return self.fixed_batch is None

    @property
    def ranges(self) -> dict[str, dict[str, float]]:
        """Key of each point -> its current "min" and "max"; JSON-able, exact."""
        ranges = {}
        for point in self.points.points:
            if point.scheme != FLOAT:
                quantizer = self.quantizer(point)
                ranges[point.key] = {"min": float(quantizer.low.detach()), "max": float(quantizer.high.detach())}
        return ranges

    def refresh(self) -> dict[str, dict[str, float]]:
        """The current ranges, after training moved them."""
        return self.ranges

    def quantizer(self, point: Point) -> ActivationQuantizer:
        """The module that rounds the values of a point."""
        return self.model.get_submodule(f"{_ACTIVATIONS}.{point.nodes[0]}")  # type: ignore[return-value]

    def integers(self) -> dict[str, Integers]:
        """Name of each node which an integer file holds -> its scale and zero point."""
        found = {}
        for point in self.points.points:
            if point.scheme != FLOAT:
                integers = self.quantizer(point).integers()
                found.update(dict.fromkeys((*point.nodes, *point.followers), integers))
        return found

    def output_integers(self) -> list[Integers | None]:
        """Scale and zero point of each tensor that the network returns, in the order of `named_nodes`; None: float."""
        of_node = self.points.of_node()
        return [
            None if scheme == FLOAT else self.quantizer(of_node[name]).integers(SCHEMES[scheme])
            for name, scheme in self.points.outputs
        ]

    def set_range_mode(self, mode: str) -> None:
        """Let ranges train ("learned"), follow the batches ("averaged") or stand still ("frozen")."""
        for point in self.points.points:
            if point.scheme != FLOAT:
                self.quantizer(point).set_mode(mode)

    def freeze_ranges(self) -> None:
        """Ranges stand still from here on; weights may go on training under them."""
        self.set_range_mode("frozen")

    def with_dense(self, per_tensor: bool) -> Quantized:
        """The same network with the other choice for fully connected layers; a copy."""
        with quiet():
            model = copy.deepcopy(self.model)
        for node in model.graph.nodes:
            if node.target is aten.linear.default and f"{_WEIGHTS}.{node.name}" in dict(model.named_modules()):
                quantizer: Any = model.get_submodule(f"{_WEIGHTS}.{node.name}")
                quantizer.axis = None if per_tensor else 0
        return replace(self, model=model, per_tensor_dense=per_tensor)

    def settled(self) -> Quantized:
        """The same network with scales that every runtime takes: a copy where training has left that, else itself."""
        with quiet():
            model = copy.deepcopy(self.model)
        return replace(self, model=model) if settle_scales(model, without_rounding(model).graph, self.points) else self

    def float_module(self) -> fx.GraphModule:
        """The same network without rounding: current folded weights, a copy."""
        return strip(self.model)


def quantize_model(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    calibration: Iterable[tuple[torch.Tensor, ...] | torch.Tensor],
    scheme: str = "w8a8",
    method: str = "mse",
    *,
    exceptions: Mapping[str, str] | None = None,
    per_tensor_dense: bool = False,
    equalize: bool = False,
    bias_correction: bool = True,
    ranges: str = "frozen",
) -> Quantized:
    """Post-training quantization; also the start of quantization-aware training.

    Args:
        model: any network that torch.export can trace; untouched.
        example_inputs: a tensor or a tuple of tensors with a batch dimension.
        calibration: batches as the network sees them in use, each a tensor or a tuple of tensors.
        scheme: "w8a8" (int8) or "a16w8" (int16 activations, int8 weights).
        method: "mse", "minmax", "percentile" or "entropy"; how ranges follow from calibration.
        exceptions: module path or key of a layer -> "float", "w8a8" or "a16w8".
        per_tensor_dense: one weight scale per fully connected layer, for old versions of TFLite Micro.
        equalize: balance the weights of neighbouring layers first (Nagel et al. 2019, arXiv 1906.04721, section 4.1).
        bias_correction: take the mean error of each layer out of its bias afterwards (the same, section 4.2); on the
            published CP-Mobile it halves the error at the logits (5.5 to 2.9 LSB rms), so that it is the default.
        ranges: how ranges move in training: "frozen", "learned" or "averaged".

    Returns:
        Quantized, in evaluation mode.

    Raises:
        UsageError: unknown scheme, method or exception; not traceable; unusable calibration data.
    """
    if method not in METHODS:
        raise UsageError(f"method = {method!r} is unknown; known are {', '.join(map(repr, METHODS))}")
    inputs = in_single_precision(as_inputs(example_inputs))
    batches = [in_single_precision(as_inputs(batch)) for batch in calibration]
    folded = fold(model, inputs)
    _check_batches(batches, inputs, 0 if folded.fixed_batch == 0 else 1)
    batches = [piece for batch in batches for piece in pieces(batch, folded.fixed_batch)]
    if equalize:
        folded = equalize_layers(folded, batches)
    quantized = assemble(folded, scheme, dict(exceptions or {}), per_tensor_dense, method)
    nodes = {name: point.key for point in quantized.points.points if point.scheme != FLOAT for name in point.nodes}
    seen = observe(folded.module, nodes, batches)
    inputs_of_network = {node.name for node in folded.module.graph.nodes if node.op == "placeholder"}
    for point in quantized.points.points:
        if point.scheme != FLOAT:
            clipping = INPUT_CLIPPING if inputs_of_network.intersection(point.nodes) else 1.0
            levels = 2 ** SCHEMES[point.scheme]
            quantized.quantizer(point).set_range(*choose_range(seen[point.key], method, levels, clipping))
    settle_scales(quantized.model, folded.module.graph, quantized.points)
    if bias_correction:
        few = limited(batches, CORRECTION_SAMPLES, whole=folded.fixed_batch is not None)
        correct_biases(quantized.model, folded.module, few)
    quantized.set_range_mode(ranges)
    quantized.model.eval()
    return quantized


def assemble(folded: Folded, scheme: str, exceptions: dict[str, str], per_tensor_dense: bool, method: str) -> Quantized:
    """Put fake quantization onto a folded graph; ranges are still to be set.

    Raises:
        UsageError: unknown scheme, or a name in `exceptions` that the network doesn't have.
    """
    activation_bits(scheme)
    _check_exceptions(folded.module.graph, exceptions)
    with quiet():
        module = copy.deepcopy(folded.module)
    graph = module.graph
    points = find_points(graph, scheme, exceptions)
    of_node = points.of_node()
    sources = {node.name: [s for s in node.all_input_nodes if s.op != "get_attr"] for node in graph.nodes}
    originals = [node for node in graph.nodes if node.op != "output"]
    quantizers: dict[str, ActivationQuantizer] = {}
    rounded: dict[str, fx.Node] = {}

    for point in points.points:
        if point.scheme != FLOAT:
            quantizers[point.nodes[0]] = ActivationQuantizer(SCHEMES[point.scheme], point.fixed)
            module.add_submodule(f"{_ACTIVATIONS}.{point.nodes[0]}", quantizers[point.nodes[0]])
    for node in originals:
        point = of_node.get(node.name)
        if point is None or point.scheme == FLOAT or node.name not in point.nodes:
            continue
        with graph.inserting_after(node):
            kwargs: dict[str, Any] = {"away": True} if node.target in AVERAGES else {}
            made = graph.call_module(f"{_ACTIVATIONS}.{point.nodes[0]}", (node,), kwargs)
        node.replace_all_uses_with(made, delete_user_cb=lambda user, made=made: user is not made)
        rounded[node.name] = made
    for node in originals:
        if node.op != "call_function" or node.name in points.islands:
            continue
        own = of_node.get(node.name) or _melted_into(node, of_node)
        if own is None or own.scheme == FLOAT or (own.nodes[0] in points.islands and len(own.nodes) == 1):
            continue
        own_bits = SCHEMES[own.scheme]
        for source in sources[node.name]:
            given = of_node.get(source.name)
            if given is None or given.scheme == FLOAT or given is own:
                continue
            value = rounded.get(source.name, source)
            if node.target in SAME_RANGE:
                arguments: tuple[str, dict[str, Any]] = (f"{_ACTIVATIONS}.{own.nodes[0]}", {})
            elif SCHEMES[given.scheme] != (wanted := points.looked_up.get(node.name, own_bits)):
                if wanted > SCHEMES[given.scheme] and node.name in points.looked_up:
                    continue  # a table is read with the bits that there are
                arguments = (f"{_ACTIVATIONS}.{given.nodes[0]}", {"bits": wanted})
            else:
                continue
            with graph.inserting_before(node):
                converted = graph.call_module(arguments[0], (value,), arguments[1])
            node.replace_input_with(value, converted)
        _round_operands(module, node, own_bits)
        if node.target in LAYERS:
            given = of_node.get(sources[node.name][0].name) if sources[node.name] else None
            source_quantizer = quantizers.get(given.nodes[0]) if given is not None else None
            dense = node.target is aten.linear.default and per_tensor_dense
            axis = None if dense else LAYERS[node.target].weight_axis
            _round_layer(module, node, WeightQuantizer(axis, source_quantizer, own_bits))
    _narrow_outputs(graph, points)
    for node in originals:
        if node.target is aten.rsqrt.default:
            node.target = inverse_root
    graph.lint()
    module.recompile()
    return Quantized(
        fx.GraphModule(module, graph, class_name="FakeQuantized").eval(),
        scheme,
        points,
        dict(folded.origins),
        dict(exceptions),
        per_tensor_dense,
        folded.fixed_batch,
        folded.fixed_by,
        method,
    )


def _narrow_outputs(graph: fx.Graph, points: Points) -> None:
    """Let what the network returns leave with the bits of the network."""
    output, of_node = graph.output_node(), points.of_node()
    narrow: dict[fx.Node, fx.Node] = {}
    for (_, leaf), (name, scheme) in zip(named_nodes(graph), points.outputs, strict=True):
        if scheme != FLOAT and scheme != of_node[name].scheme and leaf not in narrow:
            with graph.inserting_before(output):
                target = f"{_ACTIVATIONS}.{of_node[name].nodes[0]}"
                narrow[leaf] = graph.call_module(target, (leaf,), {"bits": SCHEMES[scheme]})
    output.args = fx.map_arg(output.args, lambda leaf: narrow.get(leaf, leaf))  # type: ignore[assignment]


def strip(model: fx.GraphModule) -> fx.GraphModule:
    """A copy of a fake-quantized graph without its rounding."""
    with quiet():
        return copy.deepcopy(without_rounding(model))


def without_rounding(model: fx.GraphModule) -> fx.GraphModule:
    """A fake-quantized graph without its rounding, on the same tensors."""
    graph, copied = fx.Graph(), {}
    graph.graph_copy(model.graph, copied)
    output = model.graph.output_node()
    graph.output(fx.map_arg(output.args[0], copied.__getitem__)).meta.update(output.meta)
    for node in list(graph.nodes):
        if node.target is inverse_root:
            node.target = aten.rsqrt.default
        if node.op != "call_module":
            continue
        kind = str(node.target).partition(".")[0]
        if kind == _WEIGHTS:
            for user in list(node.users):
                user.replace_all_uses_with(node.args[int(user.args[1])])
                graph.erase_node(user)
        elif kind in (_ACTIVATIONS, _CONSTANTS):
            node.replace_all_uses_with(node.args[0])
        else:
            continue
        graph.erase_node(node)
    graph.lint()
    return fx.GraphModule(model, graph, class_name="Folded").eval()


def _round_layer(module: fx.GraphModule, node: fx.Node, quantizer: WeightQuantizer) -> None:
    module.add_submodule(f"{_WEIGHTS}.{node.name}", quantizer)
    weight, bias = weight_and_bias(node)
    with module.graph.inserting_before(node):
        both = module.graph.call_module(f"{_WEIGHTS}.{node.name}", (weight, bias))
        node.update_arg(1, module.graph.call_function(operator.getitem, (both, 0)))
        if bias is not None:
            node.update_arg(2, module.graph.call_function(operator.getitem, (both, 1)))


def _round_operands(module: fx.GraphModule, node: fx.Node, bits: int) -> None:
    """Constant tensors and numbers in arithmetic become integers of their own range, as the files hold them."""
    if node.target not in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.prelu.default):
        return
    for index in (1,) if node.target is aten.prelu.default else (0, 1):
        operand = node.args[index]
        with module.graph.inserting_before(node):
            if isinstance(operand, fx.Node):
                if not is_constant(operand) or not holds_floats(operand):
                    continue
                constant = operand
            else:
                name = f"constant_{node.name}_{index}"
                module.register_buffer(name, torch.tensor(float(operand)))  # type: ignore[arg-type]
                constant = module.graph.get_attr(name)
            target = f"{_CONSTANTS}.{node.name}_{index}"
            module.add_submodule(target, ConstantQuantizer(bits))
            node.update_arg(index, module.graph.call_module(target, (constant,)))


def _melted_into(node: fx.Node, of_node: dict[str, Point]) -> Point | None:
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.name in of_node:
            return of_node[node.name]
    return None


def _check_batches(batches: list[tuple[torch.Tensor, ...]], inputs: tuple[torch.Tensor, ...], first_axis: int) -> None:
    for batch in batches:
        if len(batch) != len(inputs) or any(
            a.shape[first_axis:] != b.shape[first_axis:] or a.dtype != b.dtype
            for a, b in zip(batch, inputs, strict=True)
        ):
            raise UsageError(
                f"a calibration batch has the shapes {_described(batch)}, the example inputs have "
                f"{_described(inputs)}; they may differ in the batch size only"
                + ("" if first_axis else ", and these inputs have no common first dimension, the batch")
            )


def _described(inputs: tuple[torch.Tensor, ...]) -> str:
    return ", ".join(f"{list(x.shape)} ({str(x.dtype).removeprefix('torch.')})" for x in inputs)


def _check_exceptions(graph: fx.Graph, exceptions: Mapping[str, str]) -> None:
    known = known_names(graph)
    for name, wanted in exceptions.items():
        if name not in known:
            raise UsageError(
                f"exceptions name {name!r}, which the network does not have; known are {', '.join(sorted(known))}"
            )
        if wanted not in (*SCHEMES, FLOAT):
            raise UsageError(
                f"exceptions[{name!r}] = {wanted!r} is no scheme; known are {', '.join(map(repr, (*SCHEMES, FLOAT)))}"
            )


def limited(
    batches: list[tuple[torch.Tensor, ...]], samples: int, whole: bool = False
) -> list[tuple[torch.Tensor, ...]]:
    """The first batches, up to so many samples, at least one; `whole` cuts none of them."""
    kept, count = [], 0
    for batch in batches:
        if count >= samples:
            break
        kept.append(batch if whole else tuple(x[: samples - count] for x in batch))
        count += len(batch[0]) if batch[0].ndim else 1
    return kept
