# SPDX-License-Identifier: Apache-2.0
"""Every key of a recipe, from the schema: rows for `compress list keys`, and docs/recipe.md.

python -m edgepress.compress.recipes.page > docs/recipe.md
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edgepress.compress.recipes.recipe import Recipe
from edgepress.compress.recipes.writing import toml


def keys() -> Iterator[tuple[str, str, str, str]]:
    """(section, key, "type = default", what it means) of every key; the section of those at the top is ""."""
    yield from _keys(Recipe, "", {})


def _keys(
    section: type[BaseModel], place: str, seen: dict[type[BaseModel], str]
) -> Iterator[tuple[str, str, str, str]]:
    inner: list[tuple[str, type[BaseModel]]] = []
    later: list[tuple[str, type[BaseModel]]] = []
    for name, field in section.model_fields.items():
        below = _section_of(field.annotation)
        if below is not None:
            # What is needed or has a default stands before what a recipe may leave out.
            optional = not field.is_required() and field.default is None
            (later if optional else inner).append((name, below))
            continue
        yield place, name, _type_and_default(field), field.description or ""
    for name, below in inner + later:
        path = f"{place}.{name}" if place else name
        if below in seen:  # the same keys, said once
            field = section.model_fields[name]
            yield path, "...", f"the keys of [{seen[below]}]{_other_defaults(field, below)}", field.description or ""
            continue
        seen[below] = path
        yield from _keys(below, path, seen)


def _other_defaults(field: FieldInfo, kind: type[BaseModel]) -> str:
    """In what a section's default departs from those of its keys."""
    default = field.default
    if not isinstance(default, kind):
        return "" if field.is_required() or default is not None else "; left out: none"
    other = {
        name: getattr(default, name)
        for name, one in kind.model_fields.items()
        if not one.is_required() and getattr(default, name) != one.get_default(call_default_factory=True)
    }
    return "; left out: " + ", ".join(f"{name} = {toml(value)}" for name, value in other.items()) if other else ""


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _type_and_default(field: FieldInfo) -> str:
    said = _type(field.annotation)
    limits = [str(one) for one in field.metadata]
    bounds = ", ".join(_bound(limit) for limit in limits if _bound(limit))
    said += f" {bounds}" if bounds else ""
    if field.is_required():
        return f"{said}, needed"
    default = field.get_default(call_default_factory=True)
    return said if default is None else f"{said} = {toml(default)}"


def _bound(limit: str) -> str:
    """ "Ge(ge=0)" as ">= 0"; nothing for what is no bound of a number."""
    kind, _, rest = limit.partition("(")
    signs = {"Ge": ">=", "Gt": ">", "Le": "<=", "Lt": "<"}
    return f"{signs[kind]} {rest.partition('=')[2].rstrip(')')}" if kind in signs else ""


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'"{one}"' for one in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one) for one in arguments if one is not type(None))
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict or annotation is dict:
        return "table"
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(annotation, "value")
