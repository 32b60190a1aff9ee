# SPDX-License-Identifier: Apache-2.0
"""Files of weights from anywhere, read as tensors and nothing else, found wherever the file keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import UsageError
from edgepress.models.files.arrays import load_tensors, load_torch, refuse_numbers_that_are_none

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Where training scripts keep the state dict of the network in what they save, the most specific first.
_KEYS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "params", "weights")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict into the model, in place; nothing but tensors is read.

    The file is the state dict, or a mapping that holds it as "model", "state_dict" and the like. A prefix of all its
    names ("model." of Lightning, "module." of data-parallel training, "_orig_mod." of torch.compile) is left out where
    the names fit without it.

    Args:
        path: .safetensors, or what `torch.save` wrote.

    Raises:
        UsageError: no such file, damaged, holding other objects or values that are not finite, or of another network.
    """
    if not path.is_file():
        raise UsageError(f"weights = {str(path)!r} does not exist; give a state dict, .safetensors or .pt")
    content = _read(path)
    found = _state_dicts(content)
    if not found:
        held = f"; its keys are {', '.join(map(str, list(content)[:20]))}" if isinstance(content, Mapping) else ""
        raise UsageError(f"{path} holds no state dict: a mapping of names to tensors is needed{held}")
    wanted = model.state_dict()
    fitting = (fitted for state in found.values() if (fitted := _fitted(state, wanted)) is not None)
    key, state = next(iter(found.items()))
    chosen = next(fitting, state)
    try:
        model.load_state_dict(chosen)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        where = f" (looked at {', '.join(repr(name) for name in found)})" if key else ""
        raise UsageError(f"{path} does not fit the network{where}: {' '.join(lines)[:1000]}") from error
    refuse_numbers_that_are_none(chosen, str(path))


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return dict(load_tensors(path))
        return load_torch(path)
    except UsageError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UsageError(
            f"{path} cannot be read as weights (tensors only, no pickled objects): {str(error).splitlines()[0]}"
        ) from error


def _state_dicts(content: Any) -> dict[str, dict[str, torch.Tensor]]:
    """The state dicts in a file by the key that holds them, "" for the file itself; those with usual keys first."""
    if not isinstance(content, Mapping):
        return {}
    whole = _as_state_dict(content)
    if whole:
        return {"": whole}
    keys = [key for key in _KEYS if key in content]
    keys += [key for key in content if isinstance(key, str) and key not in keys and "optim" not in key]
    return {key: state for key in keys if (state := _as_state_dict(content[key]))}


def _as_state_dict(value: Any) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(value, Mapping) and all(isinstance(v, torch.Tensor) and isinstance(k, str) for k, v in value.items()):
        return dict(value)
    return {}


def _fitted(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The tensors under the names and in the shapes of the network, without a prefix if need be; None if they differ.

    What stands beside the network under other prefixes (a loss, a metric) is left out.
    """
    first = next(iter(wanted), "")
    prefixes = [name[: -len(first)] for name in state if name == first or name.endswith(f".{first}")]
    for prefix in prefixes:
        own = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        if {name: value.shape for name, value in own.items()} == {name: v.shape for name, v in wanted.items()}:
            return own
    return None
