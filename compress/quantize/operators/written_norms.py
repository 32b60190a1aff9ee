# SPDX-License-Identifier: Apache-2.0
"""Norms that a network's own forward writes out: (x - mean) / sqrt(variance + eps), x / sqrt(mean square + eps).

PyTorch's layer norm knows the last axes only, so that networks with channels first (ConvNeXt, speech separation) spell
it. Its parts take 16 bits for the reasons of `norms`, and its quotient becomes a product with 1 / sqrt.
"""

# torch.fx types what a node is called with as a union of all that could be: its members say nothing here.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
from __future__ import annotations

from typing import Any

from torch import fx

from edgepress.compress.quantize.graph.layers import aten
from edgepress.compress.quantize.operators.build import WANTED_SCHEME, Builder

_VARIANCES = (aten.var.correction, aten.var.dim)
#: What keeps a variance from 0.
_GUARDS = (aten.add.Tensor, aten.clamp_min.default, aten.clamp.default)


def rewrite_written_norms(module: fx.GraphModule) -> int:
    """Give the parts of norms that are written out 16 bits, and write their roots and quotients as 1 / sqrt, in place.

    Returns:
        How many were found.
    """
    count = 0
    _share_differences(module.graph)
    for node in list(module.graph.nodes):
        if node.target is aten.div.Tensor and _is_root(node.args[1]):
            x, power = node.args[0], node.args[1].args[0]
            found = _parts(x, power)
            if not found:
                continue
            with module.graph.inserting_before(node):
                build = Builder(module, node)
                inverse = build(aten.rsqrt.default, power, wide=True)
                scaled = build(aten.mul.Tensor, x, inverse, wide=True)
            node.replace_all_uses_with(scaled)
            module.graph.erase_node(node)
        elif node.target is aten.mul.Tensor and (inverse := _inverse(node)) is not None:
            found, scaled = _parts(_other(node, inverse), inverse.args[0]), node
            found += [inverse, node] if found else []
        else:
            continue
        count += bool(found)
        for part in (*found, *(_affine(scaled) if found else ())):
            part.meta[WANTED_SCHEME] = "a16w8"
    module.graph.eliminate_dead_code()
    return count


def _share_differences(graph: fx.Graph) -> None:
    """A value less its mean stands once where a forward writes it for the variance, and again for the norm."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if centred := _centred(node):
            first = seen.setdefault((node.args[0], repr(centred[1].args[1:])), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)


def _parts(x: Any, power: Any) -> list[fx.Node]:
    """What leads from a value to its variance or mean square, and what centres it; empty where it is another value."""
    parts: list[fx.Node] = []
    while isinstance(power, fx.Node) and power.target in _GUARDS and not isinstance(power.args[1], fx.Node):
        parts.append(power)
        power = power.args[0]
    if not isinstance(x, fx.Node) or not isinstance(power, fx.Node):
        return []
    centred = _centred(x)
    if power.target in _VARIANCES:
        return [*parts, power, *centred] if centred and centred[0].args[0] is power.args[0] else []
    square = power.args[0] if power.target is aten.mean.dim else None
    if not isinstance(square, fx.Node) or not _is_square(square):
        return []
    return [*parts, power, square, *centred] if square.args[0] is x else []


def _centred(x: fx.Node) -> list[fx.Node]:
    """A value less its mean, and that mean."""
    mean = x.args[1] if x.target is aten.sub.Tensor else None
    if isinstance(mean, fx.Node) and mean.target is aten.mean.dim and mean.args[0] is x.args[0]:
        return [x, mean]
    return []


def _is_square(node: fx.Node) -> bool:
    if node.target is aten.mul.Tensor:
        return node.args[0] is node.args[1]
    return node.target is aten.square.default or _is_power(node, 2)


def _is_root(node: Any) -> bool:
    return isinstance(node, fx.Node) and (node.target is aten.sqrt.default or _is_power(node, 0.5))


def _is_power(node: fx.Node, exponent: float) -> bool:
    return node.target is aten.pow.Tensor_Scalar and bool(node.args[1] == exponent)


def _inverse(product: fx.Node) -> fx.Node | None:
    """The factor of a product that is 1 / sqrt."""
    factors = [factor for factor in product.args if isinstance(factor, fx.Node)]
    return next((factor for factor in factors if factor.target is aten.rsqrt.default), None)


def _other(product: fx.Node, factor: fx.Node) -> Any:
    return product.args[1] if product.args[0] is factor else product.args[0]


def _affine(norm: fx.Node) -> list[fx.Node]:
    """The product with a constant and the sum with one behind it."""
    found: list[fx.Node] = []
    for target in (aten.mul.Tensor, aten.add.Tensor):
        last = found[-1] if found else norm
        user = next(iter(last.users)) if len(last.users) == 1 else None
        other = _other(user, last) if user is not None and user.target is target else None
        if isinstance(other, fx.Node) and other.op == "get_attr":
            found.append(user)
    return found
