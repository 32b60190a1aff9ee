# SPDX-License-Identifier: Apache-2.0
"""Published weights from a file that the user has, read without unpickling anything but tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgepress.models.errors import UsageError
from edgepress.models.files.arrays import load_tensors, load_torch, refuse_numbers_that_are_none

#: Class of the network -> where its published weights are.
SOURCES = {
    "PaSST": "https://github.com/kkoutini/PaSST/releases (such as passt-s-f128-p16-s10-ap.476-swa.pt), or fine-tuned "
    "on TAU at https://github.com/fschmid56/cpjku_dcase23/releases (passt_dirfms_1.pt)",
    "CPResNet": "https://github.com/fschmid56/cpjku_dcase23/releases (cpr_128k_dirfms_1.pt)",
    "CPMobile": "https://github.com/fschmid56/cpjku_dcase23 (DCASE23_Task1)",
}
#: What trainers put around the weights, and before their names.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("", "model.", "net.", "module.", "student.", "model.net.", "module.model.", "net_swa.")
#: The layers that give the logits: left as they are where the file has other classes.
_CLASSIFIERS = ("head.1.", "head_dist.", "feed_forward.")
_CONVERT = (
    "convert it where you trust it: torch.save({k: v for k, v in torch.load(FILE, weights_only=False)"
    "['state_dict'].items()}, 'plain.pt')"
)


@dataclass(frozen=True)
class Loaded:
    """A network with published weights.

    Attributes:
        model: a copy of the given one, with the weights.
        adapted: tensors cut to size, such as a time embedding made for 10 s.
        fresh: tensors the file has for other classes; they keep the values of the given network.
        unused: tensors of the file that the network has not.
    """

    model: nn.Module
    adapted: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def load_published(model: nn.Module, path: str | Path) -> Loaded:
    """Load published weights into a copy of a network of the zoo.

    Args:
        model: the network, built with the arguments of the published one; the number of classes may differ.
        path: .safetensors, or .pt/.ckpt holding tensors only (read with `weights_only=True`).

    Raises:
        UsageError: no such file (the message says where they are), one that holds more than tensors, one of another
            network, or a shape that cannot be adapted.
    """
    path = Path(path)
    if not path.is_file():
        source = SOURCES.get(type(model).__name__)
        raise UsageError(
            f"{path} does not exist"
            + (f"; get published weights of {type(model).__name__} from {source}" if source else "")
        )
    wanted = model.state_dict()
    found = _without_prefix(_read(path), wanted)
    state, adapted, fresh, problems = {}, [], [], []
    for name, value in wanted.items():
        given = found.get(name)
        if given is None:
            problems.append(f"{name} is missing")
        elif given.shape == value.shape:
            state[name] = given
        elif name == "time_new_pos_embed" and given.shape[:3] == value.shape[:3] and given.shape[3] > value.shape[3]:
            # Evaluation reads the first positions only, whatever the file holds beyond them.
            state[name] = given[..., : value.shape[3]]
            adapted.append(name)
        elif name.startswith(_CLASSIFIERS):
            fresh.append(name)
        else:
            problems.append(f"{name} has shape {tuple(given.shape)}, the network wants {tuple(value.shape)}")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UsageError(
            f"{path} does not fit this {type(model).__name__}: {'; '.join(problems[:3])}{more}; "
            "build the network with the arguments of the published one"
        )
    # One class too many makes every tensor of that layer worthless, its bias and statistics included.
    replaced = tuple(layer for layer in _CLASSIFIERS if any(name.startswith(layer) for name in fresh))
    fresh = [name for name in wanted if name.startswith(replaced)] if replaced else []
    refuse_numbers_that_are_none(state, str(path))
    loaded = copy.deepcopy(model)
    loaded.load_state_dict({**wanted, **{name: value for name, value in state.items() if name not in fresh}})
    return Loaded(loaded, tuple(adapted), tuple(fresh), tuple(name for name in found if name not in wanted))


def _read(path: Path) -> dict[str, Tensor]:
    content: Any
    if path.suffix == ".safetensors":
        content = load_tensors(path)
    else:
        try:
            content = load_torch(path)
        except UsageError:
            raise
        except Exception as error:  # the unpickler's own errors are many, and its module is not to be imported
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"{path} is damaged, or holds more than tensors, which is not read because it can run "
                f"code ({reason:.120}); {_CONVERT}"
            ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, not named tensors")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _without_prefix(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = max(_PREFIXES, key=lambda p: sum(p + name in found for name in wanted))
    others = {name: value for name, value in found.items() if not name.startswith(prefix)}
    return {**others, **{name[len(prefix) :]: value for name, value in found.items() if name.startswith(prefix)}}
