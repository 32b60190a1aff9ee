# SPDX-License-Identifier: Apache-2.0
"""A network and hard budgets go in, a physically smaller network with its proof comes out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepress.compress.prune.budget.project import projection as projection
    from edgepress.compress.prune.coupling.channels import ChannelGraph as ChannelGraph
    from edgepress.compress.prune.coupling.channels import find_groups as find_groups
    from edgepress.compress.prune.model import Pruned as Pruned
    from edgepress.compress.prune.model import prune_model as prune_model
    from edgepress.compress.prune.removal.proof import remove as remove

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "ChannelGraph": "edgepress.compress.prune.coupling.channels",
    "find_groups": "edgepress.compress.prune.coupling.channels",
    "Pruned": "edgepress.compress.prune.model",
    "prune_model": "edgepress.compress.prune.model",
    "projection": "edgepress.compress.prune.budget.project",
    "remove": "edgepress.compress.prune.removal.proof",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
