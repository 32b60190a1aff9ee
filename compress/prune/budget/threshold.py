# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 of the report: one threshold on all group norms, found by bisection over their ranks.

`threshold_counts` evaluates a mask with the exact cost formula, `active_figures` evaluates it as the report does: NaN
goes in, and a channel is active if NaN reaches it and a NaN gradient comes back to it. Both agree on what they count,
and the second one serves as the oracle of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.budget.project import Choice
from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection

if TYPE_CHECKING:
    import torch
    from torch import nn


def threshold_rank(norms: np.ndarray, feasible: Callable[[float], bool]) -> int:
    """The smallest rank whose norm, used as threshold, gives a feasible mask; len(norms) if none does.

    Args:
        norms: [N] sorted ascending. Filters with a norm below norms[rank] are masked, so ties fall together.
        feasible: whether masking everything below the given threshold is within the budget; monotone.
    """
    low, high = 0, len(norms) - 1
    while low <= high:
        index = (low + high) // 2
        if feasible(float(norms[index])):
            high = index - 1
        else:
            low = index + 1
    return low


def threshold_counts(choice: Choice, scores: Sequence[np.ndarray], budgets: Mapping[str, float]) -> np.ndarray:
    """[groups] units kept by the lowest feasible threshold; every group keeps its smallest allowed count at least.

    Algorithm 1 stops below the budget (<); a budget is an upper limit here (<=).
    """
    formula = choice.graph.formula
    norms = np.sort(np.concatenate([np.asarray(score, np.float64) for score in scores]))
    rising = [np.asarray(score, np.float64)[order][::-1] for score, order in zip(scores, choice.order, strict=True)]

    def counts(threshold: float) -> np.ndarray:
        kept = []
        for values, allowed in zip(rising, choice.allowed, strict=True):
            wanted = len(values) - int(np.searchsorted(values, threshold, "left"))
            kept.append(_nearest_allowed(allowed, wanted))
        return np.array(kept, np.int64)

    def feasible(threshold: float) -> bool:
        figures = formula.figures(counts(threshold))
        return all(figures.get(metric) <= limit for metric, limit in budgets.items())

    rank = threshold_rank(norms, feasible)
    return counts(float(norms[rank])) if rank < len(norms) else choice.lowest()


def _nearest_allowed(allowed: np.ndarray, wanted: int) -> int:
    """The largest allowed count up to `wanted`, or the smallest of all."""
    below = np.flatnonzero(allowed[: wanted + 1])
    return int(below[-1]) if len(below) else int(np.argmax(allowed))


def active_figures(model: nn.Module, graph: ChannelGraph, selection: Selection, example_inputs: Any) -> tuple[int, int]:
    """Multiply-accumulates (rule core) and weights on active paths, by NaN propagation on the module itself.

    Every convolution's and dense layer's output is masked where its filters are removed. A channel is active if NaN
    put into the inputs arrives at it (forward) and a NaN gradient put into the outputs arrives at it (backward): the
    forward pass alone overlooks dead ends. Operators that mix channels (softmax, GRN, LayerNorm) spread NaN over all
    channels, so the count is that of Algorithm 1 only for networks without them.

    Returns:
        (macs, weights) of convolutions and dense layers.
    """
    import torch
    from torch import nn

    from edgepress.models.checkpoints.copying import copied
    from edgepress.models.cost.graph import as_inputs

    twin = copied(model).eval()
    masks = _filter_masks(twin, graph, selection)
    records: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
    names = {module: name for name, module in twin.named_modules()}

    def masked(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        mask = masks.get(names[module])
        if mask is None:
            return output
        axis = output.ndim - 1 if isinstance(module, nn.Linear) else 1
        shape = [-1 if a == axis else 1 for a in range(output.ndim)]
        # torch.where and not a product: 0 * NaN is NaN.
        return torch.where(mask.reshape(shape), output, torch.zeros_like(output))

    def recorded(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        output = masked(module, args, output)
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            args[0].retain_grad() if args[0].requires_grad else None
            output.retain_grad() if output.requires_grad else None
            records.append((module, args[0], output))
        return output

    for module in twin.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)):
            module.register_forward_hook(recorded)
    inputs = tuple(torch.full_like(value, float("nan")).requires_grad_() for value in as_inputs(example_inputs))
    with torch.enable_grad():
        outputs = twin(*inputs)
        first = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs))
        first.backward(torch.full_like(first, float("nan")))
    return _count(records)


def _filter_masks(twin: nn.Module, graph: ChannelGraph, selection: Selection) -> dict[str, torch.Tensor]:
    """Module name -> [channels] bool, for layers and normalisations whose outputs lose channels."""
    import torch

    kept = graph.kept_tensors(selection)
    masks = {}
    for name, module in twin.named_modules():
        weight = getattr(module, "weight", None)
        axes = kept.get(f"{name}.weight" if name else "weight", {})
        axis = 1 if getattr(module, "transposed", False) else 0
        if isinstance(weight, torch.Tensor) and axis in axes:
            mask = torch.zeros(weight.shape[axis], dtype=torch.bool)
            mask[torch.from_numpy(axes[axis])] = True
            masks[name] = mask
    return masks


def _count(records: list[tuple[nn.Module, torch.Tensor, torch.Tensor]]) -> tuple[int, int]:
    import torch
    from torch import nn

    macs = weights = 0
    for module, source, output in records:
        inside, outside = (_active(value, isinstance(module, nn.Linear)) for value in (source, output))
        groups = getattr(module, "groups", 1)
        pairs = sum(
            int(i.sum()) * int(o.sum()) for i, o in zip(inside.chunk(groups), outside.chunk(groups), strict=True)
        )
        kernel = int(torch.tensor(getattr(module, "kernel_size", (1,))).prod())
        positions = output[0].numel() // output.shape[-1 if isinstance(module, nn.Linear) else 1]
        macs += pairs * kernel * positions
        weights += pairs * kernel
    return macs, weights


def _active(value: torch.Tensor, last: bool) -> torch.Tensor:
    """[channels] bool: NaN in the value and NaN in its gradient."""
    axis = value.ndim - 1 if last else 1
    others = [a for a in range(value.ndim) if a != axis]
    forward = value.detach().isnan().sum(others) > 0
    if value.grad is None:
        return forward
    return forward & (value.grad.isnan().sum(others) > 0)
