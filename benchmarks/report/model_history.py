# SPDX-License-Identifier: Apache-2.0
"""How a model moved: bytes, MACs and accuracy over the commits of a file, or over the files of a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.gate.git_files import commits_of, file_at
from edgepress.benchmarks.measure.profiling import profile_of
from edgepress.benchmarks.measure.result_log import read
from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.terminal.installation import how_to_install
from edgepress.models.text_tables import table_text
from edgepress.models.units import format_quantity

SCHEMA = 1
_SUFFIXES = (".tflite", ".onnx")
#: Figure of a point -> (its title, the unit of `models.units`).
FIGURES = {
    "file_bytes": ("file", "bytes"),
    "weight_bytes": ("weights", "bytes"),
    "macs": ("MACs (dcase)", "macs"),
    "accuracy": ("accuracy", "fraction"),
}


def model_history(
    model: str | Path,
    *,
    last: int = 20,
    results: Sequence[str | Path] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """The figures of each version of a model, oldest first.

    Args:
        model: a file in a git repository, of which each commit that changed it is a point, or a folder, of which each
            model is one, in the order of their names.
        last: so many points at most, the newest.
        results: files of results, from which a version takes the accuracy that was measured of its very bytes.
        shapes: input -> sizes, in place of those that the files leave open.

    Returns:
        JSON: schema, model, points: each label, date (None in a folder), title, sha256, file_bytes, weight_bytes,
        macs (rule dcase), accuracy and its runtime (None where nothing was measured), note (why there are no figures).

    Raises:
        UsageError: nothing there, no repository, or git refuses. RuntimeFailure: git is missing.
    """
    records = [record for source in results for record in read(source)]
    points = [
        _point(label, date, title, path, records, shapes) for label, date, title, path in _versions(Path(model), last)
    ]
    return {"schema": SCHEMA, "model": str(model), "points": points}


def _versions(model: Path, last: int) -> Iterator[tuple[str, str | None, str, Path | str]]:
    """(label, date, title, path or the reason why there is none) of each; a path holds while its point is made."""
    if model.is_dir():
        files = sorted(path for path in model.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not files:
            raise UsageError(f"{model} holds no .tflite and no .onnx")
        for path in files[-last:]:
            yield path.name, None, "", path
        return
    with tempfile.TemporaryDirectory(prefix="edgepress-history-") as folder:
        for commit, date, title in commits_of(model, last):
            data = file_at(commit, model)
            if data is None:
                yield commit[:10], date, title, "deleted"
                continue
            copy = Path(folder) / model.name
            copy.write_bytes(data)
            yield commit[:10], date, title, copy


def _point(
    label: str,
    date: str | None,
    title: str,
    path: Path | str,
    records: Sequence[Mapping[str, Any]],
    shapes: Mapping[str, Sequence[int]] | None,
) -> dict[str, Any]:
    point: dict[str, Any] = {"label": label, "date": date, "title": title, "sha256": None, "runtime": None}
    point |= dict.fromkeys(FIGURES) | {"note": path if isinstance(path, str) else ""}
    if isinstance(path, str):
        return point
    try:
        profile = profile_of(path, arena=False, shapes=shapes)
    except UsageError as error:
        # One damaged version, or one that is a pointer of Git LFS, does not take the history away.
        return {**point, "note": str(error).replace(str(path), path.name)}
    measured = [r for r in records if r.get("sha256") == profile["sha256"] and r.get("accuracy") is not None]
    newest = measured[-1] if measured else {}
    return {
        **point,
        "sha256": profile["sha256"],
        "file_bytes": profile["file_bytes"],
        "weight_bytes": profile["weight_bytes"],
        "macs": profile["macs"]["dcase"],
        "accuracy": newest.get("accuracy"),
        "runtime": newest.get("runtime"),
        "note": profile["notes"].get("dcase", ""),
    }


def as_text(history: Mapping[str, Any]) -> str:
    """A row for each version."""
    headings = ["version", "date", *(title for title, _ in FIGURES.values()), "what"]
    rows = [
        [
            point["label"],
            point["date"],
            *(format_quantity(point[key], unit) for key, (_, unit) in FIGURES.items()),
            "; ".join(filter(None, [point["title"], point["note"]])),
        ]
        for point in history["points"]
    ]
    return table_text(headings, rows) + "\n"


def as_svg(history: Mapping[str, Any]) -> str:
    """One line chart for each figure that is known, below each other.

    Raises:
        RuntimeFailure: vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise RuntimeFailure(f"the figure needs vl-convert ({error}): {how_to_install('vl_convert')}") from error
    order = [point["label"] for point in history["points"]]
    charts = []
    for key, (title, unit) in FIGURES.items():
        values = [{"version": p["label"], "value": p[key]} for p in history["points"] if p[key] is not None]
        if values:
            axis = {"title": f"{title}, {unit}" if unit == "bytes" else title, "scale": {"zero": False}}
            charts.append(
                {
                    "width": 480,
                    "height": 90,
                    "data": {"values": values},
                    "mark": {"type": "line", "point": True},
                    "encoding": {
                        "x": {"field": "version", "type": "ordinal", "sort": order, "title": None},
                        "y": {"field": "value", "type": "quantitative", **axis},
                    },
                }
            )
    if not charts:
        raise UsageError(f"{history['model']}: no version has a figure to draw")
    schema = "https://vega.github.io/schema/vega-lite/v6.json"
    return vl_convert.vegalite_to_svg({"$schema": schema, "title": Path(history["model"]).name, "vconcat": charts})


FORMATS = {"text": as_text, "svg": as_svg}
