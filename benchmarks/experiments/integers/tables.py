# SPDX-License-Identifier: Apache-2.0
"""The tables of both measurements of integers as Markdown, and how a command shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgepress.models.errors import EdgepressError
from edgepress.models.terminal.words import say


def accuracy_tables(result: dict[str, Any]) -> str:
    """Accuracy and parity of every network, precision and runtime as Markdown."""
    lines: list[str] = []
    for network in result["networks"]:
        seeds = ", ".join(map(str, network["seeds"]))
        lines += [
            f"### {network['network']} on {network['task']}",
            "",
            f"{network['macs']:,} MACs ({network['rule']}), {network['params']:,} parameters, "
            f"{network['clips']:,} test clips, seeds {seeds}.",
            "",
            "| precision | runtime | accuracy | by seed | points from fp32 | 95 % | LSB max | mean | labels |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in network["rows"]:
            low, high = row["interval_points"]
            departure = (
                f"{row['max_lsb']:g} | {row['mean_lsb']:.3f} | {100 * row['label_agreement']:.2f} %"
                if "max_lsb" in row
                else " | | "
            )
            each = ", ".join(f"{100 * value:.2f}" for value in row["accuracies"])
            lines.append(
                f"| {row['precision']} | {row['runtime']} | {100 * row['accuracy']:.2f} % | {each} | "
                f"{row['points']:+.2f} | {low:+.2f} to {high:+.2f} | {departure} |"
            )
        lines.append("")
    return "\n".join(lines)


def peer_tables(result: dict[str, Any]) -> str:
    """Our files beside those of others as Markdown."""
    lines = [
        "| network | file | file B, ours / theirs | arena B | fp32 | accuracy | points (95 %) | ms | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for network in result["networks"]:
        for form, pair in network["formats"].items():
            ours, theirs, latency = pair["ours"], pair["theirs"], pair["latency"]
            sizes, arena = (
                " / ".join("-" if side[figure] is None else f"{side[figure]:,}" for side in (ours, theirs))
                for figure in ("file_bytes", "arena_bytes")
            )
            low, high = pair["interval_points"]
            lines.append(
                f"| {network['network']} | {form} | {sizes} | {arena if form.startswith('tflite') else ''} | "
                f"{100 * network['fp32_accuracy']:.2f} % | "
                f"{100 * ours['accuracy']:.2f} / {100 * theirs['accuracy']:.2f} % | "
                f"{pair['points']:+.2f} ({low:+.2f} to {high:+.2f}) | {latency['a_ms']:.2f} / {latency['b_ms']:.2f} | "
                f"{latency['ratio']:.3f} ({latency['interval'][0]:.3f} to {latency['interval'][1]:.3f}) |"
            )
    for name, reason in result.get("not_run", {}).items():
        lines += ["", f"Not run: {name} ({reason})."]
    return "\n".join(lines) + "\n"


def reported(
    make: Callable[[], dict[str, Any]],
    tables: Callable[[dict[str, Any]], str],
    missed: Callable[[dict[str, Any]], list[str]],
) -> int:
    """Measure, print the tables, name what misses its mark; the exit code of the command."""
    try:
        result = make()
    except EdgepressError as error:
        say(f"error: {error}")
        return error.exit_code
    print(tables(result))
    lines = missed(result)
    for line in lines:
        say(f"missed: {line}")
    return 1 if lines else 0
