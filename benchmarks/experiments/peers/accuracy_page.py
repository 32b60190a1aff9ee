# SPDX-License-Identifier: Apache-2.0
"""The section of docs/peers.md on accuracy, from the results file: what is measured, and what is not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from edgepress.benchmarks.experiments.peers.halving import SHARE
from edgepress.benchmarks.experiments.peers.methods import DEFAULT, METHODS, MILESTONES, OURS, PEERS, SCRATCH

COMMAND = (
    "python -m edgepress.benchmarks.experiments.peers.accuracy --cifar ARCHIVE --esc DIR "
    "--output benchmarks/results/peers_accuracy.json"
)
#: What became of an earlier table.
WITHDRAWN = (
    "An earlier table is withdrawn: it ran Torch-Pruning globally with `pruning_ratio=1.0`, without a maximal ratio "
    "and without training between its steps, so that whole layers collapsed, which its authors do not recommend; its "
    "trainings were too short; its intervals left out the seeds."
)
_NOT = "not measured"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown."""
    return [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def accuracy_lines(report: dict[str, Any] | None) -> list[str]:
    """The section; None where there is no results file."""
    lines = ["## Accuracy at equal budget and equal training", "", *_protocol(), ""]
    if report is not None and report["halving"]:
        lines += [_halving(report["kept"]), ""]
    if report is None:
        return [*lines, f"{WITHDRAWN} No lead in accuracy is claimed. Not measured yet: `{COMMAND}`.", ""]
    lines += [*_verdict(report), ""]
    for name, experiment in report["experiments"].items():
        lines += _experiment(name, experiment, [d for d in report["differences"] if d["experiment"] == name])
    tools = report["environment"]["tools"]
    return [
        *lines,
        f"`{report['command']}`, {report['environment']['cpu']}, accelerator {report['accelerator']}, torch "
        f"{tools.get('torch')}, torch-pruning {report['versions']['torch-pruning']}. What is not measured: "
        f"`{COMMAND}`, or `make peers-gpu`.",
        "",
    ]


def _protocol() -> list[str]:
    return [
        f"{len(OURS)} methods of edgepress, {len(PEERS)} ways to run Torch-Pruning (TP), and the narrow network from "
        f"scratch ({len(SCRATCH)} ways). All start from the same dense network of a seed; optimizer steps, "
        "augmentation, schedule and distillation from that network are the same. Each method's learning rate is the "
        "best of three on validation, on two seeds; every training keeps its best epoch on validation. TP is run as "
        "its README and `reproduce/` do: one ratio for all layers (local), globally with at most 90 % of a layer "
        f"removed, isomorphic; l2 or taylor; at once, or in {MILESTONES} milestones with training between them in the "
        'epochs in which ours shape weights; "filled" stops within its step, so that more of the budget is used. The '
        "best of ours and the best of theirs are chosen on validation. Intervals (95 %) are of a paired bootstrap over "
        "seeds and clips, clips of one recording together.",
        "",
        "A row is measured when its search and all its seeds are; differences need all methods of a kind. Every "
        "training is in the results file, those of rows that are not measured too (`tried`: seed, rate, accuracy on "
        "validation and test, MACs).",
    ]


def _halving(kept: Sequence[str]) -> str:
    """How methods were dropped."""
    always = f" {', '.join(kept)}: trained with all seeds in any case, but the best of ours only by this rule."
    return (
        "The list is cut by successive halving on validation (Jamieson and Talwalkar, AISTATS 2016), in each cell anew "
        "and by one rule for ours and theirs: every method once with the middle rate (seed 0); of each kind the best "
        f"1/{SHARE}, rounded up, with all rates (seed 0); of these the best 1/{SHARE} with all rates on the second "
        "seed, and then at the best rate with all seeds. What equals the last of a third goes on, too. The row of "
        "a dropped method shows what it was dropped by, at the best of its rates so far." + (always if kept else "")
    )


def _verdict(report: dict[str, Any]) -> list[str]:
    """What the intervals carry, and no more."""
    cells = [cell for experiment in report["experiments"].values() for cell in experiment["cells"]]
    rows = [row for cell in cells for row in cell["rows"]]
    measured = sum(row["complete"] for row in rows)
    lines = [f"Measured: {measured} of {len(rows)} rows." + _dropped(rows) + _at_the_edge(report)]
    if not report["overall"]:
        return [*lines, f"{WITHDRAWN} No comparison is complete, and no lead in accuracy is claimed."]
    against = {"theirs": "the best of Torch-Pruning", "scratch": "the best from scratch"}
    return [
        *lines,
        "",
        " ".join(_said(o, against[o["against"]], report) for o in report["overall"] if o["ours"] == DEFAULT),
        "",
        *markdown_table(
            ("ours", "against", "cells", "mean difference, points", "interval"),
            [
                (o["ours"], against[o["against"]], str(o["cells"]), _points(o["difference"]), _interval(o["interval"]))
                for o in report["overall"]
            ],
        ),
    ]


def _dropped(rows: Sequence[dict[str, Any]]) -> str:
    dropped = sum("dropped" in row for row in rows)
    return f" Dropped on the way: {dropped}." if dropped else ""


def _at_the_edge(report: dict[str, Any]) -> str:
    """How often a larger rate might have been better still."""
    chosen = [
        (row["rate"], max(experiment["rates"]))
        for experiment in report["experiments"].values()
        for cell in experiment["cells"]
        for row in cell["rows"]
        if row["complete"]
    ]
    edge = sum(rate == most for rate, most in chosen)
    return f" In {edge} of {len(chosen)} of these the best rate is the largest that was tried." if edge else ""


def _said(mean: dict[str, Any], other: str, report: dict[str, Any]) -> str:
    """What one interval lets us say of the default."""
    low, high = mean["interval"]
    own = [d for d in report["differences"] if (d["ours"], d["against"]) == (DEFAULT, mean["against"])]
    behind = sum(d["interval"][1] < 0 for d in own)
    verdict = "is ahead of" if low > 0 else "is behind" if high < 0 else "cannot be told apart from"
    cells = "the one measured cell" if mean["cells"] == 1 else f"the {mean['cells']} measured cells, each one weight,"
    return (
        f"Over {cells} the default, `{DEFAULT}`, {verdict} {other} ({_points(mean['difference'])} points, "
        f"{_interval(mean['interval'])}; significantly behind in {behind})."
    )


def _experiment(name: str, experiment: dict[str, Any], differences: Sequence[dict[str, Any]]) -> list[str]:
    settings, clips, dense = experiment["settings"], experiment["clips"], experiment["dense"]
    accuracies = [row["test_accuracy"] for row in dense]
    lines = [
        f"### {name}",
        "",
        f"{settings['network']} {json.dumps(settings['arguments'])}; "
        + (
            f"{clips['train']:,} training, {clips['validation']:,} validation and {clips['test']:,} test clips"
            + (f" of {experiment['recordings']} recordings" if experiment["recordings"] else "")
            if clips
            else "data not at hand"
        )
        + f"; {settings['dense']['epochs']} epochs dense, {settings['prune']['train']['epochs']} (short) or "
        f"{3 * settings['prune']['train']['epochs']} (long) for every method; {experiment['seeds']} seeds; rates "
        + ", ".join(f"{rate:g}" for rate in experiment["rates"])
        + "."
        + (
            f" Dense: {dense[0]['macs']:,} MACs, {100 * sum(accuracies) / len(accuracies):.2f} % on the test over "
            f"{len(dense)} seeds."
            if dense
            else f" Dense: {_NOT}."
        ),
        "",
    ]
    for cell in experiment["cells"]:
        title = f"{100 * cell['share']:.0f} % of the MACs, {cell['length']}"
        if not any(row["trainings"] for row in cell["rows"]):
            lines += [f"{title}: {_NOT}, {len(METHODS)} rows.", ""]
            continue
        lines += [f"{title}:", "", *_rows(cell, experiment["seeds"]), ""]
        own = [d for d in differences if (d["share"], d["length"]) == (cell["share"], cell["length"])]
        if own:
            lines += [*_differences(own), ""]
    return lines


def _rows(cell: dict[str, Any], seeds: int) -> list[str]:
    def shown(row: dict[str, Any]) -> tuple[str, ...]:
        best = " (best of its kind on validation)" if row["method"] in cell["best"].values() else ""
        if dropped := row.get("dropped"):
            return (
                row["method"],
                f"dropped after rung {dropped['rung']}",
                f"{dropped['rate']:g}",
                f"{100 * dropped['validation_accuracy']:.2f}",
                f"{100 * dropped['test_accuracy']:.2f} (seed {dropped['seeds'][0]})",
                f"{100 * dropped['macs'] / dropped['target_macs']:.1f}",
                "-",
            )
        if not row["seeds"]:
            return (row["method"], f"{_NOT} ({row['trainings']} trainings of its search)", *["-"] * 5)
        accuracy, target = row["test_accuracy"], row["target_macs"]
        return (
            row["method"] + best,
            f"{len(row['seeds'])} of {seeds}" + ("" if row["complete"] else f", the rest {_NOT}"),
            f"{row['rate']:g}",
            f"{100 * row['validation_accuracy']['mean']:.2f}",
            f"{100 * accuracy['mean']:.2f} ({100 * accuracy['min']:.1f} to {100 * accuracy['max']:.1f})",
            f"{100 * row['macs']['mean'] / target:.1f}",
            f"{row['params']['mean']:,.0f}",
        )

    head = ("method", "seeds", "rate", "validation, %", "test, %", "budget used, %", "parameters")
    return markdown_table(head, [shown(row) for row in cell["rows"]])


def _differences(differences: Sequence[dict[str, Any]]) -> list[str]:
    return markdown_table(
        ("ours", "minus", "difference, points", "interval"),
        [
            (
                found["ours"] + (" (best of ours)" if found["best_of_ours"] else ""),
                found["other"],
                _points(found["difference"]),
                _interval(found["interval"]),
            )
            for found in differences
        ],
    )


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def _interval(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
