# SPDX-License-Identifier: Apache-2.0
"""Figures of the report as Vega-Lite specifications: plain data in, a JSON-able dictionary out.

Vega-Lite draws them in the reader's browser (tooltips, legends that filter), from a bundle that is part of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]
Rows = Sequence[dict[str, Any]]

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
#: Okabe and Ito's colours, which people with colour-blindness can tell apart.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#8C6D31"]
#: What a point may be, relative to a Pareto front: full, hollow, a cross.
POINTS = ("on the front", "not told apart from it", "behind it")
_CONFIG = {
    "font": "system-ui, sans-serif",
    "background": "transparent",
    "view": {"stroke": None},
    "range": {"category": COLOURS},
    "axis": {
        "gridColor": "#e6e6e6",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 220,
    },
    "legend": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "orient": "bottom",
        "columns": 2,
        "labelLimit": 260,
        "symbolOpacity": 1,
        "symbolStrokeWidth": 2.5,
        "layout": {"bottom": {"direction": "vertical"}},
    },
}


def _chart(rows: Rows, height: int | dict[str, int], **parts: Any) -> Spec:
    return {
        "$schema": _SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": list(rows)},
        "config": _CONFIG,
        **parts,
    }


def _quantity(field: str, title: str | None, **options: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **options}


def _name(field: str, title: str | None = None, **options: Any) -> Spec:
    return {"field": field, "type": "nominal", "title": title, **options}


def _one_of_the_legend(field: str) -> Spec:
    """A click on an entry of the legend singles it out; a double click shows all again."""
    return {"name": "chosen", "select": {"type": "point", "fields": [field]}, "bind": "legend"}


def _faded(opacity: float, else_opacity: float = 0.06) -> Spec:
    return {"condition": {"param": "chosen", "value": opacity}, "value": else_opacity}


def _formats(metric: str) -> tuple[str, str]:
    """How a figure of a task is written in a tooltip and on an axis."""
    return (".2%", ".0%") if metric in ("accuracy", "pixel_accuracy") else (".4~r", "~g")


def accuracy_against_cost(rows: Rows, band: Rows, title: str, metric: str = "accuracy") -> Spec:
    """Accuracy, or another metric, over a cost with intervals, the Pareto front of every series and its band.

    Args:
        rows: network, series (precision and runtime), cost, front (where it lies, `POINTS`), accuracy (the figure),
            low, high.
        band: series, cost, accuracy, low, high of the front, at every cost where one of them steps.
        title: of the cost, with its unit.
        metric: what the figure is.
    """
    fine, coarse = _formats(metric)
    tooltip = [
        _name("network", "network"),
        _name("series", "runtime"),
        _quantity("cost", title, format=",.4~r"),
        _quantity("accuracy", metric, format=fine),
        _quantity("low", "interval from", format=fine),
        _quantity("high", "to", format=fine),
        _name("front", "Pareto front"),
    ]
    x = _quantity(
        "cost",
        title,
        scale={"type": "log", "nice": False, "padding": 18},
        axis={"format": "~s" if max(row["cost"] for row in rows) >= 1000 else "~g", "tickCount": 5},
    )
    y = _quantity("accuracy", metric, scale={"zero": False, "nice": True}, axis={"format": coarse})
    ends = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    colour = _name("series", "precision, runtime")
    on_front = f"datum.front == '{POINTS[0]}'"
    return _chart(
        rows,
        320,
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 1.5},
                "params": [_one_of_the_legend("series")],
                "encoding": {"x": x, **ends, "color": colour, "opacity": _faded(0.4)},
            },
            {
                "data": {"values": list(band)},
                "mark": {"type": "area", "interpolate": "step-after"},
                "encoding": {"x": x, **ends, "color": colour, "opacity": _faded(0.12, 0)},
            },
            {
                "data": {"values": list(band)},
                "mark": {"type": "line", "strokeWidth": 1.5, "interpolate": "step-after"},
                "encoding": {"x": x, "y": y, "color": colour, "opacity": _faded(0.7)},
            },
            {
                "mark": {"type": "point", "size": 80, "strokeWidth": 1.5},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "shape": _name(
                        "front", scale={"domain": list(POINTS), "range": ["circle", "circle", "cross"]}, legend=None
                    ),
                    "fill": {"condition": {"test": on_front, **colour, "legend": None}, "value": "white"},
                    "opacity": _faded(1),
                    "tooltip": tooltip,
                },
            },
        ],
    )


def over_measurements(rows: Rows, steps: Sequence[str], title: str, unit: str) -> Spec:
    """A figure of every file, measurement after measurement.

    Args:
        rows: series, step, value, why (what changed since the one before).
        steps: in order of time.
        title: of the figure.
        unit: "fraction" is shown as a percentage.
    """
    percent = unit == "fraction"
    return _chart(
        rows,
        280,
        params=[_one_of_the_legend("series")],
        mark={"type": "line", "point": {"size": 60, "filled": True}, "strokeWidth": 1.5},
        encoding={
            "x": _name("step", "run", sort=list(steps), axis={"labelAngle": 0}),
            "y": _quantity("value", title, scale={"zero": False}, axis={"format": ".0%" if percent else "~g"}),
            "color": _name("series", "file and runtime"),
            "opacity": _faded(1),
            "tooltip": [
                _name("series", "file"),
                _name("step", "run"),
                _quantity("value", title, format=".2%" if percent else ".4f"),
                _name("why", "since the one before"),
            ],
        },
    )


def accuracy_by_recording_device(rows: Rows) -> Spec:
    """Accuracy of every network on the clips of every recording device; devices unseen in training are set apart.

    Args:
        rows: network, device, seen ("seen in training" or "unseen"), accuracy (fraction), total (where it is known).
    """
    devices = list(dict.fromkeys(row["device"] for row in rows))
    return _chart(
        rows,
        300,
        layer=[
            {
                "mark": {"type": "line", "strokeWidth": 1},
                "params": [_one_of_the_legend("network")],
                "encoding": {"opacity": _faded(0.6)},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70},
                "encoding": {
                    "opacity": _faded(1),
                    "shape": _name("seen", "recording device"),
                    "tooltip": [
                        _name("network", "network"),
                        _name("device", "recording device"),
                        _name("seen", "in training"),
                        _quantity("accuracy", "accuracy", format=".2%"),
                        _quantity("total", "clips"),
                    ],
                },
            },
        ],
        encoding={
            "x": _name("device", "recording device", sort=devices, axis={"labelAngle": 0}),
            "y": _quantity("accuracy", "accuracy", scale={"zero": False}, axis={"format": ".0%"}),
            "color": _name("network", "network", sort=None),
        },
    )


def layer_macs(rows: Rows) -> Spec:
    """MACs of each layer, one bar a network.

    Args:
        rows: network, layer, mmacs.
    """
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    return _chart(
        rows,
        {"step": 9},
        mark={"type": "bar"},
        encoding={
            "y": _name("layer", sort=layers, axis={"labelLimit": 150}),
            "x": _quantity("mmacs", "million MACs"),
            "yOffset": _name("network", sort=None),
            "color": _name("network", "network", sort=None),
            "tooltip": [
                _name("layer", "layer"),
                _name("network", "network"),
                _quantity("mmacs", "MMACs", format=".4f"),
                _name("shape", "output shape"),
            ],
        },
    )


def share_of_limits(rows: Rows) -> Spec:
    """Each figure as a share of its limit; the line at 100 % is the limit.

    Args:
        rows: network, device, metric, share (fraction), value (text), limit (text), verdict ("fits", "warns" or
            "over").
    """
    return _chart(
        rows,
        {"step": 15},
        layer=[
            {
                "mark": {"type": "bar", "height": 9},
                "encoding": {
                    "x": _quantity("share", "share of the limit", axis={"format": ".0%"}),
                    "y": _name("label", sort=None, axis={"labelLimit": 230}),
                    "color": _name(
                        "verdict",
                        "verdict",
                        scale={"domain": ["fits", "warns", "over"], "range": [COLOURS[2], COLOURS[4], COLOURS[1]]},
                    ),
                    "tooltip": [
                        _name("network", "network"),
                        _name("device", "device class"),
                        _name("metric", "metric"),
                        _name("value", "value"),
                        _name("limit", "limit"),
                        _quantity("share", "share", format=".1%"),
                    ],
                },
            },
            {"mark": {"type": "rule", "strokeDash": [4, 3], "color": "#333"}, "encoding": {"x": {"datum": 1}}},
        ],
    )


def confusion(rows: Rows, classes: Sequence[str]) -> Spec:
    """Which class was taken for which.

    Args:
        rows: label, predicted, share (of the label's clips), clips.
        classes: in order.
    """
    return _chart(
        rows,
        {"step": 26},
        mark={"type": "rect"},
        encoding={
            "x": _name("predicted", "predicted", sort=list(classes), axis={"labelAngle": -45}),
            "y": _name("label", "label", sort=list(classes), axis={"labelLimit": 120}),
            "color": _quantity(
                "share",
                "share of the label",
                scale={"scheme": "blues", "domain": [0, 1]},
                legend={"format": ".0%", "direction": "horizontal", "gradientLength": 150},
            ),
            "tooltip": [
                _name("label", "label"),
                _name("predicted", "predicted"),
                _quantity("share", "share", format=".1%"),
                _quantity("clips", "clips"),
            ],
        },
    )


def memory_over_time(rows: Rows) -> Spec:
    """Bytes of live activations at each operator of a file.

    Args:
        rows: step, operator, live_bytes.
    """
    return _chart(
        rows,
        180,
        mark={"type": "area", "interpolate": "step-after", "line": True, "opacity": 0.4},
        encoding={
            "x": _quantity("step", "operator", axis={"tickMinStep": 1}),
            "y": _quantity("live_kb", "live activations, kB"),
            "tooltip": [
                _quantity("step", "step"),
                _name("operator", "operator"),
                _quantity("live_bytes", "bytes", format=","),
            ],
        },
    )


def training_curves(rows: Rows, metric: str = "accuracy") -> Spec:
    """Validation accuracy, or another metric, over epochs for each training of the run.

    Args:
        rows: training, epoch, accuracy (the figure).
        metric: what the figure is.
    """
    fine, coarse = _formats(metric)
    return _chart(
        rows,
        260,
        params=[_one_of_the_legend("training")],
        mark={"type": "line", "point": {"size": 18}, "strokeWidth": 1.5},
        encoding={
            "opacity": _faded(1),
            "x": _quantity("epoch", "epoch", axis={"tickMinStep": 1}),
            "y": _quantity("accuracy", f"validation {metric}", scale={"zero": False}, axis={"format": coarse}),
            "color": _name("training", "training", sort=None),
            "tooltip": [
                _name("training", "training"),
                _quantity("epoch", "epoch"),
                _quantity("accuracy", metric, format=fine),
            ],
        },
    )


def sweep(rows: Rows, parameter: str) -> Spec:
    """Log loss and accuracy over a swept parameter, one above the other, as in the report's Figure 2.

    Args:
        rows: value, measure ("accuracy, %" or "log loss"), figure.
        parameter: what was swept, for the axis.
    """
    # A chart in rows cannot take its width from the page.
    return {
        **_chart(
            rows,
            120,
            mark={"type": "line", "point": True, "strokeWidth": 1.5},
            encoding={
                "x": _quantity("value", parameter),
                "y": _quantity("figure", None, scale={"zero": False, "nice": True}),
                "row": _name("measure", None),
                "tooltip": [_quantity("value", parameter), _name("measure"), _quantity("figure", "is", format=".4f")],
            },
            resolve={"scale": {"y": "independent"}},
        ),
        "width": 420,
        "autosize": "pad",
    }


def ensemble_weights(rows: Rows) -> Spec:
    """The weight of every member of an ensemble, as in the report's Figure 3.

    Args:
        rows: model, ensemble, weight (shares that sum to 1).
    """
    return _chart(
        rows,
        200,
        mark="bar",
        encoding={
            "x": _name("model", "model"),
            "y": _quantity("weight", "share of the weight"),
            "xOffset": _name("ensemble"),
            "color": _name("ensemble", "ensemble"),
            "tooltip": [_name("model"), _name("ensemble"), _quantity("weight", "share", format=".4f")],
        },
    )
