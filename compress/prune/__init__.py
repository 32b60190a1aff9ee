"""Structured pruning to hard budgets: coupled channels, importance, projection, removal, proof.

`importance` and `project` are functions in the modules of the same names: import them from there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.prune.channels import ChannelGraph as ChannelGraph
    from compress.prune.channels import find_groups as find_groups
    from compress.prune.model import Pruned as Pruned
    from compress.prune.model import prune_model as prune_model
    from compress.prune.project import projection as projection
    from compress.prune.proof import remove as remove

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "ChannelGraph": "compress.prune.channels", "find_groups": "compress.prune.channels",
    "Pruned": "compress.prune.model", "prune_model": "compress.prune.model",
    "projection": "compress.prune.project", "remove": "compress.prune.proof",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
