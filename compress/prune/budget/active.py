# SPDX-License-Identifier: Apache-2.0
"""Active paths of a masked network by NaN propagation, as Algorithm 1 of the report evaluates them.

Every layer's output is masked where its filters are removed. A channel is active if NaN put into the inputs arrives at
it (forward) and a NaN gradient put into the outputs arrives at it (backward): the forward pass alone overlooks dead
ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn

from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection
from edgepress.models.checkpoints.copying import copied
from edgepress.models.cost.graph import as_inputs
from edgepress.models.errors import UsageError

#: A layer's name, itself, its input and its output, in one pass.
Record = tuple[str, nn.Module, torch.Tensor, torch.Tensor]


class ActivePaths:
    """Which units of a network are active under a mask.

    Args:
        model: the network; left untouched.
        graph: its groups. Units that no module with a `weight` makes count as active where they are kept.

    Raises:
        UsageError: with nothing masked, NaN does not reach every unit and come back.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph):
        self._model, self._graph = model, graph
        nodes = [node for node in graph.graph.nodes if node.kind == "input"]
        self._inputs = tuple(torch.zeros(node.shape or (), dtype=getattr(torch, node.dtype)) for node in nodes)
        silent = [
            group.name for group, found in zip(graph.groups, self.units(graph.full()), strict=True) if not found.all()
        ]
        if silent:
            raise UsageError(
                f"projection = 'algorithm-1' finds active paths by NaN, which does not pass through the units of "
                f"{silent[0]}; projection = 'threshold' counts them by formula"
            )

    def units(self, selection: Selection) -> Selection:
        """The kept units that are active."""
        by_module: dict[str, np.ndarray] = {}
        for name, module, _, output in _records(self._model, self._graph, selection, self._inputs):
            found = _active(output, isinstance(module, nn.Linear)).numpy()
            by_module[name] = found | by_module.get(name, np.zeros_like(found))
        result = []
        for group, kept in zip(self._graph.groups, selection, strict=True):
            makers = [
                by_module[name][member.positions].any(1)
                for member in (group.members[index] for index in group.produced)
                if (name := member.tensor.removesuffix(".weight")) in by_module
            ]
            result.append(kept & np.any(makers, 0) if makers else kept)
        return tuple(result)


def active_figures(model: nn.Module, graph: ChannelGraph, selection: Selection, example_inputs: Any) -> tuple[int, int]:
    """Multiply-accumulates (rule core) and weights on active paths, counted on the module itself.

    Operators that mix channels (softmax, GRN, LayerNorm) spread NaN over all channels, so the count is that of
    Algorithm 1 only for networks without them.

    Returns:
        (macs, weights) of convolutions and dense layers.
    """
    return _count(_records(model, graph, selection, as_inputs(example_inputs)))


def _records(
    model: nn.Module, graph: ChannelGraph, selection: Selection, inputs: tuple[torch.Tensor, ...]
) -> list[Record]:
    twin = copied(model).eval()
    masks = _filter_masks(twin, graph, selection)
    records: list[Record] = []
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
            records.append((names[module], module, args[0], output))
        return output

    for module in twin.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)):
            module.register_forward_hook(recorded)
    filled = tuple(
        torch.full_like(value, float("nan")).requires_grad_() if value.is_floating_point() else value
        for value in inputs
    )
    with torch.enable_grad():
        outputs = [leaf for leaf in pytree.tree_leaves(twin(*filled)) if getattr(leaf, "requires_grad", False)]
        torch.autograd.backward(outputs, [torch.full_like(leaf, float("nan")) for leaf in outputs])
    return records


def _filter_masks(twin: nn.Module, graph: ChannelGraph, selection: Selection) -> dict[str, torch.Tensor]:
    """Module name -> [channels] bool, for layers and normalisations whose outputs lose channels."""
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


def _count(records: list[Record]) -> tuple[int, int]:
    macs = weights = 0
    for _, module, source, output in records:
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
