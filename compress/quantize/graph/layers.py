# SPDX-License-Identifier: Apache-2.0
"""Operators with weights, and which axis holds the channels: the one place that says it.

An axis never follows from the rank of a value alone: [N, 8, 16] are 8 channels behind a Conv1d and 16 behind a Linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """Where the channels of an operator with weights are.

    Attributes:
        weight_axis: of the output channels in the weight.
        channel_axis: of the channels in what it reads and in what it gives, counted from the end, so that it holds with
            and without a batch.
        integers: whether the formats have an integer kernel for it.
    """

    weight_axis: int
    channel_axis: int
    integers: bool = True


#: Operator -> its axes.
LAYERS: dict[Any, Layer] = {
    aten.linear.default: Layer(0, -1),
    aten.conv1d.default: Layer(0, -2),
    aten.conv1d.padding: Layer(0, -2),
    aten.conv2d.default: Layer(0, -3),
    aten.conv2d.padding: Layer(0, -3),
    aten.conv3d.default: Layer(0, -4, integers=False),
    aten.conv3d.padding: Layer(0, -4, integers=False),
    aten.conv_transpose1d.default: Layer(1, -2, integers=False),
    aten.conv_transpose2d.input: Layer(1, -3),
}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}


def weight_and_bias(node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The nodes which give a layer its weight and bias."""
    weight = node.args[1]
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    return weight, bias  # type: ignore[return-value]


def channel_axis(node: fx.Node) -> int:
    """Axis of the output channels in a layer's result, counted from the end."""
    return LAYERS[node.target].channel_axis


def argument(node: fx.Node, name: str) -> Any:
    """An argument of an ATen operator by its name, its default where it was not given."""
    for position, entry in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if entry.name == name:
            given = node.args[position] if position < len(node.args) else node.kwargs.get(name)
            return entry.default_value if given is None else given
    raise KeyError(f"{node.target} has no argument {name!r}")


def groups_of(node: fx.Node) -> int:
    """Groups of a convolution; 1 for a fully connected layer."""
    return 1 if node.target is aten.linear.default else int(argument(node, "groups"))


def others(rank: int, axis: int) -> list[int]:
    """All axes of a value but one, for sums and extremes by channel."""
    return [i for i in range(rank) if i != axis % rank]
