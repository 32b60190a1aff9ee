# SPDX-License-Identifier: Apache-2.0
"""A network goes in, the same network with the integers of its file comes out, trainable."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepress.compress.quantize.model import Quantized as Quantized
    from edgepress.compress.quantize.model import quantize_model as quantize_model
    from edgepress.compress.quantize.qat import prepare_qat as prepare_qat
    from edgepress.compress.quantize.restore import quantization_json as quantization_json
    from edgepress.compress.quantize.restore import restore_quantized as restore_quantized
    from edgepress.compress.quantize.restore import unfold as unfold
    from edgepress.compress.quantize.sensitivity import layer_sensitivity as layer_sensitivity

#: Public name -> the module that defines it; imported when first used, so that light commands stay light.
_HOME = {
    "Quantized": "edgepress.compress.quantize.model",
    "quantize_model": "edgepress.compress.quantize.model",
    "quantization_json": "edgepress.compress.quantize.restore",
    "restore_quantized": "edgepress.compress.quantize.restore",
    "unfold": "edgepress.compress.quantize.restore",
    "prepare_qat": "edgepress.compress.quantize.qat",
    "layer_sensitivity": "edgepress.compress.quantize.sensitivity",
}
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "Quantized",
    "layer_sensitivity",
    "prepare_qat",
    "quantization_json",
    "quantize_model",
    "restore_quantized",
    "unfold",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
