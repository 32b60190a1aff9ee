# SPDX-License-Identifier: Apache-2.0
"""What a network costs: MACs under a named rule, parameters, weight bytes, peak activation bytes, layer by layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from edgepress.models.cost.activations import ActivationPlan, activation_plan
from edgepress.models.cost.aten import bias_of, op_of
from edgepress.models.cost.aten_names import BATCH_NORMS, FOLDABLE
from edgepress.models.cost.file_constants import file_constant_bytes
from edgepress.models.cost.folding import Folding, fold_batch_norms
from edgepress.models.cost.graph import Graph, Node, trace_one_sample
from edgepress.models.cost.op_costs import WEIGHTED_KINDS, Op, check_rule, check_scheme, does_arithmetic, macs

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class LayerCost:
    """One operator with what is folded into it.

    Attributes:
        name: path of its module; where several operators have one path, "#2", "#3" behind.
        operator: kind of operator, e.g. "conv", "depthwise", "dense", or ATen's name where the rules know no kind.
        macs: under the rule of the `Cost`.
        params: parameters read here first.
        weight_bytes: of these parameters under the scheme.
        input_shape, output_shape: with a batch of one.
        activation_bytes: of the output under the scheme; 0 where it has no tensor of its own.
    """

    name: str
    operator: str
    macs: int
    params: int
    weight_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    activation_bytes: int


@dataclass(frozen=True)
class Cost:
    """The cost of one inference with a batch of one.

    Attributes:
        rule: counting rule of `macs`.
        macs: multiply-accumulates.
        params: weights and biases; for the rule torchinfo as they are, else with batch normalisation folded.
        weight_bytes: bytes of weights and biases under the scheme, after folding.
        peak_activation_bytes: `cost.activations.ActivationPlan.peak` at the activation width of the scheme.
        layers: operators that cost or hold something, in execution order.
        uncounted: what does arithmetic or holds numbers and is not part of the figures.
        scheme: number format of the bytes.
        constant_bytes: at most what an int8 .tflite holds beside weights and biases: paddings, axes, shapes.
    """

    rule: str
    macs: int
    params: int
    weight_bytes: int
    peak_activation_bytes: int
    layers: tuple[LayerCost, ...]
    uncounted: tuple[str, ...]
    scheme: str = "w8a8"
    constant_bytes: int = 0


def cost_of(
    model: nn.Module, example_inputs: tuple[torch.Tensor, ...] | torch.Tensor, rule: str = "dcase", scheme: str = "w8a8"
) -> Cost:
    """Count a network in evaluation mode.

    Args:
        model: anything that `torch.export` can trace; it is not changed.
        example_inputs: one tensor per input; figures are for a batch of one, whatever their first dimension.
        rule: one of `edgepress.models.cost.op_costs.RULES`.
        scheme: "w8a8" (int8 weights, int32 biases, int8 activations), "w8a16", "fp16" or "fp32".

    Raises:
        UsageError: unknown rule or scheme, or a network that `torch.export` cannot trace.
    """
    check_rule(rule)
    check_scheme(scheme)
    return cost_of_graph(trace_one_sample(model, example_inputs), rule, scheme)


def cost_of_graph(graph: Graph, rule: str = "dcase", scheme: str = "w8a8") -> Cost:
    """`cost_of` for a network that has been traced already.

    Raises:
        UsageError: unknown rule or scheme.
    """
    rule = check_rule(rule)
    activation_width = check_scheme(scheme)[2]
    folding = fold_batch_norms(graph)
    plan = activation_plan(graph, folding)
    operators = network_ops(graph, folding)
    holdings = _holdings(graph, folding)
    layers, uncounted = _layers(graph, operators, holdings, plan, rule, scheme)
    params = sum(layer.params for layer in layers)
    if rule == "torchinfo":
        params = sum(prod(shape) for shape in graph.parameter_shapes.values())
    return Cost(
        rule,
        sum(layer.macs for layer in layers),
        params,
        sum(layer.weight_bytes for layer in layers),
        plan.peak() * activation_width,
        layers,
        (*_summary(uncounted), *_notes(graph, folding, holdings)),
        scheme,
        file_constant_bytes(graph, plan),
    )


def network_ops(graph: Graph, folding: Folding) -> dict[str, Op]:
    """Node name -> operator, for every operator which is left after folding.

    Folded normalisations are gone and their producers have a bias. torchinfo sees leaf modules: the parameters of each
    are given to one of its operators, those of a folded normalisation to its producer.
    """
    operators: dict[str, Op] = {}
    for node in graph.nodes:
        if node.kind != "call" or node.name in graph.constant:
            continue
        operators[node.name] = op_of(graph, node)
    _add_what_torchinfo_sees(graph, operators)
    for norm, producer in folding.producer.items():
        op, folded = operators[producer], operators.pop(norm)
        seen = (op.seen_parameters or 0) * op.seen_positions + (folded.seen_parameters or 0) * folded.seen_positions
        operators[producer] = replace(
            op, bias=folded.bias, bias_positions=op.bias_positions, seen_parameters=seen, seen_positions=1
        )
    return operators


def _add_what_torchinfo_sees(graph: Graph, operators: dict[str, Op]) -> None:
    """Parameters of leaf modules, per call, as torchinfo multiplies them (`calculate_macs` of torchinfo 1.8).

    Named weight or bias: by the output positions in a class with "Conv" in its name, else by the batch, which is one.
    Other names with "weight" or "bias" in them (recurrent layers): by the first two dimensions of the output.
    """
    last_of_call: dict[tuple[str, str], Node] = {}
    carrier: dict[tuple[str, str], str] = {}
    for node in graph.nodes:
        if node.kind == "call" and graph.leaf_modules.get(node.module):
            call = (node.module, node.module_call)
            if node.name in operators:
                best = carrier.setdefault(call, node.name)
                if macs(operators[node.name], "core") > macs(operators[best], "core"):
                    carrier[call] = node.name
            # Of several results a module returns the first one first.
            if node.op != "getitem" or node.arguments.get("1") == 0:
                last_of_call[call] = node
    for call, name in carrier.items():
        node = last_of_call[call]
        results = (node.shape, *node.shapes)
        output: tuple[int, ...] = next((shape for shape in results if shape is not None), ())
        seen = 0
        for parameter, elements in graph.leaf_modules[call[0]]:
            if parameter in ("weight", "bias"):
                seen += elements * (prod(output[:1] + output[2:]) if "Conv" in node.module_class else prod(output[:1]))
            elif "weight" in parameter or "bias" in parameter:
                seen += elements * prod(output[:2])
        operators[name] = replace(operators[name], seen_parameters=seen)


@dataclass(frozen=True)
class _Holding:
    """What one operator holds: numbers stored as weights and as biases, each counted at its first reader only."""

    weights: int = 0
    biases: int = 0
    loose: tuple[str, ...] = ()  # constants that are neither, e.g. a buffer that is added


def _holdings(graph: Graph, folding: Folding) -> dict[str, _Holding]:
    """Node name -> what it holds after folding."""
    seen: set[object] = set()
    holdings: dict[str, _Holding] = {}
    norm_of = {producer: norm for norm, producer in folding.producer.items()}

    def first_time(key: object) -> bool:
        fresh = key not in seen
        seen.add(key)
        return fresh

    for node in graph.nodes:
        if node.kind != "call" or node.name in graph.constant or node.name in folding.producer:
            continue
        weights = biases = 0
        loose: list[str] = []
        if node.op in BATCH_NORMS and node.op != "instance_norm":
            if first_time(("norm", *node.inputs[1:])):
                channels = op_of(graph, node).weights
                weights, biases = channels, channels
            holdings[node.name] = _Holding(weights, biases)
            continue
        bias = bias_of(graph, node) if node.op in FOLDABLE else None
        norm = norm_of.get(node.name)
        if norm is not None and first_time(("folded", _weight_key(graph, node), *graph.by_name[norm].inputs[1:])):
            biases += op_of(graph, graph.by_name[norm]).bias
        weighted = op_of(graph, node).kind in WEIGHTED_KINDS
        for name in dict.fromkeys(node.inputs):
            constant = graph.by_name[name]
            if name not in graph.constant or (norm is not None and bias is not None and name == bias.name):
                continue
            if not first_time(_key(graph, name)):
                continue
            origins = graph.origins(name)
            parameters = [graph.parameter_shapes[origin] for origin in origins if origin in graph.parameter_shapes]
            elements = min(constant.elements, sum(prod(shape) for shape in parameters)) if parameters else 0
            if weighted and not parameters and origins and len(constant.shape or ()) > 0:
                elements = constant.elements  # a weight kept as a buffer is a weight all the same
            if not elements:
                if origins and constant.elements > 1:
                    loose.append(f"constant {origins[0]}: {constant.elements} numbers")
            elif (bias is not None and name == bias.name) or (
                weighted
                and len(constant.shape or ()) == 1
                and node.op in ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell")
            ):
                biases += elements
            else:
                weights += elements
        holdings[node.name] = _Holding(weights, biases, tuple(loose))
    return holdings


def _weight_key(graph: Graph, node: Node) -> object:
    reference = node.arguments.get("weight", node.arguments.get("mat2"))
    return _key(graph, reference.name)


def _key(graph: Graph, name: str) -> object:
    """What a constant is computed from and how: equal for the same parameter, used or computed twice."""
    node = graph.by_name[name]
    if node.kind != "call":
        return (node.kind, node.source or node.name)
    plain = tuple((key, str(value)) for key, value in node.arguments.items() if not _names(value))
    return (node.overload, plain, tuple(_key(graph, read) for read in node.inputs))


def _names(value: object) -> bool:
    return "Ref(name=" in repr(value)


def _layers(
    graph: Graph, operators: dict[str, Op], holdings: dict[str, _Holding], plan: ActivationPlan, rule: str, scheme: str
) -> tuple[tuple[LayerCost, ...], list[str]]:
    weight_width, bias_width, activation_width = check_scheme(scheme)
    sizes = {tensor.name: prod(tensor.shape) for tensor in plan.tensors}
    uncounted: list[str] = []
    layers: list[LayerCost] = []
    taken: Counter[str] = Counter()
    for name, op in operators.items():
        node, holding = graph.by_name[name], holdings.get(name, _Holding())
        count = macs(op, rule)
        if not count and does_arithmetic(op) and node.op != "getitem":
            uncounted.append(node.op)
        # A ReLU that folds into the operator before it is part of that layer.
        own_layer = does_arithmetic(op) and (op.kind != "activation" or name in sizes)
        if not (count or holding.weights or holding.biases or own_layer):
            continue
        title = node.module or node.op
        taken[title] += 1
        source = next((graph.by_name[read] for read in node.inputs if read not in graph.constant), None)
        layers.append(
            LayerCost(
                title if taken[title] == 1 else f"{title}#{taken[title]}",
                op.kind if op.kind not in ("other", "activation", "move", "norm") else node.op,
                count,
                holding.weights + holding.biases,
                holding.weights * weight_width + holding.biases * bias_width,
                (source.shape if source is not None else None) or (),
                node.shape if node.shape is not None else next((s for s in node.shapes if s is not None), ()),
                sizes.get(name, 0) * activation_width,
            )
        )
    return tuple(layers), uncounted


def _summary(operators: list[str]) -> tuple[str, ...]:
    return tuple(f"{name} ({count})" if count > 1 else name for name, count in Counter(operators).items())


def _notes(graph: Graph, folding: Folding, holdings: dict[str, _Holding]) -> tuple[str, ...]:
    notes = [
        f"batch normalisation {graph.by_name[norm].module or norm} is not folded: {reason}"
        for norm, reason in folding.unfolded.items()
    ]
    notes += [note for holding in holdings.values() for note in holding.loose]
    read = {
        origin
        for node in graph.nodes
        if node.kind == "call"
        for name in node.inputs
        if name in graph.constant
        for origin in graph.origins(name)
    }
    notes += [
        f"parameter {name}: {prod(shape)} numbers that an evaluation never reads"
        for name, shape in graph.parameter_shapes.items()
        if name not in read
    ]
    return tuple(notes)
