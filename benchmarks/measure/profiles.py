# SPDX-License-Identifier: Apache-2.0
"""What a profile holds, and what is read from one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgepress.benchmarks.measure.layers.file_layers import NAMELESS


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


def named(profile: dict[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
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
