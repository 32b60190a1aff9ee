# SPDX-License-Identifier: Apache-2.0
"""Changes of a float network that cost no accuracy in float and save some in integers."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.fold import Folded
from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.layers import (
    LAYERS,
    TRANSPOSED,
    argument,
    aten,
    channel_axis,
    groups_of,
    others,
    weight_and_bias,
)
from edgepress.compress.quantize.observe import watch

#: A channel is scaled by at most this much either way: beyond it, what was seen of the channel is noise.
_LARGEST_FACTOR = 16.0
#: Operators that commute with a positive factor per channel -> how many of the last axes they mix.
_HOMOGENEOUS: dict[Any, int] = {
    aten.relu.default: 0,
    aten.max_pool1d.default: 1,
    aten.avg_pool1d.default: 1,
    aten.adaptive_avg_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.avg_pool2d.default: 2,
    aten.adaptive_avg_pool2d.default: 2,
}


def equalize_layers(folded: Folded, batches: Iterable[tuple[torch.Tensor, ...]]) -> Folded:
    """Give the channels between two layers ranges of similar width.

    Activations have one scale per tensor, weights one per output channel. Dividing channel c of the first layer by s_c
    and multiplying the second layer's weights for it by s_c changes nothing in float. A depthwise second layer has a
    weight scale for that channel alone, so s_c evens the activations out completely; a dense one trades their spread
    against that of its weights in equal parts (cross-layer equalisation, Nagel et al. 2019, arXiv 1906.04721, section
    4.1, with activation ranges in the place of the first weights, as in SmoothQuant, Xiao et al. 2022, arXiv
    2211.10438, equation 4).

    Args:
        folded: untouched.
        batches: calibration inputs.

    Returns:
        An equal network up to float rounding.
    """
    module = copy.deepcopy(folded.module)
    pairs = _pairs(module.graph)
    if not pairs:
        return folded
    largest = _largest_by_channel(module, {end.name: channel_axis(first) for first, end, _ in pairs}, batches)
    with torch.no_grad():
        for first, end, second in pairs:
            weight, bias = weight_and_bias(first)
            tensor, following = fetch(module, str(weight.target)), fetch(module, str(weight_and_bias(second)[0].target))
            factor = _factors(largest[end.name].to(tensor), following, groups_of(second))
            shape = [1] * tensor.ndim
            shape[LAYERS[first.target].weight_axis] = -1
            tensor.div_(factor.reshape(shape))
            if bias is not None:
                fetch(module, str(bias.target)).div_(factor)
            if groups_of(second) > 1:
                each = factor.repeat_interleave(len(following) // len(factor))
                following.mul_(each.reshape(-1, *[1] * (following.ndim - 1)))
            else:
                following.mul_(factor.reshape(1, -1, *[1] * (following.ndim - 2)))
    return replace(folded, module=module)


def correct_biases(
    quantized: fx.GraphModule, reference: fx.GraphModule, batches: Iterable[tuple[torch.Tensor, ...]]
) -> None:
    """Take the mean error of every output channel out of the bias, layer by layer, in place.

    Nagel et al. 2019, arXiv 1906.04721, section 4.2, with means from calibration data: E[float] - E[quantized] of the
    layer's own output is added to its bias. A layer is corrected before what follows it runs, so that one pass over the
    network gives what one pass for every layer would. Layers without a bias of their own stay as they are.

    Args:
        quantized: fake-quantized, with the nodes of `reference` under their names.
        reference: the same network without rounding.
        batches: calibration inputs; all of them pass through the network together.
    """
    batches = list(batches)
    biases = {
        node.name: str(bias.target)
        for node in reference.graph.nodes
        if node.target in LAYERS
        and (bias := weight_and_bias(node)[1]) is not None
        and len(bias.users) == 1  # the steps of a recurrent layer share theirs
    }
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    axes = {node.name: channel_axis(node) for node in reference.graph.nodes if node.name in biases}

    def see(name: str, value: torch.Tensor) -> None:
        total = value.sum(dim=others(value.ndim, axes[name]))
        sums[name] = sums.get(name, torch.zeros_like(total)) + total
        counts[name] = counts.get(name, 0) + value.numel() // total.numel()

    watch(reference, axes.keys(), batches, see)
    wanted = {name: total / counts[name] for name, total in sums.items()}
    with torch.no_grad():
        _Correction(quantized, batches).run(biases, wanted)


class _Correction:
    """Runs a fake-quantized graph on several batches at once and corrects its biases on the way."""

    def __init__(self, module: fx.GraphModule, batches: list[tuple[torch.Tensor, ...]]):
        self.module, self.runs = module, [fx.Interpreter(module) for _ in batches]
        for run, batch in zip(self.runs, batches, strict=True):
            run.args_iter = iter(batch)
        #: Nodes that differ from batch to batch; the others are weights and what is made from them.
        self.varying: set[fx.Node] = set()

    def run(self, biases: dict[str, str], wanted: dict[str, torch.Tensor]) -> None:
        last_uses = self.runs[0].user_to_last_uses
        for node in self.module.graph.nodes:
            if node.op == "output":
                return
            if node.op == "placeholder" or not self.varying.isdisjoint(node.all_input_nodes):
                self.varying.add(node)
            self._evaluate(node)
            if node.name in wanted:
                self._correct(node, fetch(self.module, biases[node.name]), wanted[node.name])
            self._forget(last_uses.get(node, []))

    def _evaluate(self, node: fx.Node) -> None:
        if node in self.varying:
            for run in self.runs:
                run.env[node] = run.run_node(node)
        else:
            value = self.runs[0].run_node(node)
            for run in self.runs:
                run.env[node] = value

    def _forget(self, nodes: Iterable[fx.Node]) -> None:
        for node in nodes:
            for run in self.runs:
                run.env.pop(node, None)

    def _correct(self, layer: fx.Node, bias: torch.Tensor, wanted: torch.Tensor) -> None:
        values = [run.env[layer] for run in self.runs]
        dims = others(values[0].ndim, channel_axis(layer))
        total = torch.stack([value.sum(dim=dims) for value in values]).sum(0)
        mean = total / sum(value.numel() // total.numel() for value in values)
        bias.add_((wanted - mean).to(bias))
        again = self._rounding(layer)
        for node in (*again, layer):
            self._evaluate(node)
        self._forget(node for node in again if node not in layer.all_input_nodes)

    def _rounding(self, layer: fx.Node) -> list[fx.Node]:
        """The nodes that make a layer's weight and bias, in order."""
        found: set[fx.Node] = set()
        pending = [node for node in weight_and_bias(layer) if node is not None]
        while pending:
            node = pending.pop()
            found.add(node)
            pending += node.all_input_nodes
        return [node for node in self.module.graph.nodes if node in found]


