# SPDX-License-Identifier: Apache-2.0
"""What attention has 16 bits for: masks that a network writes by hand, and a softmax over many values.

A mask is minus infinity, or a number far below, where nothing may be seen. As it stands it would leave a range no
steps: in 8 bits, [-1e9, 10] has one value for all scores. exp of the least that is added here is 0 in any float beside
exp of a score, and 16 bits hold it and the scores.
"""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportOperatorIssue=false
from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgepress.compress.quantize.graph.constants import fetch
from edgepress.compress.quantize.graph.layers import aten
from edgepress.compress.quantize.operators.build import WANTED_SCHEME, Builder

#: Stands for minus infinity.
LEAST = -64.0
#: Most values of a softmax in 8 bits. Where their exponentials sum up to 512, the kernels of TFLite Micro and LiteRT's
#: reference shift by more than 31 and abort the process; and the step is 1/256, where most of so many values are less.
LONGEST = 511
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
_PRODUCTS = {aten.matmul.default, aten.bmm.default, aten.mm.default}
#: May stand between the mask and the softmax: they only name the axes anew.
_RESHAPING = {aten.view.default, aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dim, aten.unflatten.int}


def rewrite_masks(module: fx.GraphModule) -> None:
    """Add a constant to the scores in place of each mask before a softmax that the network itself holds."""
    for softmax in list(module.graph.nodes):
        if softmax.target not in _SOFTMAX:
            continue
        way, node = [softmax], softmax.args[0]
        while isinstance(node, fx.Node) and node.target in _RESHAPING and len(node.users) == 1:
            way.append(node)
            node = node.args[0]
        found = _scores_and_mask(module, node)
        if found is None or len(node.users) != 1:
            continue
        scores, mask = found
        with module.graph.inserting_before(node):
            build = Builder(module, node)
            made = build(aten.add.Tensor, scores, build.constant("mask", mask), wide=True)
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
        for entry in way:
            entry.meta[WANTED_SCHEME] = "a16w8"


def widen_long_softmax(module: fx.GraphModule) -> None:
    """Give a softmax over more values than `LONGEST` 16 bits, and the products that read it."""
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.target not in _SOFTMAX or not isinstance(value, torch.Tensor):
            continue
        size = value.shape[int(node.args[1])]
        if not isinstance(size, int) or size <= LONGEST:
            continue
        wide = [node]
        while wide:
            own = wide.pop()
            own.meta[WANTED_SCHEME] = "a16w8"
            if own.target not in _PRODUCTS:
                wide += [user for user in own.users if user.target in {*_RESHAPING, *_PRODUCTS, aten.expand.default}]


def _scores_and_mask(module: fx.GraphModule, node: Any) -> tuple[fx.Node, torch.Tensor] | None:
    """(scores, what is added to them, at least `LEAST`) of an operator that hides some of them; None of others."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is aten.masked_fill.Scalar:
        scores, hidden, value = node.args[0], _constant(module, node.args[1]), node.args[2]
    elif node.target is aten.masked_fill.Tensor:
        scores, hidden, value = node.args[0], _constant(module, node.args[1]), _number(module, node.args[2])
    elif node.target in (aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf):
        condition, first, second = node.args
        seen, given, instead = _constant(module, condition), _number(module, first), _number(module, second)
        scores, value = (first, instead) if given is None else (second, given)
        hidden = None if seen is None else ~seen if given is None else seen
    elif node.target is aten.add.Tensor and not node.kwargs:
        return _added(module, *node.args)
    else:
        return None
    if hidden is None or value is None or value > LEAST or not isinstance(scores, fx.Node):
        return None
    return scores, torch.zeros(hidden.shape).masked_fill(hidden, LEAST)


def _added(module: fx.GraphModule, first: Any, second: Any) -> tuple[fx.Node, torch.Tensor] | None:
    for scores, other in ((first, second), (second, first)):
        mask = _constant(module, other)
        if isinstance(scores, fx.Node) and mask is not None and mask.is_floating_point() and bool((mask < LEAST).any()):
            return scores, mask.float().clamp(min=LEAST)
    return None


def _constant(module: fx.GraphModule, node: Any) -> torch.Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    return fetch(module, str(node.target)).detach()


def _number(module: fx.GraphModule, value: Any) -> float | None:
    if isinstance(value, (int, float)):
        return float(value)
    tensor = _constant(module, value)
    return float(tensor) if tensor is not None and tensor.numel() == 1 else None
