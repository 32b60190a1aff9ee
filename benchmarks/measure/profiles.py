# SPDX-License-Identifier: Apache-2.0
"""What a profile holds, and what is read from one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from edgepress.benchmarks.measure.layers.file_layers import NAMELESS


class ProfiledLayer(TypedDict):
    """One operator: MACs under every rule that applies, and bytes; `live_bytes` are those of its own moment."""

    name: str
    operator: str
    kind: str
    macs: dict[str, int]
    params: int
    weight_bytes: int
    input_shape: list[int]
    output_shape: list[int]
    activation_bytes: int
    live_bytes: int | None
    share: float


class ProfiledMoment(TypedDict):
    """Bytes of the activations alive while an operator runs."""

    step: int
    layer: str
    operator: str
    live_bytes: int


class ProfiledTensor(TypedDict):
    """An input or output."""

    name: str
    shape: list[int]
    dtype: str
    scale: float | None
    zero_point: int | None


class Profile(TypedDict):
    """Every count of a model, as JSON; see `edgepress.benchmarks.measure.profiling.profile`.

    `notes` says by key why a figure is null. A checkpoint has `params_unfolded`; `uncountable`, `nessi_memory_bytes`
    and `refused` are of files.
    """

    schema: int
    file: NotRequired[str]
    format: str
    sha256: str
    macs: dict[str, int | None]
    params: int | None
    params_unfolded: NotRequired[int]
    weight_bytes: int | None
    constant_bytes: int | None
    file_bytes: int
    nessi_memory_bytes: NotRequired[int | None]
    arena_bytes: dict[str, int | None]
    peak_activation_bytes: int | None
    inputs: list[ProfiledTensor]
    outputs: list[ProfiledTensor]
    layers: list[ProfiledLayer]
    memory: list[ProfiledMoment]
    uncounted: list[str]
    uncountable: NotRequired[list[dict[str, Any]]]
    refused: NotRequired[dict[str, dict[str, str]]]
    facts: dict[str, object]
    notes: dict[str, str]


def layer_macs(layer: Mapping[str, Any], rule: str | None) -> int:
    """MACs of a layer under a rule; the layer may hold one number or one for each rule."""
    macs = layer.get("macs")
    if isinstance(macs, Mapping):
        value = macs.get(rule or "dcase")
        return int(value if value is not None else macs.get("core") or 0)
    return int(macs or 0)


def is_float(profile: Mapping[str, Any]) -> bool:
    """Whether the weights take nearly two bytes each or more; int8 weights take one, their biases four."""
    params, weights = profile.get("params") or 0, profile.get("weight_bytes") or 0
    return bool(params) and weights > 1.75 * params


def named(profile: Profile, manifest: Mapping[str, Any]) -> Profile:
    """The profile with the layer names that shrinking took out of the file and put into its manifest."""
    shrink = manifest.get("shrink")
    names = shrink.get("tensor_names") if isinstance(shrink, dict) else None
    if not isinstance(names, list) or manifest.get("sha256") != profile.get("sha256"):
        return profile

    def name_of(name: str) -> str:
        index = name.removeprefix(NAMELESS)
        known = name.startswith(NAMELESS) and index.isdecimal() and int(index) < len(names)
        return str(names[int(index)]) if known else name

    return {
        **profile,
        "layers": [{**layer, "name": name_of(layer["name"])} for layer in profile["layers"]],
        "memory": [{**step, "layer": name_of(step["layer"])} for step in profile["memory"]],
    }
