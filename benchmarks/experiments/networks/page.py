# SPDX-License-Identifier: Apache-2.0
"""docs/networks.md, made from the results of the experiment.

`python -m edgepress.benchmarks.experiments.networks.page` writes it anew from benchmarks/results/networks.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.experiments.networks.catalogue import GROUPS
from edgepress.benchmarks.experiments.networks.summary import goals, part, short
from edgepress.models.atomic import write_text
from edgepress.models.files.reading import read_json

RESULTS = Path(__file__).parents[2] / "results" / "networks.json"
PAGE = Path(__file__).parents[3] / "docs" / "networks.md"
_TEXT = """# Networks from outside

Every network of a list goes through pruning, quantization and export with default settings, and beside it through
litert-torch + ai-edge-quantizer (static, int8), onnxruntime's `quantize_static` (per channel) and Torch-Pruning. This
page is made from `benchmarks/results/networks.json` by `python -m edgepress.benchmarks.experiments.networks.page`; a
test holds the two together.

## How it is measured
- Weights are random (seed 0), nothing is fetched. Scales and biases of norms are spread, statistics come from three
  batches in training mode: no branch is dead, and values have the sizes of trained networks. Accuracy is not measured
  here, but in [integers.md](integers.md).
- Inputs are smooth noise; 32 samples calibrate every tool alike, 16 others are compared.
- **Ratio**: MACs after pruning by those before, rule `dcase`. **Frozen**: share of the parameters in no channel that
  could go. Torch-Pruning removes one ratio of every layer in 60 steps until its own count is below the target; its
  ratios are given by our count, and it proves nothing.
- **SNR**: power of the float outputs by that of the differences, on LiteRT (XNNPACK) and ONNX Runtime; each output of a
  network counts alike. **LSB**: largest difference of a runtime from fake quantization in steps of the output; `~`
  where it is above the usual limits, and below what quantization itself does, or the file is as near to the float
  network as fake quantization within 1 dB (a network that amplifies roundings).
- **Float operators** compute in float; moving values is not counted. In ONNX they are counted in the graph that ONNX
  Runtime makes of the file, since only there pairs of QuantizeLinear and DequantizeLinear become integer kernels.
- Plain ONNX files have int8 weights, whose sums saturate in ONNX Runtime on x86 without VNNI; their rows are of a
  processor with it.
- CPU seconds of one thread on a busy machine; a part that takes 120 of them, or 12 GB, is stopped.
- Networks are measured one after the other, over commits: a row keeps what it was measured with until it is measured
  again (`--retry all`).

