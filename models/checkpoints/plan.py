# SPDX-License-Identifier: Apache-2.0
"""Pruning plans: JSON that says which channels of which tensors are kept; `apply_plan` makes the smaller network.

A plan of kind "modules" cuts tensors and sets the sizes that modules remember; the class and its forward stay. Where a
forward has sizes written into it, a plan of kind "graph" also lists the arguments to change, and the network is rebuilt
by `edgepress.models.checkpoints.rebuild` with the same parameter names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgepress.models.checkpoints.copying import copied
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgepress.models.checkpoints.rebuild import Traces

SCHEMA = 1
KINDS = ("modules", "graph")


def empty_plan() -> dict[str, Any]:
    """The plan that removes nothing."""
    return {"schema": SCHEMA, "kind": "modules", "tensors": {}, "attributes": {}}


def apply_plan(model: nn.Module, plan: Mapping[str, Any], traces: Traces | None = None) -> nn.Module:
    """A new, smaller network; `model` is untouched. Nothing is traced unless the plan is of kind "graph".

    Args:
        model: the dense network that the plan was made for (its weights may be others).
        plan: from `compress.prune_model`; plain JSON.
        traces: programs of `model` that were made before, for a plan of kind "graph".

    Raises:
        UsageError: the plan is damaged, of a newer schema, or was made for another network.
    """
    check_plan(plan)
    if plan.get("reparameterized"):
        from edgepress.models.checkpoints.reparameterize import reparameterized

        model = reparameterized(model)
    smaller = copied(model)
    cut_tensors(
        smaller,
        {name: {int(axis): list(kept) for axis, kept in axes.items()} for name, axes in plan["tensors"].items()},
    )
    _multiply(smaller, plan.get("factors", ()))
    if plan["kind"] == "graph":
        from edgepress.models.checkpoints.rebuild import rebuild

        return rebuild(model, smaller, plan["graph"], traces)
    modules = dict(smaller.named_modules(remove_duplicate=False))
    for path, attributes in plan["attributes"].items():
        if path not in modules:
            raise UsageError(
                f"the plan changes module {path!r}, which the model does not have; it was made for another network"
            )
        for name, value in attributes.items():
            present: Any = vars(modules[path]).get(name)
            if not _is_size(present):
                raise UsageError(
                    f"the plan sets {name} of module {path!r}, a {type(modules[path]).__name__}, which "
                    "has no such size; it was made for another network"
                )
            setattr(modules[path], name, type(present)(value))
    if plan.get("branches"):
        from edgepress.models.checkpoints.branches import replace_branches

        replace_branches(smaller, plan["branches"])
    return smaller


def removes(plan: Mapping[str, Any] | None) -> bool:
    """Whether a plan takes channels or branches out; one that merges parallel branches alone does not."""
    return plan is not None and (plan["kind"] != "modules" or bool(plan["tensors"] or plan.get("branches")))


def chain_plans(first: dict[str, Any] | None, second: dict[str, Any]) -> dict[str, Any]:
    """One plan for a network that was pruned twice: the kept indices of the second are looked up in the first.

    Raises:
        UsageError: one of them rebuilds the graph, which cannot be done twice.
    """
    if first is None:
        return second
    if first.get("reparameterized"):
        second = {**second, "reparameterized": True}
    if not removes(first):
        return second
    if (first["kind"], second["kind"]) != ("modules", "modules"):
        raise UsageError("this network was rebuilt when it was pruned and cannot be pruned again; prune the dense one")
    if first.get("branches"):
        raise UsageError("this network has lost whole branches and cannot be pruned again; prune the dense one")
    tensors = {name: dict(axes) for name, axes in first["tensors"].items()}
    for name, axes in second["tensors"].items():
        for axis, kept in axes.items():
            before = tensors.setdefault(name, {}).get(axis)
            tensors[name][axis] = list(kept) if before is None else [before[index] for index in kept]
    attributes = {
        path: {**first["attributes"].get(path, {}), **second["attributes"].get(path, {})}
        for path in {**first["attributes"], **second["attributes"]}
    }
    return {**second, "tensors": tensors, "attributes": attributes}


def check_plan(plan: Mapping[str, Any]) -> None:
    """Check the form of a plan, before anything is changed.

    Raises:
        UsageError: what is wrong with it.
    """
    if not isinstance(plan, Mapping) or plan.get("kind") not in KINDS:
        raise UsageError(f"this is no pruning plan: its kind must be one of {', '.join(KINDS)}")
    if plan.get("schema") != SCHEMA:
        raise UsageError(f"the plan has schema {plan.get('schema')!r}, this edgepress reads {SCHEMA}; update edgepress")
    for name, axes in _mapping(plan, "tensors").items():
        for axis, kept in _mapping({"axes": axes}, "axes", f"tensors[{name!r}]").items():
            good = (
                str(axis).isdigit()
                and isinstance(kept, (list, tuple))
                and kept
                and all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in kept)
            )
            if not good or len(set(kept)) != len(kept):
                raise UsageError(f"the plan is damaged: axis {axis!r} of {name!r} needs a list of different indices")
    for path, attributes in _mapping(plan, "attributes").items():
        for name, value in _mapping({"attributes": attributes}, "attributes", f"attributes[{path!r}]").items():
            if name.startswith("_") or not name.isidentifier() or not _is_size(value):
                raise UsageError(
                    f"the plan is damaged: it sets {name!r} of module {path!r} to {value!r:.80}; "
                    "allowed are public attributes that are positive sizes"
                )
    for entry in plan.get("factors", ()):
        good = (
            isinstance(entry, Mapping)
            and isinstance(entry.get("tensor"), str)
            and isinstance(entry.get("rows"), (list, tuple))
            and all(type(row) is int and row >= 0 for row in entry["rows"])
            and isinstance(entry.get("factor"), float)
            and 0 < entry["factor"] < float("inf")
        )
        if not good:
            raise UsageError(f"the plan is damaged: factors has {entry!r:.80}; it needs tensor, rows and factor")
    if plan["kind"] == "graph":
        _mapping(plan, "graph")
    if "branches" in plan:
        from edgepress.models.checkpoints.branches import check_replaced

        check_replaced(plan["branches"])


def _multiply(model: nn.Module, factors: Sequence[Mapping[str, Any]]) -> None:
    """Multiply rows of parameters, in place."""
    import torch

    named = dict(model.named_parameters(remove_duplicate=False))
    for entry in factors:
        tensor = named.get(entry["tensor"])
        if tensor is None or max(entry["rows"], default=0) >= len(tensor):
            raise UsageError(
                f"the plan multiplies rows of {entry['tensor']!r}, which the model does not have; it was made for "
                "another network"
            )
        with torch.no_grad():
            tensor[entry["rows"]] *= entry["factor"]


def _is_size(value: Any) -> bool:
    """Whether it is a positive integer, or a sequence of them: all that a plan may read and set on a module."""
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return bool(numbers) and all(type(number) is int and number > 0 for number in numbers)


def _mapping(plan: Mapping[str, Any], key: str, title: str = "") -> Mapping[str, Any]:
    value = plan.get(key)
    if not isinstance(value, Mapping):
        raise UsageError(f"the plan is damaged: {title or key} must be a JSON object")
    return value


def cut_tensors(model: nn.Module, kept: Mapping[str, Mapping[int, list[int]]]) -> None:
    """Keep the given indices of parameters and buffers, in place; tied parameters stay tied.

    Raises:
        UsageError: a tensor that the model does not have, or an index beyond it.
    """
    import torch
    from torch import nn

    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in own_tensors(module):
            owners.setdefault(id(tensor), []).append((module, name))
    named = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    done: set[int] = set()
    for name, axes in kept.items():
        tensor = named.get(name)
        if tensor is None:
            raise UsageError(f"the plan cuts {name!r}, which the model does not have; it was made for another network")
        if id(tensor) in done:
            continue
        done.add(id(tensor))
        smaller = tensor.detach()
        for axis, indices in axes.items():
            if axis >= tensor.ndim or max(indices) >= tensor.shape[axis]:
                raise UsageError(
                    f"the plan keeps index {max(indices)} of axis {axis} of {name!r}, whose shape is "
                    f"{tuple(tensor.shape)}; it was made for another network"
                )
            smaller = smaller.index_select(axis, torch.tensor(indices, device=tensor.device))
        smaller = smaller.clone(memory_format=torch.contiguous_format)
        new = nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller
        for module, own in owners[id(tensor)]:
            setattr(module, own, new)


def own_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers of a module without those of its children."""
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)
