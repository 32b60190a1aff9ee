"""A checkpoint goes in, a smaller one comes out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.prune.model import Pruned as Pruned
    from compress.prune.model import prune_model as prune_model
    from compress.quantize.model import Quantized as Quantized
    from compress.quantize.model import quantize_model as quantize_model

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "Pruned": "compress.prune.model",
    "prune_model": "compress.prune.model",
    "Quantized": "compress.quantize.model",
    "quantize_model": "compress.quantize.model",
}
__all__ = ['Pruned', 'Quantized', 'prune_model', 'quantize_model']


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
