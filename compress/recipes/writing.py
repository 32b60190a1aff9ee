# SPDX-License-Identifier: Apache-2.0
"""A recipe as a file to read and change: every key that matters, with what it means behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from edgepress.compress.recipes.recipe import Recipe

#: Keys that are written although the recipe leaves them at their default: what people change first.
_SHOWN = {
    "": ("name", "task", "device", "seed", "front_end"),
    "network": ("name", "arguments"),
    "train": ("epochs", "batch_size", "learning_rate", "average", "label_smoothing"),
    "prune": ("targets", "method"),
    "prune.train": ("epochs", "learning_rate"),
    "quantize": ("scheme", "clips"),
    "quantize.train": ("epochs",),
    "measure": ("formats", "runtimes", "devices"),
}
_LONGEST = 120


def recipe_text(recipe: Recipe, introduction: str = "") -> str:
    """TOML that `read_recipe` reads back as the same recipe, with a comment behind every key."""
    lines = [f"# {line}".rstrip() for line in introduction.splitlines()]
    return "\n".join([*lines, *([""] if lines else []), *_section(recipe, "")]) + "\n"


def _section(section: BaseModel, place: str) -> Iterator[str]:
    shown = _SHOWN.get(place, ())
    inner: list[tuple[str, BaseModel]] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            inner.append((name, value))
        elif value is not None and (name in shown or value != field.get_default(call_default_factory=True)):
            yield _line(f"{name} = {toml(value)}", field.description)
    for name, value in inner:
        path = f"{place}.{name}" if place else name
        found = list(_section(value, path))
        field = type(section).model_fields[name]
        # A table without keys says that there is one, where the default is none.
        if found or value != field.get_default(call_default_factory=True):
            yield _line(f"\n[{path}]", field.description)
        yield from found


def _line(text: str, description: str | None) -> str:
    line = f"{text}  # {description}" if description else text
    if len(line.lstrip("\n")) <= _LONGEST:
        return line
    lead = "\n" if text.startswith("\n") else ""
    return f"{lead}# {description}\n{text.lstrip()}"


def toml(value: Any) -> str:
    """A value as TOML writes it, mappings inline."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {toml(one)}" for name, one in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)
