# SPDX-License-Identifier: Apache-2.0
"""Several files at the gate: each against the baseline that is of its own network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.gate.baseline import Baseline, load_baseline

#: Kinds of layers by which two files are told to be of one architecture; pruning changes widths and none of these.
_WEIGHTED = frozenset({"conv", "depthwise", "transposed_conv", "dense", "recurrent", "attention"})


def fitting_baseline(
    profile: Mapping[str, Any],
    baselines: Sequence[str],
    *,
    alone: bool,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> str | Baseline | None:
    """The baseline for one of several files.

    Args:
        profile: of the file.
        baselines: as on the command line: "git:REV" is every file's own past; model files and JSONs are of one network
            each.
        alone: this is the only file. With one baseline, that is meant whatever it is called.
        shapes: as for `benchmarks.gate.baseline.profile_of`.

    Returns:
        The one of the same name; else the one of the same architecture; else a `Baseline` that says there is none.
    """
    if not baselines:
        return None
    own = [text for text in baselines if text.startswith("git:") and text.count(":") == 1]
    if own:
        return own[0]
    if alone and len(baselines) == 1:
        return baselines[0]
    # Named baselines are files: their names tell without reading them.
    name = Path(str(profile.get("file", ""))).name
    for text in baselines:
        if Path(text.rpartition(":")[2]).name in (name, f"{name}.json"):
            return text
    # Only what is chosen is measured, by the gate: here layers and names are enough.
    loaded = [load_baseline(text, current=profile, arena=False, shapes=shapes) for text in baselines]
    for text, found in zip(baselines, loaded, strict=True):
        if Path(str(found.profile.get("file", ""))).name == name:
            return text
    for text, found in zip(baselines, loaded, strict=True):
        if same_architecture(found.profile, profile):
            return text
    return Baseline(
        {},
        ", ".join(baselines),
        note=f"no baseline is of this network, by its name or its layers: {', '.join(baselines)}",
        foreign=True,
    )


def same_architecture(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two profiles have layers of the same kinds in the same order, and inputs and outputs of as many axes."""

    def shape(profile: Mapping[str, Any]) -> tuple[Any, ...]:
        layers = [layer for layer in profile.get("layers") or () if isinstance(layer, Mapping)]
        borders = [len(t.get("shape") or ()) for side in ("inputs", "outputs") for t in profile.get(side) or ()]
        return [layer.get("kind") for layer in layers if layer.get("kind") in _WEIGHTED], borders

    return shape(a) == shape(b) and bool(shape(a)[0])


def another_network(before: Baseline, profile: Mapping[str, Any]) -> str:
    """A warning where a baseline was named that has another name and other layers; "" otherwise."""
    if before.note or not before.profile.get("layers"):
        return ""
    names = {Path(str(found.get("file", "")).rpartition(":")[2]).name for found in (before.profile, profile)}
    if len(names) == 1 or same_architecture(before.profile, profile):
        return ""
    return f"{before.source} is another network (another name, other layers): a change from it is no growth of this one"
