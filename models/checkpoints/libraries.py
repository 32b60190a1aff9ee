# SPDX-License-Identifier: Apache-2.0
"""Networks of other libraries, timm:NAME and torchvision:NAME, built with random weights; nothing is fetched."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import RuntimeFailure, UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


def library_factory(reference: str) -> Callable[..., nn.Module] | None:
    """What builds "timm:resnet18" or "torchvision:resnet18"; None where the reference names no such library.

    Raises:
        UsageError: the library has no network of this name.
        RuntimeFailure: the library is not installed, or cannot be imported beside this torch.
    """
    library, _, name = reference.partition(":")
    if library not in _FACTORIES:
        return None
    try:
        module = importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise RuntimeFailure(
            f"{reference} needs {error.name}, which is not installed: pip install {error.name}"
        ) from error
    except Exception as error:  # a build for another torch fails in many ways
        raise RuntimeFailure(
            f"{reference}: {library} cannot be imported beside the torch that is installed ({type(error).__name__}: "
            f"{error}); install builds that fit one another: pip install --force-reinstall torch torchvision"
        ) from error
    return _FACTORIES[library](module, name)


def _timm(timm: Any, name: str) -> Callable[..., nn.Module]:
    if not timm.is_model(name):
        raise UsageError(f"timm has no network {name!r}{did_you_mean(name, timm.list_models())}")
    return partial(timm.create_model, name, pretrained=False)


def _torchvision(torchvision: Any, name: str) -> Callable[..., nn.Module]:
    models = torchvision.models
    known = models.list_models()
    if name not in known:
        raise UsageError(
            f"torchvision has no network {name!r}{did_you_mean(name, known)}; known are {', '.join(known)}"
        )
    taken = inspect.signature(models.get_model_builder(name)).parameters
    # Detection and segmentation fetch a trained backbone unless they are told not to.
    return partial(models.get_model, name, **{key: None for key in ("weights", "weights_backbone") if key in taken})


_FACTORIES: dict[str, Callable[[Any, str], Callable[..., nn.Module]]] = {"timm": _timm, "torchvision": _torchvision}
