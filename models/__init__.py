"""What exists: tasks, networks, their cost and limits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.checkpoint import load_checkpoint as load_checkpoint
    from models.checkpoint import save_checkpoint as save_checkpoint
    from models.cost import Cost as Cost
    from models.cost import LayerCost as LayerCost
    from models.cost import cost_of as cost_of
    from models.limits import Limits as Limits
    from models.registry import build as build
    from models.spec import ModelSpec as ModelSpec

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "Cost": "models.cost",
    "LayerCost": "models.cost",
    "cost_of": "models.cost",
    "Limits": "models.limits",
    "ModelSpec": "models.spec",
    "build": "models.registry",
    "load_checkpoint": "models.checkpoint",
    "save_checkpoint": "models.checkpoint",
}
__all__ = ['Cost', 'LayerCost', 'Limits', 'ModelSpec', 'build', 'cost_of', 'load_checkpoint', 'save_checkpoint']


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
