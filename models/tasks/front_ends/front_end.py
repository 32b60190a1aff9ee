# SPDX-License-Identifier: Apache-2.0
"""What a front end is, and the table of the kinds of them: a new kind is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from edgepress.models.errors import UsageError, did_you_mean

#: Kind -> where its class is defined, and what it takes in. A definition without a kind is log-mel: it was the first.
KINDS = {
    "log_mel": ("edgepress.models.tasks.front_ends.log_mel:LogMel", "sound"),
    "mfcc": ("edgepress.models.tasks.front_ends.mfcc:Mfcc", "sound"),
    "waveform": ("edgepress.models.tasks.front_ends.mfcc:Waveform", "sound"),
    "frames": ("edgepress.models.tasks.front_ends.frames:Frames", "sound"),
    "images": ("edgepress.models.tasks.front_ends.images:Images", "images"),
}


class FrontEnd(Protocol):
    """What makes network inputs of what was recorded: kept in the checkpoint, so that every figure uses the same."""

    @property
    def kind(self) -> str:
        """A key of KINDS."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The fields, and the kind where it is not log-mel: what `read_front_end` reads."""
        ...


def read_front_end(definition: Mapping[str, Any] | None) -> Any:
    """The front end of a checkpoint or of a recipe, by its fields; None for none.

    Raises:
        UsageError: no mapping, an unknown kind or field, or a value out of range.
    """
    if definition is None:
        return None
    if not isinstance(definition, Mapping):
        raise UsageError(f"front_end = {definition!r:.200} must be a table of fields such as kind, or the name of one")
    fields = dict(definition)
    kind = fields.pop("kind", "log_mel")
    if kind not in KINDS:
        raise UsageError(
            f"front_end.kind = {kind!r} is unknown{did_you_mean(kind, KINDS)}: known are {', '.join(KINDS)}"
        )
    module, _, name = KINDS[kind][0].partition(":")
    return getattr(import_module(module), name).from_json(fields)


def needs(front_end: FrontEnd | None, kinds: tuple[str, ...], source: str) -> None:
    """That a source can use this front end; None is its own default.

    Raises:
        UsageError: another kind.
    """
    if front_end is not None and front_end.kind not in kinds:
        raise UsageError(
            f"front_end.kind = {front_end.kind!r} takes {KINDS[front_end.kind][1]}, which {source!r} does not hold: "
            f"allowed are {', '.join(kinds)}; set front_end = {{ kind = {kinds[0]!r} }} in the recipe, or leave the "
            "key front_end out for the default"
        )
