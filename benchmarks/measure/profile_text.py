# SPDX-License-Identifier: Apache-2.0
"""A profile as text: totals under every rule, the layers as an aligned table, memory over time as bars."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from edgepress.benchmarks.measure.profiles import Profile, ProfiledLayer, ProfiledMoment, ProfiledTensor
from edgepress.models.text_tables import printable, table_text

_BAR_WIDTH = 40
_NAME_WIDTH = 32
_LINE_WIDTH = 118


def format_profile(profile: Profile) -> str:
    """Lines for a terminal, without a final newline; nothing wider than about 120 characters."""
    notes = profile.get("notes", {})
    parts = [_heading(profile), _counts(profile["macs"], notes), _sizes(profile, notes)]
    parts += [_layers(profile["layers"])] if profile["layers"] else []
    parts += [_memory(profile["memory"])] if profile["memory"] else []
    if notes.get("peak_activation_bytes"):
        parts.append(_wrapped("live tensors: " + notes["peak_activation_bytes"]))
    if profile["uncounted"]:
        parts.append("\n".join(["not counted:", *(_wrapped(printable(entry), 2) for entry in profile["uncounted"])]))
    if notes.get("dynamic"):
        parts.append(_wrapped(notes["dynamic"]))
    return "\n\n".join(parts)


def _heading(profile: Profile) -> str:
    borders = [f"{' '.join(_border(tensor) for tensor in profile[side])}" for side in ("inputs", "outputs")]
    title = profile.get("file") or profile["format"]
    return f"{title}  ({profile['format']}, sha256 {profile['sha256'][:12]})\n{borders[0]} -> {borders[1]}"


def _border(tensor: ProfiledTensor) -> str:
    return f"{printable(tensor['name'])[:_NAME_WIDTH]} {tensor['dtype']} [{_shape(tensor['shape'])}]"


def _counts(macs: Mapping[str, int | None], notes: Mapping[str, str]) -> str:
    rows = [("MACs by rule", "")]
    rows += [
        (f"  {rule}", f"{count:,}" if count is not None else f"-  {notes.get(rule, '')}")
        for rule, count in macs.items()
    ]
    return _pairs(rows)


def _wrapped(text: str, indent: int = 0) -> str:
    return textwrap.fill(
        text, _LINE_WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_long_words=False
    )


def _sizes(profile: Profile, notes: Mapping[str, str]) -> str:
    rows = [
        ("params", _number(profile["params"])),
        ("weight bytes", _number(profile["weight_bytes"])),
        ("constant bytes", _number(profile["constant_bytes"])),
        ("file bytes", _number(profile["file_bytes"])),
        ("live tensors, bytes", _number(profile["peak_activation_bytes"])),
    ]
    arena = profile["arena_bytes"]
    if arena["tflm"] is None:
        rows.append(("TFLite Micro arena", f"-  {notes.get('arena', '')}"))
    else:
        rows.append(("TFLite Micro arena", f"{arena['tflm']:,}  ({arena['head']:,} head + {arena['tail']:,} tail)"))
    return _pairs(rows)


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in rows)
    # A reason continues under itself.
    return "\n".join(
        textwrap.fill(
            f"{key.ljust(width)}  {value}", _LINE_WIDTH, subsequent_indent=" " * (width + 5), drop_whitespace=True
        ).rstrip()
        for key, value in rows
    )


def _layers(layers: Sequence[ProfiledLayer]) -> str:
    header = ("#", "operator", "layer", "input", "output", "core MACs", "share", "params", "out bytes")
    rows: list[tuple[str, ...]] = []
    for index, layer in enumerate(layers):
        rows.append(
            (
                str(index),
                printable(layer["operator"]),
                _short(layer["name"]),
                _shape(layer["input_shape"]),
                _shape(layer["output_shape"]),
                _number(layer["macs"]["core"]),
                f"{100 * layer['share']:.1f} %" if layer["share"] else "",
                _number(layer["params"] or None),
                _number(layer["activation_bytes"]),
            )
        )
    return table_text(header, rows)


def _memory(memory: Sequence[ProfiledMoment]) -> str:
    peak = max(step["live_bytes"] for step in memory)
    rows = []
    for step in memory:
        length = round(_BAR_WIDTH * step["live_bytes"] / peak) if peak else 0
        mark = " <- peak" if step["live_bytes"] == peak else ""
        rows.append((str(step["step"]), printable(step["operator"]), _number(step["live_bytes"]), "#" * length + mark))
    return table_text(("#", "operator", "live bytes", "memory over time"), rows)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape) if shape else "-"


def _short(name: str) -> str:
    """The end of a long name: the layer is there, the front is what all have in common."""
    name = printable(name.split(";")[0])
    return name if len(name) <= _NAME_WIDTH else "..." + name[3 - _NAME_WIDTH :]
