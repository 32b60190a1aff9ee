"""Integers: post-training quantization, quantization-aware training, and their checkpoints."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.quantize.model import Quantized as Quantized
    from compress.quantize.model import quantize_model as quantize_model
    from compress.quantize.qat import prepare_qat as prepare_qat
    from compress.quantize.restore import quantization_json as quantization_json
    from compress.quantize.restore import restore_quantized as restore_quantized
    from compress.quantize.restore import unfold as unfold
    from compress.quantize.sensitivity import layer_sensitivity as layer_sensitivity

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "Quantized": "compress.quantize.model",
    "quantize_model": "compress.quantize.model",
    "quantization_json": "compress.quantize.restore",
    "restore_quantized": "compress.quantize.restore",
    "unfold": "compress.quantize.restore",
    "prepare_qat": "compress.quantize.qat",
    "layer_sensitivity": "compress.quantize.sensitivity",
}
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    'Quantized', 'layer_sensitivity', 'prepare_qat', 'quantization_json', 'quantize_model', 'restore_quantized',
    'unfold',
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
