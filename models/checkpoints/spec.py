# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about its network besides the weights, as JSON that is checked before it is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from edgepress.models.errors import ConfigError, UsageError
from edgepress.models.tasks.kinds.table import KINDS

if TYPE_CHECKING:
    import torch

_FACTORY = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?\Z")
MAX_DIMENSIONS = 6
#: 256 M numbers, a GB in float32: more is no input of an edge network.
MAX_INPUT_NUMBERS = 2**28
MAX_CLASSES = 100_000
_MAX_DEPTH = 32


@dataclass(frozen=True)
class ModelSpec:
    """Everything that rebuilds a network, save the tensors.

    Attributes:
        factory: a name of the zoo ("cp_resnet"), or "package.module:factory".
        arguments: keyword arguments of the factory: JSON scalars, lists, and mappings of them.
        input_shapes: shape of each input without the batch, such as ((1, 256, 44),).
        front_end: the features the network was trained on (`tasks.front_ends.log_mel.LogMel.to_json`), or None.
        classes: names of the logits, in their order; empty where unknown.
        plan: what pruning removed, and whether branches of training were merged (`checkpoints.plan.apply_plan`), or
            None for the network as the factory builds it.
        task: the source of the task it was trained on, or None.
        notes: anything else worth keeping, such as the command.
        kind: of that task (models/tasks/kinds): whether outputs are classes, numbers, masks, ...

    Raises:
        ConfigError: fields of the wrong type or size, all of them together.
    """

    factory: str
    arguments: dict[str, Any]
    input_shapes: tuple[tuple[int, ...], ...]
    front_end: dict[str, Any] | None = None
    classes: tuple[str, ...] = ()
    plan: dict[str, Any] | None = None
    task: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    kind: str = "classification"

    def __post_init__(self) -> None:
        errors = [*_factory_errors(self.factory), *_shape_errors(self.input_shapes), *_class_errors(self.classes)]
        if self.kind not in KINDS:
            errors.append(f"kind = {self.kind!r:.200} is unknown: known are {', '.join(KINDS)}")
        if self.task is not None and not isinstance(self.task, str):
            errors.append(f"task = {self.task!r} must be text or null")
        for name in ("arguments", "front_end", "plan", "notes"):
            value = getattr(self, name)
            if value is None and name in ("front_end", "plan"):
                continue
            try:
                if not isinstance(value, Mapping):
                    raise ValueError(f"must be a mapping, not {type(value).__name__}")
                # Tuples become lists and mappings become dicts, so that what is read back equals what was saved.
                object.__setattr__(self, name, _as_json(value))
            except ValueError as error:
                errors.append(f"{name} {error}")
        if errors:
            raise ConfigError(errors, "the model description")
        object.__setattr__(self, "input_shapes", tuple(tuple(int(n) for n in shape) for shape in self.input_shapes))
        object.__setattr__(self, "classes", tuple(self.classes))

    def to_json(self) -> dict[str, Any]:
        """A new JSON-able dict with every field (the kind where it says something); `from_json` turns it back."""
        made = {f.name: _as_json(getattr(self, f.name)) for f in fields(self)}
        if self.kind == "classification":  # what there was before there were kinds
            del made["kind"]
        return made

    @classmethod
    def from_json(cls, value: Any) -> ModelSpec:
        """The spec in a JSON object, which may come from a stranger.

        Raises:
            UsageError: no object, an unknown or missing key, or a field of the wrong type or size.
        """
        if not isinstance(value, Mapping):
            raise UsageError(f"the model description must be a JSON object, not {type(value).__name__}")
        known = [f.name for f in fields(cls)]
        unknown = [key for key in value if key not in known]
        missing = [key for key in ("factory", "arguments", "input_shapes") if key not in value]
        if unknown or missing:
            raise ConfigError(
                [f"{key!r} is unknown: known are {', '.join(known)}" for key in unknown]
                + [f"{key!r} is missing" for key in missing],
                "the model description",
            )
        return cls(**value)

    def example_inputs(self, batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Standard normal inputs, one float32 tensor [batch, *shape] each; the same for the same seed."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn((batch, *shape), generator=generator) for shape in self.input_shapes)


def _factory_errors(factory: Any) -> list[str]:
    if isinstance(factory, str) and len(factory) <= 1000 and _FACTORY.match(factory):
        return []
    return [f"factory = {factory!r:.200} must be a name of the zoo or package.module:factory"]


def _shape_errors(shapes: Any) -> list[str]:
    wanted = "must be a list of shapes such as [[1, 256, 44]], without the batch"
    if not isinstance(shapes, (list, tuple)) or not 1 <= len(shapes) <= 64:
        return [f"input_shapes = {shapes!r:.200} {wanted}"]
    errors = []
    for i, shape in enumerate(shapes):
        whole = isinstance(shape, (list, tuple)) and all(isinstance(n, int) and not isinstance(n, bool) for n in shape)
        if not whole or not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1:
            errors.append(f"input_shapes[{i}] = {shape!r:.200} {wanted}; each has 1 to {MAX_DIMENSIONS} positive sizes")
        elif math.prod(shape) > MAX_INPUT_NUMBERS:
            errors.append(f"input_shapes[{i}] = {shape!r:.200} holds more than {MAX_INPUT_NUMBERS} numbers")
    return errors


def _class_errors(classes: Any) -> list[str]:
    if isinstance(classes, (list, tuple)) and len(classes) <= MAX_CLASSES and all(isinstance(c, str) for c in classes):
        return []
    return [f"classes = {classes!r:.200} must be a list of names"]


def _as_json(value: Any, depth: int = 0) -> Any:
    """A deep copy of plain JSON data; ValueError for anything else."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"has the key {key!r:.100}; keys must be text")
        return {key: _as_json(element, depth + 1) for key, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(element, depth + 1) for element in value]
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"holds {value!r:.100} of type {type(value).__name__}; only finite JSON values can be saved")
