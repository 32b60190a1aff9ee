"""Changes of a float network that cost no accuracy in float and save some in integers."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from edgepress.compress.quantize.fold import LAYERS, Folded, aten, fetch, weight_and_bias
from edgepress.compress.quantize.points import clipping_of

if TYPE_CHECKING:
    from edgepress.compress.quantize.model import Quantized

#: A channel is scaled by at most this much either way: beyond it, what was seen of the channel is noise.
_LARGEST_FACTOR = 16.0
#: Operators that commute with a positive factor per channel.
_HOMOGENEOUS = {
    aten.relu.default,
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.constant_pad_nd.default,
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
    largest = _largest_by_channel(module, {end.name for _, end, _ in pairs}, batches)
    with torch.no_grad():
        for first, end, second in pairs:
            weight, bias = weight_and_bias(first)
            tensor, following = fetch(module, str(weight.target)), fetch(module, str(weight_and_bias(second)[0].target))
            factor = _factors(largest[end.name].to(tensor), following, _groups(second))
            shape = [1] * tensor.ndim
            shape[LAYERS[first.target]] = -1
            tensor.div_(factor.reshape(shape))
            if bias is not None:
                fetch(module, str(bias.target)).div_(factor)
            if _is_depthwise(second, following):
                following.mul_(factor.reshape(-1, *[1] * (following.ndim - 1)))
            else:
                following.mul_(factor.reshape(1, -1, *[1] * (following.ndim - 2)))
    return Folded(module, dict(folded.origins), folded.dynamic_batch)


def correct_biases(quantized: Quantized, batches: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Take the mean error of every output channel out of the bias, layer by layer, in place.

    Nagel et al. 2019, arXiv 1906.04721, section 4.2, with means from calibration data: E[float] - E[quantized] of the
    layer's own output is added to its bias. Layers without a bias stay as they are.
    """
    batches = list(batches)
    reference = quantized.float_module()
    names = [
        name
        for name in quantized.origins
        if weight_and_bias(next(n for n in reference.graph.nodes if n.name == name))[1] is not None
    ]
    wanted = _means(reference, names, batches)
    for name in names:
        node = next(n for n in reference.graph.nodes if n.name == name)
        bias = fetch(quantized.model, str(weight_and_bias(node)[1].target))  # type: ignore[union-attr]
        with torch.no_grad():
            bias.add_((wanted[name] - _means(quantized.model, [name], batches)[name]).to(bias))


def _pairs(graph: fx.Graph) -> list[tuple[fx.Node, fx.Node, fx.Node]]:
    """(layer, the value that the next layer reads, next layer) where nothing else sees what is between them."""
    pairs = []
    for first in graph.nodes:
        if first.target not in (aten.conv2d.default, aten.linear.default):
            continue
        end = first
        while len(end.users) == 1:
            user = next(iter(end.users))
            if user.target in (aten.conv2d.default, aten.linear.default) and user.args[0] is end:
                if _can_follow(first, user):
                    pairs.append((first, end, user))
                break
            homogeneous = user.target in _HOMOGENEOUS and not (
                user.target is aten.constant_pad_nd.default and any(user.args[2:])
            )
            clipped = user.target is not aten.relu.default and clipping_of(user) is not None
            if not homogeneous or (end is first and clipped):
                break
            end = user
    return pairs


def _can_follow(first: fx.Node, second: fx.Node) -> bool:
    groups = _groups(second)
    channels = first.meta["val"].shape[1] if "val" in first.meta and first.meta["val"].dim() > 1 else None
    return first.target is second.target and (groups == 1 or groups == channels)


def _groups(node: fx.Node) -> int:
    given = node.target is aten.conv2d.default and len(node.args) > 6
    return int(node.args[6]) if given else 1  # type: ignore[arg-type]


def _is_depthwise(node: fx.Node, weight: torch.Tensor) -> bool:
    return _groups(node) > 1 and weight.shape[1] == 1


def _factors(activations: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    if groups > 1:
        spread = activations
    else:
        reading = weight.abs().amax(dim=[i for i in range(weight.ndim) if i != 1])
        spread = torch.sqrt(activations / reading.clamp(min=1e-12))
    alive = activations > 1e-6 * activations.max().clamp(min=1e-12)
    if not bool(alive.any()):
        return torch.ones_like(spread)
    middle = spread[alive].max() if groups > 1 else spread[alive].log().mean().exp()
    factor = (spread / middle).clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    return torch.where(alive, factor, torch.ones_like(factor))


def _largest_by_channel(
    module: fx.GraphModule, names: set[str], batches: Iterable[tuple[torch.Tensor, ...]]
) -> dict[str, torch.Tensor]:
    largest: dict[str, torch.Tensor] = {}

    def see(name: str, value: torch.Tensor) -> None:
        values = value.abs().amax(dim=[i for i in range(value.ndim) if i != 1])
        largest[name] = torch.maximum(largest[name], values) if name in largest else values

    _watch(module, names, batches, see)
    return largest


def _means(
    module: fx.GraphModule, names: list[str], batches: Iterable[tuple[torch.Tensor, ...]]
) -> dict[str, torch.Tensor]:
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, value: torch.Tensor) -> None:
        axis = value.ndim - 1 if value.ndim == 3 else 1
        total = value.sum(dim=[i for i in range(value.ndim) if i != axis])
        sums[name] = sums.get(name, torch.zeros_like(total)) + total
        counts[name] = counts.get(name, 0) + value.numel() // value.shape[axis]

    _watch(module, set(names), batches, see)
    return {name: sums[name] / counts[name] for name in sums}


def _watch(module: fx.GraphModule, names: set[str], batches: Iterable[tuple[torch.Tensor, ...]], see: Any) -> None:
    class Watcher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in names:
                see(n.name, value.detach())
            return value

    with torch.no_grad():
        for batch in batches:
            Watcher(module).run(*batch)