## Against the goals
"""


def page(found: dict[str, Any]) -> str:
    """The page, as Markdown."""
    networks = found["networks"]
    run = [network for network in networks if network["parts"]]
    parts = max((len(network["parts"]) for network in networks), default=0)
    partly = [network["name"] for network in run if len(network["parts"]) < parts]
    missing = [network["name"] for network in networks if not network["parts"]]
    libraries = ", ".join(f"{name} {version}" for name, version in found["libraries"].items() if version)
    tools = found["environment"]["tools"]
    named = ", ".join(
        f"{name} {tools[name]}"
        for name in ("torch", "litert-torch", "ai-edge-quantizer", "onnxruntime")
        if name in tools
    )
    lines = [
        f"`{found['command']}`, {found['date'][:10]}, {found['environment']['cpu']}; {named}; {libraries}.",
        "",
        f"{len(run)} of {len(networks)} networks were run."
        + (f" Not run: {', '.join(missing)}." if missing else "")
        + (f" Not to the end: {', '.join(partly)}." if partly else ""),
        "",
        *_table(
            ("goal", "holds", "missed by"),
            ((goal.text, f"{goal.held} of {goal.of}", _named(goal.missed)) for goal in goals(networks)),
        ),
    ]
    for group in GROUPS:
        own = [network for network in run if network["group"] == group]
        if own:
            lines += ["", f"## {group.capitalize()}", "", *_pruning(own), "", *_files(own)]
    refused = [(n["name"], name, row["error"]) for n in run for name, row in n["parts"].items() if "error" in row]
    lines += ["", "## What was refused, and why", ""]
    lines += _table(("network", "part", "said"), ((name, what, _reason(what, said)) for name, what, said in refused))
    return _TEXT + "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def _named(missed: Sequence[str]) -> str:
    return "; ".join(missed[:12]) + (f"; and {len(missed) - 12} more" if len(missed) > 12 else "")


def _pruning(networks: Sequence[dict[str, Any]]) -> list[str]:
    return _table(
        ("network", "MACs", "ratio at 50 / 25 %", "proof", "CPU s", "frozen", "Torch-Pruning", "CPU s"),
        (_pruned(network) for network in networks),
    )


def _pruned(network: dict[str, Any]) -> list[str]:
    row, theirs = part(network, "prune"), part(network, "torch-pruning")
    cells = [network["name"]]
    if row is None:
        cells += ["", _why(network, "prune"), "", "", ""]
    else:
        targets = row["targets"]
        cells += [
            f"{row['macs']:,}",
            " / ".join(f"{target['ratio']:.4f}" for target in targets),
            f"{max(target['proof'] for target in targets):.0e}",
            " / ".join(f"{target['cpu_s']:.1f}" for target in targets),
            f"{100 * row['frozen_share']:.0f} %",
        ]
    if theirs is None:
        return [*cells, _why(network, "torch-pruning"), ""]
    return [
        *cells,
        " / ".join(f"{t['ratio']:.4f}" + ("" if t["same_outputs"] else " (other outputs)") for t in theirs["targets"]),
        f"{theirs['targets'][-1]['cpu_s']:.1f}",
    ]


def _files(networks: Sequence[dict[str, Any]]) -> list[str]:
    head = ("network", "file", "bytes, ours / plain", "float operators", "SNR dB", "LSB", "C", "CPU s")
    return _table(head, (row for network in networks for row in (_file(network, "tflite"), _file(network, "onnx"))))


def _file(network: dict[str, Any], form: str) -> list[str]:
    ours, theirs = part(network, form), part(network, f"plain-{form}")
    spent = [network["parts"].get(name, {}).get("cpu_s") for name in ("quantize", form)]
    cells = [network["name"] if form == "tflite" else "", form]
    if ours is None and theirs is None:
        return [*cells, f"{_why(network, form)} / {_why(network, f'plain-{form}')}", *[""] * 5]
    pairs = (ours, _why(network, form)), (theirs, _why(network, f"plain-{form}"))
    cells.append(" / ".join(f"{row['file_bytes']:,}" if row else why for row, why in pairs))
    cells.append(" / ".join(str(sum(row["float_operators"].values())) if row else "-" for row, _ in pairs))
    cells.append(" / ".join(_decibels(row) if row else "-" for row, _ in pairs))
    cells.append(_steps(ours["runtimes"]) if ours else "")
    made = network["parts"].get("firmware")
    lowered = "" if form == "onnx" or made is None else "yes" if "error" not in made else _operators(made["error"])
    return [*cells, lowered, " + ".join("" if s is None else f"{s:.1f}" for s in spent)]


def _decibels(row: dict[str, Any]) -> str:
    return "exact" if row["snr_db"] is None else f"{row['snr_db']:.1f}"


def _steps(runtimes: dict[str, Any]) -> str:
    said = []
    for name, figures in sorted(runtimes.items()):
        short_name = {"litert-reference": "reference", "onnxruntime": "ort"}.get(name, name)
        if figures.get("skipped"):
            said.append(f"{short_name} refuses")
        elif figures.get("max_lsb") is not None:
            said.append(f"{short_name} {'~' if figures.get('amplified') else ''}{figures['max_lsb']:g}")
        else:
            said.append(f"{short_name} runs")
    return ", ".join(said)


def _why(network: dict[str, Any], name: str) -> str:
    row = network["parts"].get(name)
    if row is None:
        return "not run"
    return {"refused": "refused", "fault": "fails"}.get(row.get("kind", ""), str(row.get("error", "")))


def _operators(text: str) -> str:
    """The kinds of operators in a refusal of C."""
    return ", ".join(dict.fromkeys(re.findall(r"operator \d+ \(([^)]+)\)", text))) or "refused"


def _reason(what: str, said: str) -> str:
    return f"has no C for {_operators(said)}" if what == "firmware" and "operator" in said else short(said, 300)


if __name__ == "__main__":
    write_text(PAGE, page(read_json(RESULTS)))
