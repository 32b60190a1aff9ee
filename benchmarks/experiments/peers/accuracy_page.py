# SPDX-License-Identifier: Apache-2.0
"""The section of docs/peers.md on accuracy, from the results file: what is measured, and what is not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from edgepress.benchmarks.experiments.peers.methods import METHODS, MILESTONES, OURS, PEERS, SCRATCH

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
        "A row is measured when its search and all its seeds are; differences need all methods of a kind.",
    ]


def _verdict(report: dict[str, Any]) -> list[str]:
    """What the intervals carry, and no more."""
    cells = [cell for experiment in report["experiments"].values() for cell in experiment["cells"]]
    rows = [row for cell in cells for row in cell["rows"]]
    measured = sum(row["complete"] for row in rows)
    lines = [f"Measured: {measured} of {len(rows)} rows."]
    if not report["overall"]:
        return [*lines, f"{WITHDRAWN} No comparison is complete, and no lead in accuracy is claimed."]
    against = {"theirs": "the best of Torch-Pruning", "scratch": "the best from scratch"}
    return [
        *lines,
        "",
        *markdown_table(
            ("ours", "against", "cells", "mean difference, points", "interval"),
            [
                (o["ours"], against[o["against"]], str(o["cells"]), _points(o["difference"]), _interval(o["interval"]))
                for o in report["overall"]
            ],
        ),
    ]


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
