# SPDX-License-Identifier: Apache-2.0
"""The page docs/firmware.md from a result of `edgepress.benchmarks.experiments.firmware`."""

from __future__ import annotations

from typing import Any

from edgepress.benchmarks.experiments.firmware_marks import CMSIS_NN, violations


def page(result: dict[str, Any]) -> str:
    """docs/firmware.md: the words of the template, and the tables."""
    from importlib.resources import files

    words = (files("edgepress.benchmarks.experiments") / "templates" / "firmware.md").read_text(encoding="utf-8")
    return words.replace("$tables", tables(result))


def tables(result: dict[str, Any]) -> str:
    """The measured part of the page."""
    lines = [
        "| network | MACs | weights B | arena B (plain / tiled / DSP / MVE) | TFLM's (head, all) | host: equal |",
        "|---|---|---|---|---|---|",
    ]
    for one in result["networks"]:
        host = ", ".join(f"{row['kernels']} {row['equal']}/{row['inputs']}" for row in one["host"])
        arena = one["tflm_arena_bytes"]
        arenas = " / ".join(f"{size:,}" for size in one["arena_bytes"].values())
        lines.append(
            f"| {one['name']} | {one['macs']:,} | {one['weight_bytes']:,} | {arenas} | "
            f"{arena['head']:,} / {arena['total']:,} | {host} |"
        )
    lines += [
        "",
        "| network | core | kernels | flash B | beside weights | RAM B | stack B | instructions | per MAC | equal |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in result["networks"]:
        for row in one["cores"]:
            start = f"| {one['name']} | {row['core']} | {row['kernels']} | "
            if not row["fits"]:
                lines.append(f"{start}{row['verdict'].replace('|', '/')} | | | | | | |")
                continue
            lines.append(
                f"{start}{row['flash_bytes']:,} | {row['flash_bytes'] - one['weight_bytes']:,} | "
                f"{row['ram_bytes']:,} | "
                f"{row['stack_bytes']} | {row['instructions']:,} | {row['per_mac']:.2f} | "
                f"{row['equal']}/{row['inputs']} |"
            )
    lines += ["", *_crude(result), "", *_sentences(result)]
    if quick := result.get("quick"):
        lines += [
            "",
            f"From {quick['file']} to the figures of the emulated Cortex-M4: {quick['seconds']:.1f} s "
            "(on a machine that was busy with other work).",
        ]
    lines += [""] + [f"Missed: {line}." for line in violations(result)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _crude(result: dict[str, Any]) -> list[str]:
    """Beside CMSIS-NN on the Cortex-M4."""
    lines = [
        "Crude cycles (`python -m edgepress.benchmarks.measure.crude_cycles FILES`) are a model, never compared with "
        "silicon: Arm's timings of the Cortex-M4 over the executed instructions. CMSIS-NN (July 2026) was measured "
        "once, with the same compiler and counting, layer by layer and without an interpreter. Command and versions of "
        "the crude cycles stand by themselves in the results file.",
        "",
        "| network, Cortex-M4 | crude cycles per MAC | CMSIS-NN's | instructions per MAC | CMSIS-NN's | flash B "
        "| CMSIS-NN's |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in result["networks"]:
        rows = [r for r in one["cores"] if (r["core"], r["kernels"]) == ("cortex-m4", "dsp") and r["fits"]]
        if "crude_cycles" not in one or not rows:
            continue
        other = {what: figures.get(one["name"]) for what, figures in CMSIS_NN.items()}
        shown = [f"{figure:,}" if figure is not None else "" for figure in other.values()]
        lines.append(
            f"| {one['name']} | {one['crude_cycles']['per_mac']:.2f} | {shown[0]} | {rows[0]['per_mac']:.2f} "
            f"| {shown[1]} | {rows[0]['flash_bytes']:,} | {shown[2]} |"
        )
    return lines


def _sentences(result: dict[str, Any]) -> list[str]:
    """What the tables do not say at a glance."""
    found = []
    if known := result.get("labelled"):
        found.append(
            f"All of {known['data']} through {known['file']} in C on the host: {known['correct']} of "
            f"{known['samples']} right, {known['equal']} equal to TFLite Micro in every bit."
        )
    rows = [(one, row) for one in result["networks"] for row in one["cores"] if row["fits"]]
    spread = max((row["largest_instructions"] / row["smallest_instructions"] - 1 for _, row in rows), default=0.0)
    found.append(f"Instructions depend on the input by clamping: by {spread:.2%} at most, where they were counted.")
    for one, row in rows:
        if one["name"].startswith("cp_resnet_20M") and (row["core"], row["kernels"]) == ("cortex-m4", "dsp"):
            found.append(
                f"{one['name']} on a part with {row['ram_limit_bytes']:,} bytes of RAM and "
                f"{row['flash_limit_bytes']:,} of flash: RAM and stack take "
                f"{(row['ram_bytes'] + row['stack_bytes']) / row['ram_limit_bytes']:.0%}, flash "
                f"{row['flash_bytes'] / row['flash_limit_bytes']:.0%}."
            )
    return found
