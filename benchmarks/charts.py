"""Figures of the report as Vega-Lite specifications: plain data in, a JSON-able dictionary out.

Vega-Lite draws them in the reader's browser (tooltips, legends that filter), from a bundle that is part of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]
Rows = Sequence[dict[str, Any]]

_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
#: Okabe and Ito's colours, which people with colour-blindness can tell apart.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#8C6D31"]
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
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "orient": "bottom", "columns": 2, "labelLimit": 260},
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


def accuracy_against_macs(rows: Rows) -> Spec:
    """Accuracy over MACs with intervals.

    Args:
        rows: network, series (precision and runtime), mmacs, accuracy, low, high (fractions).
    """
    tooltip = [
        _name("network", "network"),
        _name("series", "runtime"),
        _quantity("mmacs", "MMACs", format=".3f"),
        _quantity("accuracy", "accuracy", format=".2%"),
        _quantity("low", "interval from", format=".2%"),
        _quantity("high", "to", format=".2%"),
    ]
    x = _quantity(
        "mmacs",
        "million MACs",
        scale={"type": "log", "nice": False, "padding": 18},
        axis={"format": "~g", "values": [1, 2, 5, 10, 20, 30, 50, 100, 200, 500]},
    )
    scale = {"zero": False, "nice": True}
    colour = _name("series", "precision, runtime")
    return _chart(
        rows,
        320,
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.55},
                "encoding": {
                    "x": x,
                    "y": _quantity("low", "accuracy", scale=scale, axis={"format": ".0%"}),
                    "y2": {"field": "high"},
                    "color": colour,
                    "xOffset": _name("series"),
                },
            },
            {
                "mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.7},
                "encoding": {"x": x, "y": _quantity("accuracy", "accuracy", scale=scale), "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": _quantity("accuracy", "accuracy", scale=scale),
                    "color": colour,
                    "tooltip": tooltip,
                },
            },
        ],
    )


def pareto_front(rows: Rows) -> Spec:
    """Accuracy over MACs of many networks, those on the front joined.

    Args:
        rows: network, mmacs, accuracy (fraction), front ("on the front" or "beaten").
    """
    x = _quantity("mmacs", "million MACs", scale={"type": "log", "nice": False, "padding": 18}, axis={"format": "~g"})
    y = _quantity("accuracy", "accuracy", scale={"zero": False, "nice": True}, axis={"format": ".0%"})
    tooltip = [_name("network", "network"), _quantity("mmacs", "MMACs", format=".3f"),
               _quantity("accuracy", "accuracy", format=".2%")]
    return _chart(
        rows,
        320,
        layer=[
            {
                "transform": [{"filter": "datum.front == 'on the front'"}],
                "mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.7, "interpolate": "step-after"},
                "encoding": {"x": x, "y": y, "color": _name("front")},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {"x": x, "y": y, "color": _name("front"), "tooltip": tooltip},
            },
        ],
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
            {"mark": {"type": "line", "strokeWidth": 1, "opacity": 0.6}, "encoding": {}},
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {
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
        rows: network, device, metric, share (fraction), value (text), limit (text), verdict ("fits" or "over").
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
                        "verdict", "verdict", scale={"domain": ["fits", "over"], "range": [COLOURS[2], COLOURS[1]]}
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


def training_curves(rows: Rows) -> Spec:
    """Validation accuracy over epochs for each training of the run.

    Args:
        rows: training, epoch, accuracy.
    """
    return _chart(
        rows,
        260,
        mark={"type": "line", "point": {"size": 18}, "strokeWidth": 1.5},
        encoding={
            "x": _quantity("epoch", "epoch", axis={"tickMinStep": 1}),
            "y": _quantity("accuracy", "validation accuracy", scale={"zero": False}, axis={"format": ".0%"}),
            "color": _name("training", "training", sort=None),
            "tooltip": [
                _name("training", "training"),
                _quantity("epoch", "epoch"),
                _quantity("accuracy", "accuracy", format=".2%"),
            ],
        },
    )


def sweep(rows: Rows, parameter: str) -> Spec:
    """Log loss and accuracy over a swept parameter, one above the other, as in the report's Figure 2.

    Args:
        rows: value, measure ("accuracy, %" or "log loss"), figure.
        parameter: what was swept, for the axis.
    """
    return _chart(
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
    )


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
