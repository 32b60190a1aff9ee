# SPDX-License-Identifier: Apache-2.0
"""What a user wants kept: outputs of modules (`protect`) and shapes of tensors (`freeze`)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepress.models.cost.graph import Graph
from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Fixed:
    """Names that were looked up in the model.

    Attributes:
        modules: paths of the modules whose outputs keep their width.
        tensors: parameters and buffers that keep their shape, under all their names.
    """

    modules: tuple[str, ...] = ()
    tensors: frozenset[str] = frozenset()

    def outputs(self, graph: Graph) -> list[str]:
        """The values that leave a protected module: read outside it, or returned."""
        if not self.modules:
            return []
        inside: dict[str, list[str]] = {path: [] for path in self.modules}
        for node in graph.nodes:
            for path in self.modules if node.kind == "call" else ():
                if _within(node.module, path):
                    inside[path].append(node.name)
        found: dict[str, None] = {}
        for path, names in inside.items():
            for name in names:
                readers = [graph.by_name[reader] for reader in graph.users[name]]
                if name in graph.outputs or any(not _within(reader.module, path) for reader in readers):
                    found[name] = None
        return list(found)


def _within(module: str, path: str) -> bool:
    return module == path or module.startswith(f"{path}.")


def fixed_names(model: nn.Module, protect: Iterable[str] = (), freeze: Iterable[str] = ()) -> Fixed:
    """Look the names up.

    Args:
        protect: modules whose outputs keep their width; a parameter's name stands for its module.
        freeze: modules whose parameters, or parameters that, keep their shapes.

    Raises:
        UsageError: a name which is neither a module nor a parameter; it lists those that are.
    """
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    protect, freeze = _names(protect), _names(freeze)
    problems = []
    for title, names in (("protect", protect), ("freeze", freeze)):
        unknown = [name for name in names if name not in modules and name not in tensors]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), [*modules, *tensors], 3)
            hint = f" (did you mean {', '.join(near)}?)" if near else ""
            problems.append(f"{title} names {', '.join(map(repr, unknown))}, which the model does not have{hint}")
    if problems:
        raise UsageError(f"{'; '.join(problems)}; known are {', '.join(sorted({*modules, *tensors}))}")
    named = {modules[name] if name in modules else modules.get(name.rpartition(".")[0], model) for name in protect}
    covered = {id(tensor) for name, tensor in tensors.items() for path in freeze if _within(name, path)}
    return Fixed(
        # A shared module has several paths and one trace.
        tuple(path for path, module in modules.items() if module in named),
        frozenset(name for name, tensor in tensors.items() if id(tensor) in covered),
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
