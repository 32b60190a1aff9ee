# SPDX-License-Identifier: Apache-2.0
"""docs/peers.md from the results files: `python -m edgepress.benchmarks.experiments.peers.pages` writes it anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.benchmarks.experiments.peers.accuracy_page import accuracy_lines, markdown_table
from edgepress.models.command_line import run_command

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "peers.md"
ACCURACY = ROOT / "benchmarks" / "results" / "peers_accuracy.json"
SEARCH = ROOT / "benchmarks" / "results" / "peers_search.json"

app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(output: Annotated[Path, typer.Option(help="The page.")] = PAGE) -> None:
    """Write the page from the results files that exist."""
    from edgepress.models.atomic import write_text

    print(write_text(output, page()))


def page(accuracy: Path = ACCURACY, search: Path = SEARCH) -> str:
    """The page as Markdown; a results file that is missing is named with the command that writes it."""
    lines = [
        "# Pruning beside other tools",
        "",
        "Written by `python -m edgepress.benchmarks.experiments.peers.pages` from "
        "`benchmarks/results/peers_accuracy.json` and "
        "`benchmarks/results/peers_search.json`; not edited by hand.",
        "",
    ]
    lines += accuracy_lines(json.loads(accuracy.read_text()) if accuracy.exists() else None)
    parts = json.loads(search.read_text())["parts"] if search.exists() else {}
    for name, write in (("closeness", _closeness), ("retained", _retained), ("calls", _calls), ("growth", _growth)):
        title = {
            "closeness": "Closeness to the target",
            "retained": "Retained importance",
            "calls": "Time and memory of one call",
            "growth": "Growth of the search",
        }[name]
        lines += [f"## {title}", ""]
        if name in parts:
            part = parts[name]
            results = _with_fastnas(part["results"], parts.get("fastnas")) if name == "closeness" else part["results"]
            lines += [*write(results), "", _source(part["command"], part["environment"], part.get("torch-pruning")), ""]
            if name == "closeness":
                lines += [_fastnas(parts.get("fastnas")), ""]
        else:
            lines += [
                f"Not measured yet: `python -m edgepress.benchmarks.experiments.peers.search --parts {name} --output "
                "benchmarks/results/peers_search.json`.",
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _source(command: str, environment: dict[str, Any], torch_pruning: str | None) -> str:
    tools = environment["tools"]
    return f"`{command}`, {environment['cpu']}, torch {tools.get('torch')}, torch-pruning {torch_pruning}."


def _closeness(results: Sequence[dict[str, Any]]) -> list[str]:
    def peer(value: Any) -> str:
        return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else value

    return [
        "MACs over target. Ours by the rule `dcase`, the others by their own counts of their own dense networks. "
        "With the parameter budget, the nearer of the two is at its limit.",
        "",
        *markdown_table(
            (
                "network",
                "target",
                "ours",
                "ours with parameters: MACs",
                "parameters",
                "Torch-Pruning",
                *(("FastNAS",) if "fastnas" in results[0]["rows"][0] else ()),
            ),
            [
                (
                    found["network"],
                    f"{100 * row['share']:.0f} %",
                    f"{row['macs']['macs']:.4f}",
                    f"{row['macs_and_params']['macs']:.4f}",
                    f"{row['macs_and_params']['params']:.4f}",
                    peer(row.get("torch_pruning")),
                    *((peer(row["fastnas"]),) if "fastnas" in row else ()),
                )
                for found in results
                for row in found["rows"]
            ],
        ),
    ]


def _with_fastnas(results: Sequence[dict[str, Any]], part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The rows of closeness, with FastNAS' beside them where that part was measured."""
    if part is None:
        return list(results)
    ratios = {(found["network"], row["share"]): row["fastnas"] for found in part["results"] for row in found["rows"]}
    return [
        {**found, "rows": [{**row, "fastnas": ratios.get((found["network"], row["share"]))} for row in found["rows"]]}
        for found in results
    ]


def _fastnas(part: dict[str, Any] | None) -> str:
    """How FastNAS was measured, or how it would be."""
    from edgepress.benchmarks.experiments.peers.fastnas import INSTALL

    command = (
        "python -m edgepress.benchmarks.experiments.peers.search --parts fastnas "
        "--output benchmarks/results/peers_search.json"
    )
    if part is None:
        return f"FastNAS is not measured yet: `{INSTALL}`, then `{command}`."
    left_out = "".join(f" Not measured: {name} ({reason})." for name, reason in part["left_out"].items())
    divisors = ", ".join(f"{found['network']} {found['channel_divisor']}" for found in part["results"])
    return (
        f"FastNAS: `{part['command']}`, nvidia-modelopt {part['nvidia-modelopt']} with torchprofile "
        f"{part['torchprofile']} (`{INSTALL}`), its twenty ratios of widths, multiples of the smallest number "
        f"of channels with which it works ({divisors}); above 1 where it returns a network over its limit."
        f"{left_out}"
    )


def _retained(results: Sequence[dict[str, Any]]) -> list[str]:
    worse = [row for row in results if row["knapsack"] < row["threshold"]]
    gains = sorted(row["knapsack"] - row["threshold"] for row in results)
    return [
        f"Share of all importance that is kept at the same budgets, {len(results)} cases: `knapsack` keeps at "
        f"least as much as `threshold` on {len(results) - len(worse)}; the gain is {100 * gains[0]:.2f} to "
        f"{100 * gains[-1]:.2f} points, {100 * gains[len(gains) // 2]:.2f} in the middle. Shares of MACs alone, "
        "importance divided by its layer's mean:",
        "",
        *markdown_table(
            ("network", "target", "knapsack", "threshold"),
            [
                (row["network"], f"{100 * row['share']:.0f} %", f"{row['knapsack']:.4f}", f"{row['threshold']:.4f}")
                for row in results
                if row["budgets"] == ["macs"] and row["normalize"] == "mean"
            ],
        ),
    ]


def _calls(results: Sequence[dict[str, Any]]) -> list[str]:
    return [
        "To half of the MACs, one thread. Ours: trace, groups, importance, projection and removal; with the proof "
        "and the independent recount in brackets. Memory: what the call adds to the process's peak.",
        "",
        *markdown_table(
            ("network", "tool", "CPU seconds", "memory, MB", "MACs / target"),
            [
                (
                    row["network"],
                    row["tool"],
                    f"{row['seconds']:.2f}"
                    + (f" ({row['steps']['whole_call_with_proof_and_recount']:.2f})" if "steps" in row else ""),
                    f"{row['memory_bytes'] / 1e6:.0f}"
                    + (f" ({row['memory_with_proof_bytes'] / 1e6:.0f})" if "steps" in row else ""),
                    f"{row['ratio']:.4f}",
                )
                for row in results
            ],
        ),
    ]


def _growth(results: Sequence[dict[str, Any]]) -> list[str]:
    return [
        "Residual networks of 16 channels to half of the MACs, CPU seconds of one thread.",
        "",
        *markdown_table(
            (
                "layers",
                "groups",
                "torch.export",
                "groups found",
                "importance",
                "projection",
                "search in all",
                "a layer, ms",
            ),
            [
                (
                    str(row["layers"]),
                    str(row["groups"]),
                    f"{row['trace_seconds']:.2f}",
                    f"{row['groups_seconds']:.2f}",
                    f"{row['importance_seconds']:.2f}",
                    f"{row['projection_seconds']:.2f}",
                    f"{row['search_seconds']:.2f}",
                    f"{1000 * row['search_seconds'] / row['layers']:.1f}",
                )
                for row in results
            ],
        ),
    ]


if __name__ == "__main__":
    run_command(app)
