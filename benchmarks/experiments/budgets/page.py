# SPDX-License-Identifier: Apache-2.0
"""docs/budgets.md from results: budgets.json and, beside it, those of accuracy, instructions and flash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from edgepress.models.limits import METRIC_UNITS
from edgepress.models.units import format_quantity

_HEAD = """# Budgets of devices

Written by `python -m edgepress.benchmarks.experiments.budgets.held` from `budgets.json`, `budgets_accuracy.json`,
`budgets_against_macs.json`, `budgets_real_sets.json`, `instructions.json` and `firmware_flash.json` in
`benchmarks/results`; not edited by hand.

Each network, with random weights, is pruned (projection `threshold`, importance `l2`) to each budget alone and to all
together. A target is a share of the dense network's figure: {shares}. Reached is what pruning holds, over the target.
Measured is what the tools say of the exported int8 file, over what was reached: the file's bytes, TFLite Micro's arena,
the estimate of the latency from the file; of our firmware for the emulated core its linked flash, its arena and the
instructions of an inference. `flash_bytes` is `file_bytes` and a constant of the class. CPU time is of the quickest of
{tries} calls, over that for MACs alone in the same process. A figure that is the same on several classes is measured on
one.

{accuracy}

| network | device class | budget | target | reached / target | measured / reached | CPU time / MACs alone | accuracy |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def page(results: Mapping[str, Mapping[str, Any]], shares: Mapping[str, float], tries: int) -> str:
    """The page.

    Args:
        results: "budgets", "budgets_accuracy", "budgets_against_macs", "budgets_real_sets", "instructions" and
            "firmware_flash", as in benchmarks/results; the second to fourth may have no rows.
        shares: metric -> share of the dense figure that was asked.
        tries: calls of which the quickest counts.
    """
    result = results["budgets"]
    rows = result["rows"]
    accuracies = {_case(row): row["accuracy"] for row in results["budgets_accuracy"]["rows"]}
    shared = ", ".join(f"{metric} {share:.0%}" for metric, share in shares.items())
    head = _HEAD.format(shares=shared, tries=tries, accuracy=_trained(results["budgets_accuracy"], len(rows)))
    lines = [head.rstrip("\n")]
    for row in rows:
        together = (" (of all)" if len(row["budgets"]) > 1 else "") + (" (before)" if row.get("before") else "")
        like, known = row.get("like"), accuracies.get(_case(row))
        for metric in row["budgets"]:
            target, reached, tools = row["targets"][metric], row["reached"][metric], row["measured"].get(metric)
            cells = (
                row["network"],
                row["device"],
                f"{metric}{together}",
                format_quantity(target, METRIC_UNITS[metric]),
                f"{reached / target:.4f}",
                "-" if tools is None else f"{tools / reached:.4f}",
                f"as {like}" if like else "-" if row.get("before") else f"{_slower(row):.2f}",
                f"as {like}" if like else "-" if known is None else _spread(known),
            )
            lines.append(f"| {' | '.join(cells)} |")
    if before := sum(bool(row.get("before")) for row in rows):
        lines += [
            "",
            f"{before} rows marked (before) are of an earlier table of instructions and of single calls, without the",
            "budgets of our firmware's memory; the command makes them again.",
        ]
    lines += ["", *summary(rows), *_below(rows), "", f"`{result['command']}`, {result['environment']['cpu']}.", ""]
    lines += [*against_macs(results["budgets_against_macs"]), *real_sets(results["budgets_real_sets"])]
    lines += [*_instructions(results["instructions"]), ""]
    lines += [*_flash(results["firmware_flash"]), ""]
    return "\n".join(lines)


