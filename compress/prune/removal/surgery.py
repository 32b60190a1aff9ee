# SPDX-License-Identifier: Apache-2.0
"""From a selection to a plan: which indices, module sizes and traced arguments change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.compress.prune.coupling.channels import ChannelGraph, Selection
from edgepress.compress.prune.removal.attention import query_factors
from edgepress.compress.prune.removal.branches import find_branches
from edgepress.compress.prune.removal.edits import Removal
from edgepress.models.checkpoints.plan import apply_plan, empty_plan
from edgepress.models.cost.graph import read_program
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgepress.models.checkpoints.rebuild import Traces

#: Ways to make the smaller network, in the order in which they are tried: an edited copy with the sizes that torch's
#: own modules remember, one with all sizes that a forward seems to have read, a network rebuilt from its traces.
WAYS = ("modules", "sizes", "graph")


def make_plan(
    model: nn.Module, graph: ChannelGraph, selection: Selection, way: str = "modules", traces: Traces | None = None
) -> dict[str, Any]:
    """The JSON-able plan of a selection.

    Args:
        model: the dense network; only the sizes that its modules remember are looked at.
        way: one of `WAYS`.
        traces: of the dense network, for "graph".
    """
    plan = empty_plan()
    tensors = graph.kept_tensors(selection)
    if not tensors:
        return plan
    plan["tensors"] = {
        name: {str(axis): kept.tolist() for axis, kept in sorted(axes.items())} for name, axes in tensors.items()
    }
    removed = graph.removed_labels(selection)
    if way == "graph":
        assert traces is not None
        plan["kind"] = "graph"
        plan["graph"] = {
            "inputs": [[list(value.shape), str(value.dtype).removeprefix("torch.")] for value in traces.inputs],
            "calls": _calls(model, traces, "evaluation", tensors),
            **_training(model, traces, tensors),
        }
        return _without_branches(plan, graph, selection)
    factors = query_factors(Removal(graph.state, removed), tensors)
    if factors:
        plan["factors"] = factors
    modules = dict(model.named_modules(remove_duplicate=False))
    for view in [Removal(phase, removed) for phase in graph.phases]:
        for changes in (view.attributes(modules), view.written(modules) if way == "sizes" else {}):
            for path, sizes in changes.items():
                own = plan["attributes"].setdefault(path, {})
                own.update({name: value for name, value in sizes.items() if name not in own})
    return _without_branches(plan, graph, selection)


def _without_branches(plan: dict[str, Any], graph: ChannelGraph, selection: Selection) -> dict[str, Any]:
    """The plan, where groups keep nothing with the modules of their branches replaced.

    Raises:
        UsageError: a group that is no branch keeps nothing, or the network has to be rebuilt from its trace.
    """
    empty = [number for number, kept in enumerate(selection) if not np.any(kept)]
    if not empty:
        return plan
    branches = find_branches(graph)
    unfit = [graph.groups[number].name for number in empty if number not in branches]
    if unfit or plan["kind"] != "modules":
        raise UsageError(
            f"{unfit[0]} must keep a channel: it is no inner layer of a residual branch"
            if unfit
            else "a whole branch cannot be taken out of a network that is rebuilt from its trace"
        )
    replaced = {path: entry for number in empty for path, entry in branches[number].plan().items()}
    kept_whole = {name: axes for name, axes in plan["tensors"].items() if all(axes.values())}
    sizes = {
        path: {name: size for name, size in own.items() if size}
        for path, own in plan["attributes"].items()
        if replaced.get(path, {"kind": "constant"})["kind"] == "constant"
    }
    return {**plan, "tensors": kept_whole, "attributes": sizes, "branches": replaced}


def _calls(
    model: nn.Module, traces: Traces, mode: str, tensors: Mapping[str, Mapping[int, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    """The edits of one mode, in the trace that it is rebuilt from."""
    program = traces.program(mode, traces.batch_of(mode))
    return Removal.of_tensors(read_program(program, model), tensors).calls()


def _training(model: nn.Module, traces: Traces, tensors: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, Any]:
    """The edits of the training forward, or why there are none."""
    try:
        return {"training": _calls(model, traces, "training", tensors)}
    except UsageError as error:
        return {"training": None, "reason": str(error)}


def cut(
    model: nn.Module,
    graph: ChannelGraph,
    selection: Selection,
    plan: Mapping[str, Any],
    traces: Traces | None = None,
) -> nn.Module:
    """`apply_plan`, plus what depends on the weights at hand: weight_norm keeps its norms.

    A removed input would shrink the norm by which weight_norm divides; g is scaled so that the effective weights of
    the kept channels are those of the dense network.
    """
    import torch

    scales: dict[str, torch.Tensor] = {}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    kept = graph.kept_tensors(selection)
    for traced, node in [(phase.graph, node) for phase in graph.phases for node in phase.graph.nodes]:
        if node.op not in ("_weight_norm", "_weight_norm_interface"):
            continue
        v_name, g_name = (traced.by_name[node.arguments[key].name].source for key in ("v", "g"))
        if v_name not in kept or v_name not in tensors or g_name not in tensors:
            continue
        v, dim = tensors[v_name].detach(), int(node.arguments.get("dim", 0))
        rest = [axis for axis in range(v.ndim) if axis != dim]
        before = torch.linalg.vector_norm(v, dim=rest, keepdim=True)
        smaller = v
        for axis, indices in kept[v_name].items():
            if axis != dim:
                smaller = smaller.index_select(axis, torch.from_numpy(indices).to(v.device))
        ratio = torch.linalg.vector_norm(smaller, dim=rest, keepdim=True) / before.clamp_min(torch.finfo(v.dtype).tiny)
        if dim in kept[v_name]:
            ratio = ratio.index_select(dim, torch.from_numpy(kept[v_name][dim]).to(v.device))
        scales[g_name] = ratio
    smaller_model = apply_plan(model, plan, traces)
    if scales:
        with torch.no_grad():
            parameters = dict(smaller_model.named_parameters(remove_duplicate=False))
            for name, ratio in scales.items():
                parameters[name].mul_(ratio)
    return smaller_model
