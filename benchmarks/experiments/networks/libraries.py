# SPDX-License-Identifier: Apache-2.0
"""torchvision, timm and segmentation-models-pytorch beside whichever torch is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from edgepress.models.errors import RuntimeFailure

#: What `torchvision` asks of its compiled part at import. No network here uses either.
_OPERATORS = ("nms", "qnms")
_declared: list[Any] = []


def import_libraries() -> None:
    """Import torchvision where it is there, so that everything that looks for it later finds it whole.

    The packages of PyPI are built for CUDA: beside a CPU torch their compiled operators do not load, and the import
    ends with "operator torchvision::nms does not exist". The names are declared then; a network that calls one fails.
    """
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError:
        import sys

        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        _declared.append(library)
        for name in _OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


def segmentation_model(kind: str, encoder: str, **arguments: Any) -> Any:
    """A network of segmentation-models-pytorch with random weights.

    Raises:
        RuntimeFailure: the package is not installed.
    """
    try:
        import segmentation_models_pytorch as segmentation
    except ImportError as error:
        raise RuntimeFailure("segmentation-models-pytorch is not installed: pip install 'edgepress[peers]'") from error
    return segmentation.create_model(kind, encoder, encoder_weights=None, classes=3, **arguments)
