# SPDX-License-Identifier: Apache-2.0
"""Networks that train with parallel branches and are deployed without them: MobileOne, RepVGG and their kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

#: What such modules call the method that merges their branches, in place (timm, and the authors of MobileOne, RepVGG).
_METHODS = ("reparameterize", "switch_to_deploy")


def offers_reparameterization(model: nn.Module) -> bool:
    """Whether a module of the network has a method that merges its branches; it may have done so already."""
    return any(_method(module) for module in model.modules())


def reparameterized(model: nn.Module) -> nn.Module:
    """A copy whose modules have merged their branches, outer modules first, in the mode of the original.

    Raises:
        UsageError: the model cannot be copied, or a module fails.
    """
    import torch

    from edgepress.models.checkpoints.copying import copied

    merged = copied(model).eval()
    for path in [path for path, module in merged.named_modules() if _method(module)]:
        try:
            module = merged.get_submodule(path)
        except AttributeError:  # a module around it has merged it already
            continue
        try:
            with torch.no_grad():
                getattr(module, _method(module) or "eval")()
        except Exception as error:  # whatever the code of a user's module raises
            raise UsageError(
                f"{_method(module)}() of module {path!r}, a {type(module).__name__}, fails: "
                f"{type(error).__name__}: {error}"
            ) from error
    for parameter in merged.parameters():  # merging detaches what it drops, and what it makes of it
        parameter.requires_grad_()
    return merged.train(model.training)


def _method(module: nn.Module) -> str | None:
    return next((name for name in _METHODS if callable(getattr(module, name, None))), None)
