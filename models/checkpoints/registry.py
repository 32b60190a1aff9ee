# SPDX-License-Identifier: Apache-2.0
"""Networks by name: the zoo, and a user's own as "package.module:factory"."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepress.models.checkpoints.libraries import library_factory
from edgepress.models.errors import UsageError, did_you_mean
from edgepress.models.user_code import call, find_object

if TYPE_CHECKING:
    from torch import nn


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
                f"{name} has no argument {argument!r}{did_you_mean(argument, known)}; known are " + ", ".join(known)
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
    """Import what "package.module:factory" names, or "timm:NAME", "torchvision:NAME"; running a stranger's code is the
    caller's decision.

    Raises:
        UsageError: what `edgepress.models.user_code.find_object` raises, or it is not callable.
        RuntimeFailure: what `edgepress.models.checkpoints.libraries.library_factory` raises.
    """
    found = library_factory(reference) if isinstance(reference, str) else None
    if found is not None:
        return found
    found = find_object(reference)
    if not callable(found):
        raise UsageError(f"{reference} is a {type(found).__name__}; it must be a function or a class")
    return found


def make_network(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network of a name of the zoo, or of "package.module:factory", whose code is run.

    Raises:
        UsageError: what `build` or `resolve_factory` raises, or a factory that fails or returns something else.
    """
    if ":" not in factory:
        return build(factory, **arguments)
    from torch import nn

    model = call(factory, resolve_factory(factory), **arguments)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{factory} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def _entry(name: str) -> ZooEntry:
    if not isinstance(name, str) or name not in _ZOO:
        hint = " (a factory of your own goes through resolve_factory)" if isinstance(name, str) and ":" in name else ""
        raise UsageError(f"network {name!r} is unknown{did_you_mean(name, _ZOO)}{hint}; known are {', '.join(_ZOO)}")
    return _ZOO[name]