def _pairs(graph: fx.Graph) -> list[tuple[fx.Node, fx.Node, fx.Node]]:
    """(layer, the value that the next layer reads, next layer) where nothing else sees what is between them."""
    pairs = []
    for first in graph.nodes:
        if first.target not in LAYERS or first.target in TRANSPOSED:
            continue
        end, axis = first, channel_axis(first)
        while len(end.users) == 1:
            user = next(iter(end.users))
            if user.target in LAYERS and user.target not in TRANSPOSED and user.args[0] is end:
                if axis == channel_axis(first) and _can_follow(first, user):
                    pairs.append((first, end, user))
                break
            moved = _moved(user, axis)
            if moved is None and not _commutes(user, axis):
                break
            end, axis = user, axis if moved is None else moved
    return pairs


def _moved(node: fx.Node, axis: int) -> int | None:
    """Where channels along `axis` (counted from the end) lie after an axis of length 1 came or went behind them, as
    around a pool along one axis that is one of two; None for every other operator."""
    if node.target is aten.unsqueeze.default:
        dim = argument(node, "dim")
        return axis - 1 if axis - 1 < dim < 0 else None
    if node.target is aten.squeeze.dim:
        dim = argument(node, "dim")
        return axis + 1 if axis < dim < 0 else None
    return None


def _commutes(node: fx.Node, axis: int) -> bool:
    """Whether an operator gives the same with a positive factor per channel before it and after it."""
    if node.target is aten.constant_pad_nd.default:
        amounts = argument(node, "pad")
        return not argument(node, "value") and not any(amounts[2 * -axis - 2 :])
    return node.target in _HOMOGENEOUS and _HOMOGENEOUS[node.target] < -axis


def _can_follow(first: fx.Node, second: fx.Node) -> bool:
    """Whether the second reads the channels that the first gives, all together or each by itself."""
    channels = first.meta["val"].shape[channel_axis(first)]
    return channel_axis(first) == channel_axis(second) and groups_of(second) in (1, channels)


def _factors(activations: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    if groups > 1:
        spread = activations
    else:
        reading = weight.abs().amax(dim=others(weight.ndim, 1))
        spread = torch.sqrt(activations / reading.clamp(min=1e-12))
    alive = activations > 1e-6 * activations.max().clamp(min=1e-12)
    if not bool(alive.any()):
        return torch.ones_like(spread)
    middle = spread[alive].max() if groups > 1 else spread[alive].log().mean().exp()
    factor = (spread / middle).clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    return torch.where(alive, factor, torch.ones_like(factor))


def _largest_by_channel(
    module: fx.GraphModule, axes: dict[str, int], batches: Iterable[tuple[torch.Tensor, ...]]
) -> dict[str, torch.Tensor]:
    largest: dict[str, torch.Tensor] = {}

    def see(name: str, value: torch.Tensor) -> None:
        values = value.abs().amax(dim=others(value.ndim, axes[name]))
        largest[name] = torch.maximum(largest[name], values) if name in largest else values

    watch(module, axes.keys(), batches, see)
    return largest
