"""Networks by name: the zoo, and a user's own as "package.module:factory"."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import EdgepressError, UsageError

if TYPE_CHECKING:
    from torch import nn

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")


@dataclass(frozen=True)
class ZooEntry:
    """One network of the zoo.

    Attributes:
        name: what `build` and recipes call it.
        factory: "module:function", imported when it is first built.
        input_shapes: shape of each input without the batch, for the default arguments.
        summary: one line for `compress list`.
    """

    name: str
    factory: str
    input_shapes: tuple[tuple[int, ...], ...]
    summary: str


_ZOO = {
    entry.name: entry
    for entry in (
        ZooEntry(
            "cp_resnet",
            "edgepress.models.zoo.cp_resnet:cp_resnet",
            ((1, 256, 44),),
            "CP-ResNet, receptive-field regularised; winner of DCASE 2022 task 1",
        ),
        ZooEntry(
            "cp_mobile",
            "edgepress.models.zoo.cp_mobile:cp_mobile",
            ((1, 256, 64),),
            "CP-Mobile, inverted bottlenecks with GRN; winner of DCASE 2023 task 1",
        ),
        ZooEntry(
            "passt",
            "edgepress.models.zoo.passt:passt",
            ((1, 128, 100),),
            "PaSST, audio transformer with patchout, 85 M parameters; a teacher",
        ),
        ZooEntry(
            "passt_tiny",
            "edgepress.models.zoo.passt:passt_tiny",
            ((1, 128, 100),),
            "PaSST with 4 narrow blocks, 0.8 M parameters; a teacher that trains on a CPU",
        ),
        ZooEntry(
            "ds_cnn", "edgepress.models.zoo.ds_cnn:ds_cnn", ((1, 49, 10),), "DS-CNN, keyword spotting of MLPerf Tiny"
        ),
        ZooEntry(
            "resnet8",
            "edgepress.models.zoo.resnet8:resnet8",
            ((3, 32, 32),),
            "ResNet-8, image classification of MLPerf Tiny",
        ),
        ZooEntry(
            "mobilenet",
            "edgepress.models.zoo.mobilenet:mobilenet",
            ((3, 96, 96),),
            "MobileNetV1 at width 0.25, visual wake words of MLPerf Tiny",
        ),
        ZooEntry(
            "autoencoder",
            "edgepress.models.zoo.autoencoder:autoencoder",
            ((640,),),
            "dense auto-encoder, anomaly detection of MLPerf Tiny",
        ),
    )
}


def zoo() -> dict[str, ZooEntry]:
    """The networks that `build` knows, by name; light, nothing is imported."""
    return dict(_ZOO)


def build(name: str, **config: Any) -> nn.Module:
    """Build a network of the zoo with fresh weights, in training mode.

    Args:
        name: a key of `zoo()`.
        config: arguments of that network; `arguments_of(name)` lists them with their defaults.

    Raises:
        UsageError: unknown name, unknown argument, or an argument out of its range.
    """
    factory = resolve_factory(_entry(name).factory)
    known = arguments_of(name)
    for argument in config:
        if argument not in known:
            raise UsageError(
                f"{name} has no argument {argument!r}{_near(argument, known)}; known are " + ", ".join(known)
            )
    return factory(**config)


def arguments_of(name: str) -> dict[str, Any]:
    """The arguments of a network of the zoo, with their defaults (imports torch)."""
    parameters = inspect.signature(resolve_factory(_entry(name).factory)).parameters
    return {argument: parameter.default for argument, parameter in parameters.items()}


def fit_arguments(name: str, input_shape: tuple[int, ...], n_classes: int) -> dict[str, Any]:
    """The arguments that make a network of the zoo fit a task.

    Args:
        name: a key of `zoo()`.
        input_shape: one input of the task without the batch, (channels, height, width) or (numbers,).
        n_classes: number of classes.

    Returns:
        Arguments for `build`: channels, size and classes where the network has them.

    Raises:
        UsageError: the network takes inputs with another number of dimensions.
    """
    wanted = len(_entry(name).input_shapes[0])
    if len(input_shape) != wanted:
        raise UsageError(
            f"{name} takes inputs with {wanted} dimensions besides the batch, but the task has "
            f"{len(input_shape)} ({' x '.join(map(str, input_shape))})"
        )
    offered = {
        "in_channels": input_shape[0],
        "input_size": tuple(input_shape[1:]),
        "n_inputs": input_shape[0],
        "n_classes": n_classes,
    }
    known = arguments_of(name)
    return {argument: value for argument, value in offered.items() if argument in known}


def resolve_factory(reference: str) -> Callable[..., Any]:
    """Import what "package.module:factory" names; running a stranger's code is the caller's decision.

    Raises:
        UsageError: not of that form, no such module, the module fails, no such name in it, or it is not callable.
    """
    if not isinstance(reference, str) or not _REFERENCE.match(reference):
        raise UsageError(f"factory = {reference!r} must have the form package.module:factory")
    module_name, _, attribute = reference.partition(":")
    announce_code(reference)
    found: Any = _import(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"module {module_name} has no {attribute!r}{_near(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{reference} is a {type(found).__name__}; it must be a function or a class")
    return found


_announced: set[str] = set()


def announce_code(reference: str) -> None:
    """Say on stderr, once, that code outside edgepress is about to run."""
    if not reference.startswith("edgepress.") and reference not in _announced:
        _announced.add(reference)
        print(f"running code outside edgepress: {reference}", file=sys.stderr, flush=True)


def _import(name: str) -> Any:
    # A console script does not see the folder that it is called in, where users keep their module; `python -m` does.
    added = os.getcwd() if os.getcwd() not in sys.path and "" not in sys.path else None
    if added:
        sys.path.append(added)
    try:
        return importlib.import_module(name)
    except EdgepressError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise UsageError(
                f"there is no module {name!r}: call from the folder that holds it, or install it"
            ) from error
        raise UsageError(f"module {name!r} needs {missing!r}, which is not installed") from error
    except Exception as error:
        raise UsageError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(added)


def _entry(name: str) -> ZooEntry:
    if not isinstance(name, str) or name not in _ZOO:
        hint = " (a factory of your own goes through resolve_factory)" if isinstance(name, str) and ":" in name else ""
        raise UsageError(f"network {name!r} is unknown{_near(name, _ZOO)}{hint}; known are {', '.join(_ZOO)}")
    return _ZOO[name]


def _near(name: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