def _case(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["network"], row.get("device"), tuple(row.get("budgets", ()))


def _spread(accuracies: Sequence[float]) -> str:
    return f"{100 * fmean(accuracies):.1f} ± {100 * stdev(accuracies):.1f} %"


def _trained(result: Mapping[str, Any], rows: int) -> str:
    """What the column of accuracies is, with those of the dense networks."""
    dense = {row["network"]: row["accuracy"] for row in result["rows"] if "device" not in row}
    if not dense:
        return "Accuracy was not measured here."
    said = "; ".join(f"{name} {_spread(found)}" for name, found in dense.items())
    pruned = sum("device" in row for row in result["rows"])
    return (
        "Accuracy is of the same networks trained on scikit-learn's digits, enlarged to their inputs (898 images of\n"
        "training, 899 of the test), pruned to the same targets with importance `fisher` and trained on for a quarter\n"
        f"of the epochs: mean and sample deviation of {len(next(iter(dense.values())))} seeds, in float32.\n"
        f"Dense: {said}.\nMeasured for {pruned} calls; - is not measured. `{result['command']}`"
    )


def is_maximal(row: Mapping[str, Any]) -> bool:
    """Whether the call said, and so had proven, that no group of the network can have its next width."""
    return any("and maximal" in note or "as wide as it may be" in note for note in row["notes"])


def is_bound_by_class(row: Mapping[str, Any]) -> bool:
    """Whether another limit of the device class, which was not asked for, is what binds."""
    return any(" binds, " in note for note in row["notes"])


def _tightest(row: Mapping[str, Any]) -> float:
    return max(row["reached"][metric] / row["targets"][metric] for metric in row["budgets"])


def _below(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the calls said whose tightest budget is below 99 %."""
    short = [row for row in rows if _tightest(row) < 0.99]
    if not short:
        return []
    lines = ["", "## Below 99 %", "", "| network | device class | budgets | tightest | what the call said |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in short:
        said = "; ".join(note for note in row["notes"] if "of its limit" in note or " binds, " in note) or "-"
        cells = (row["network"], row["device"], ", ".join(row["budgets"]), f"{_tightest(row):.4f}", said)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What holds over all rows, a list of Markdown."""
    over = [row for row in rows if any(row["reached"][m] > row["targets"][m] for m in row["budgets"])]
    short = [row for row in rows if _tightest(row) < 0.99]
    maximal, bound = sum(map(is_maximal, short)), sum(map(is_bound_by_class, short))
    said = [
        f"- {len(rows)} calls: {len(over)} above a target, {len(short)} with their tightest budget below 99 %, "
        f"{maximal} of these maximal, {bound} bound by another limit of the class."
    ]
    timed = [(_slower(row), _named(row)) for row in rows if not {"like", "before"} & set(row)]
    slowest = max(timed, default=(0.0, ""))
    said.append(f"- The slowest of {len(timed)} calls takes {slowest[0]:.2f} times that for MACs alone: {slowest[1]}.")
    metrics = dict.fromkeys(metric for row in rows for metric in row["measured"])
    for metric in metrics:
        ratios = [row["measured"][metric] / row["reached"][metric] for row in rows if metric in row["measured"]]
        said.append(
            f"- {metric}: measured over reached between {min(ratios):.4f} and {max(ratios):.4f} in {len(ratios)} files."
        )
    return said


def _slower(row: Mapping[str, Any]) -> float:
    return row["cpu_seconds"] / row["cpu_seconds_macs"]


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['network']}, {row['device']}, {' and '.join(row['budgets'])}"


def against_macs(result: Mapping[str, Any]) -> list[str]:
    """What it brings to ask for instructions in place of MACs, at as many instructions."""
    if not result["pairs"]:
        return []
    return [
        "## Pruned by instructions against pruned by MACs",
        "",
        "Networks trained on the digits are pruned to a share of their MACs, and again to the instructions on",
        f"{result['device']} that this left (importance `fisher`), and trained on for {result['epochs']} epochs.",
        "Accuracy: mean and sample deviation of the seeds. Gain: of the budget of instructions, in points, mean",
        "of the paired differences and their 95 % interval (Student's t). The last column: MACs by instructions over",
        "those by MACs.",
        "",
        *_pairs(result),
    ]


def real_sets(result: Mapping[str, Any]) -> list[str]:
    """The same on pictures and recordings."""
    if not result["pairs"]:
        return []
    lengths = "; ".join(
        f"{name}: recipe `{case['recipe']}`, {case['epochs']} epochs, {case['fine_tuning']} of each pruned network"
        for name, case in result["cases"].items()
    )
    return [
        "### On pictures and recordings",
        "",
        "The same with shipped recipes, shortened, all else as they stand. The epoch is chosen on validation, accuracy",
        f"is of the test split in float32. {lengths}.",
        "",
        *_pairs(result),
    ]


def _pairs(result: Mapping[str, Any]) -> list[str]:
    pairs = result["pairs"]
    lines = [
        "| network | share of MACs | seeds | instructions, M | by MACs | by instructions | gain | MACs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, share in dict.fromkeys((pair["network"], pair["share"]) for pair in pairs):
        own = [pair for pair in pairs if (pair["network"], pair["share"]) == (name, share)]
        by = {way: [pair[way]["accuracy"] for pair in own] for way in ("macs", "instructions")}
        counts = fmean(pair["instructions"]["instructions"] for pair in own) / 1e6
        cells = (
            name,
            f"{share:.0%}",
            str(len(own)),
            f"{counts:.2f}",
            _spread(by["macs"]),
            _spread(by["instructions"]),
            _gain(own),
            f"{_ratio_of_macs(own):.3f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    said = (
        f"Over all {len(pairs)} pairs: {100 * (_ratio_of_macs(pairs) - 1):.1f} % more MACs at the same instructions, "
        f"gain {_gain(pairs)} points."
    )
    return [*lines, "", said, "", f"`{result['command']}`", ""]


def _ratio_of_macs(pairs: Sequence[Mapping[str, Any]]) -> float:
    return fmean(pair["instructions"]["macs"] / pair["macs"]["macs"] for pair in pairs)


def _gain(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Mean of the paired differences of accuracy in points, and its 95 % interval by Student's t."""
    from scipy.stats import t

    values = [100 * (pair["instructions"]["accuracy"] - pair["macs"]["accuracy"]) for pair in pairs]
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):+.1f} [{fmean(values) - half:+.1f}, {fmean(values) + half:+.1f}]"


def _instructions(counts: Mapping[str, Any]) -> list[str]:
    """How well the table of instructions predicts networks that were not fitted."""
    lines = [
        "## Instructions of our firmware",
        "",
        f"Costs of every kernel's loops, tiles and copies were fitted to layers of {counts['fitted']} random networks,",
        "counted on emulated cores. On pruned networks of the zoo that were not fitted:",
        "",
        "| core | networks | mean error | largest error |",
        "| --- | --- | --- | --- |",
    ]
    lines += _errors(counts["networks"], "predicted", "counted")
    return [
        *lines,
        "",
        "cortex-m7 and cortex-m33 run the kernels of cortex-m4: its table holds for them, as these counts say.",
        "The classes esp32-c3 and risc-v have the table of riscv32 (rv32imc), cortex-m85 that of cortex-m55.",
        "",
        f"`{counts['command']}`",
    ]


def _flash(links: Mapping[str, Any]) -> list[str]:
    """How well the budget of our firmware's flash agrees with linked programs."""
    return [
        "## Flash of our firmware",
        "",
        f"What code takes was fitted to {links['linked']} small programs for each core.",
        "Pruned networks of the zoo, linked:",
        "",
        "| core | networks | mean error | largest error |",
        "| --- | --- | --- | --- |",
        *_errors(links["networks"], "figure", "linked"),
        "",
        f"`{links['command']}`",
    ]


def _errors(rows: Sequence[Mapping[str, Any]], predicted: str, measured: str) -> list[str]:
    lines = []
    for core in dict.fromkeys(row["core"] for row in rows):
        errors = [abs(row[predicted] / row[measured] - 1) for row in rows if row["core"] == core]
        lines.append(f"| {core} | {len(errors)} | {fmean(errors):.2%} | {max(errors):.2%} |")
    return lines
