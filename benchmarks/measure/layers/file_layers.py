# SPDX-License-Identifier: Apache-2.0
"""What a model file is made of, in one shape for every format: operators with their costs, tensors with their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgepress.models.cost.op_costs import RULES, WEIGHTED_KINDS, Op, does_arithmetic, macs

#: How the name of a tensor without one begins; its index follows.
NAMELESS = "tensor "
#: Shape of a tensor, without names.
Shape = tuple[int, ...]


@dataclass(frozen=True)
class FileLayer:
    """One operator of a file.

    Attributes:
        name: of its first output.
        operator: the format's own name, e.g. "CONV_2D" or "Conv".
        op: the numbers that the rules need.
        params: weights and biases read here first.
        weight_bytes: of them as stored.
        input_shape, output_shape: of the first input and output, in the file's own layout.
        reads, writes: names of the activations, each once.
        output_bytes: of all outputs.
    """

    name: str
    operator: str
    op: Op
    params: int
    weight_bytes: int
    input_shape: Shape
    output_shape: Shape
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    output_bytes: int


@dataclass(frozen=True)
class FileTensor:
    """An input or output of the file."""

    name: str
    shape: Shape
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Uncountable:
    """Operators that multiply by weights, or may do, and that a rule has no figure for: never zero, but not known.

    Attributes:
        operator: the format's own name.
        count: how many of them.
        rules: the rules that lack them.
        reason: why, and what to give.
    """

    operator: str
    count: int
    rules: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class FileContent:
    """Everything that `edgepress.benchmarks.measure.profiling` reads from a file.

    Attributes:
        format: "tflite" or "onnx".
        layers: in execution order.
        activation_bytes: name of each activation -> its size.
        constant_bytes: of everything constant, parameters or not.
        remarks: what was left out, e.g. further subgraphs.
        dynamic: how sizes that the file leaves open were counted; empty where there are none.
        unfolded: whether batch normalisation is still in the file, so that the rule torchinfo applies.
        open_sizes: the options for sizes that the file leaves open (more than its batch); empty where there are none.
        unknown: index of a layer that cannot be counted -> why.
        nessi_memory_bytes: of every constant once for each operator that reads it, as NeSsi counts the memory of a
            .tflite; None for other formats.
        hidden_params, hidden_weight_bytes: of graphs that an operator runs, or another signature; they are not among
            the layers, and the file holds them all the same.
        refused: runtime -> what of the file it does not run -> why.
    """

    format: str
    layers: tuple[FileLayer, ...]
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    activation_bytes: Mapping[str, int]
    constant_bytes: int
    remarks: tuple[str, ...] = ()
    dynamic: str = ""
    unfolded: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    open_sizes: str = ""
    unknown: Mapping[int, str] = field(default_factory=dict)
    nessi_memory_bytes: int | None = None
    hidden_params: int = 0
    hidden_weight_bytes: int = 0
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def live_bytes(content: FileContent) -> list[int]:
    """Bytes of the activations alive during each operator: from their writer to their last reader.

    Inputs are alive from the start, outputs to the end, an operator's inputs and outputs together.
    """
    first = {tensor.name: 0 for tensor in content.inputs}
    last = dict(first)
    for step, layer in enumerate(content.layers):
        for name in layer.reads:
            last[name] = step
            first.setdefault(name, step)
        for name in layer.writes:
            first.setdefault(name, step)
            last[name] = max(step, last.get(name, step))
    for tensor in content.outputs:
        last[tensor.name] = len(content.layers) - 1
    change = [0] * (len(content.layers) + 1)
    for name, start in first.items():
        change[start] += content.activation_bytes.get(name, 0)
        change[max(last[name], start) + 1 if content.layers else 0] -= content.activation_bytes.get(name, 0)
    alive, total = [], 0
    for step in range(len(content.layers)):
        total += change[step]
        alive.append(total)
    return alive


def uncounted_operators(content: FileContent, rules: tuple[str, ...] = RULES) -> list[str]:
    """One line per operator that computes something and that a rule leaves out, with the rules that do."""
    missing: dict[tuple[str, tuple[str, ...]], int] = {}
    for layer in content.layers:
        if does_arithmetic(layer.op):
            without = tuple(rule for rule in rules if not macs(layer.op, rule))
            if without:
                missing[layer.operator, without] = missing.get((layer.operator, without), 0) + 1
    return [
        f"{operator} ({count}): not in {'any rule' if without == rules else ', '.join(without)}"
        for (operator, without), count in missing.items()
    ]


def uncountable_operators(content: FileContent, rules: tuple[str, ...] = RULES) -> list[Uncountable]:
    """Operators whose MACs are not known under a rule, where a zero in their place would be a lie.

    These are the layers of `content.unknown` under every rule, and layers with weights or with products of
    activations that a rule leaves out (torchinfo leaves out by its definition what no leaf module of torch made).
    """
    found: dict[tuple[str, tuple[str, ...], str], int] = {}
    for index, layer in enumerate(content.layers):
        if index in content.unknown:
            key = (layer.operator, rules, content.unknown[index])
        elif layer.op.kind in WEIGHTED_KINDS or layer.op.kind == "attention":
            without = tuple(rule for rule in rules if rule != "torchinfo" and not macs(layer.op, rule))
            if not without:
                continue
            known = [rule for rule in rules if rule not in without and rule != "torchinfo"]
            key = (
                layer.operator,
                without,
                f"not part of {', '.join(without)}: take --macs-rule {known[0]}"
                if known
                else "its sizes are not known",
            )
        else:
            continue
        found[key] = found.get(key, 0) + 1
    return [Uncountable(operator, count, lacking, reason) for (operator, lacking, reason), count in found.items()]


def uncountable_sentences(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each reason, with the operators that it holds for.

    Args:
        found: each with the entries of `Uncountable`.
    """
    by_reason: dict[str, list[str]] = {}
    for entry in found:
        by_reason.setdefault(entry["reason"], []).append(f"{entry['operator']} ({entry['count']})")
    return [f"{', '.join(operators)} cannot be counted: {reason}" for reason, operators in by_reason.items()]
