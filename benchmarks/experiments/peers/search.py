# SPDX-License-Identifier: Apache-2.0
"""The search of edgepress beside Torch-Pruning's: how near to the target, how long, how much memory, how it grows.

    python -m edgepress.benchmarks.experiments.peers.search --output benchmarks/results/peers_search.json

Times are CPU seconds of one thread, which other work on the machine hardly moves. Every measurement of time and memory
has a process of its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.models.children import end_spawned_process_with_parent
from edgepress.models.command_line import run_command
from edgepress.models.errors import EdgepressError, UsageError

SCHEMA = 1
SHARES = (0.70, 0.50, 0.25, 0.12)
LAYERS = (10, 25, 50, 100, 250, 500)
PARTS = ("closeness", "retained", "calls", "growth")
ON_REQUEST = ("fastnas",)  # closeness of a tool that our requirements do not install
LARGE = ("resnet50-like", "mobilenetv2-like")

app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    parts: Annotated[str, typer.Option(help=f"Of {', '.join(PARTS + ON_REQUEST)}.")] = ",".join(PARTS),
    networks: Annotated[str, typer.Option(help="Default: all seven, and the five small ones of fastnas.")] = "",
    layers: Annotated[str, typer.Option(help="Depths of growth.")] = ",".join(map(str, LAYERS)),
    peers: Annotated[bool, typer.Option(help="Run Torch-Pruning too.")] = True,
    output: Annotated[Path | None, typer.Option(help="The results file; parts that are not run stay.")] = None,
) -> None:
    """Measure the search; every part on its own with --parts."""
    wanted = parts.split(",")
    if unknown := [part for part in wanted if part not in PARTS + ON_REQUEST]:
        raise UsageError(f"--parts = {unknown[0]!r} is unknown: known are {', '.join(PARTS + ON_REQUEST)}")
    from edgepress.benchmarks.experiments.peers.networks import benchmark_networks

    names = networks.split(",") if networks else list(benchmark_networks())
    if unknown := [name for name in names if name not in benchmark_networks()]:
        raise UsageError(f"--networks = {unknown[0]!r} is unknown: known are {', '.join(benchmark_networks())}")
    measurements: dict[str, list[tuple[Any, ...]]] = {
        "closeness": [(closeness, name, peers) for name in names],
        "retained": [(retained, name) for name in names],
        "calls": [
            (call, name, tool)
            for name in LARGE
            if name in names
            for tool in (("edgepress", "torch-pruning") if peers else ("edgepress",))
        ],
        "growth": [(growth, int(count)) for count in layers.split(",")],
        "fastnas": [(fastnas_closeness, name) for name in names if networks or name not in LARGE],
    }
    for part in wanted:
        rows: list[dict[str, Any]] = []
        for measurement in measurements[part]:
            rows += counted(*measurement) if part == "fastnas" else alone(*measurement)
            if output is not None:  # after each, so that a long run leaves what it has
                _write(output, part, rows)
        if output is None:
            print(json.dumps({part: rows}, indent=1))


def _write(output: Path, part: str, found: Any) -> None:
    from edgepress.benchmarks.experiments.peers.accuracy import package_version
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.compress.pipeline.provenance import command
    from edgepress.models.atomic import write_json

    report = json.loads(output.read_text()) if output.exists() else {"schema": SCHEMA, "parts": {}}
    if part == "fastnas":  # takes long: networks that are not asked for now stay
        measured = {row["network"] for row in found}
        found = [
            row for row in report["parts"].get(part, {}).get("results", ()) if row["network"] not in measured
        ] + found
    report["parts"][part] = {
        "command": command(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
        "torch-pruning": package_version("torch-pruning"),
        "results": found,
    }
    if part == "fastnas":
        report["parts"][part] |= {
            "nvidia-modelopt": package_version("nvidia-modelopt"),
            "torchprofile": package_version("torchprofile"),
            "left_out": _left_out(found),
        }
    write_json(output, report)


def _left_out(found: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Why networks have no result with FastNAS."""
    from edgepress.benchmarks.experiments.peers.networks import benchmark_networks

    done = {row["network"] for row in found}
    return {
        name: "not tried: hundreds of runs of a large network" if name in LARGE else "not measured yet"
        for name in benchmark_networks()
        if name not in done
    }


def counted(measurement: Callable[..., list[dict[str, Any]]], *arguments: Any) -> list[dict[str, Any]]:
    """Its rows, measured in this process: what counts only needs none of its own, and the tool's import takes long."""
    print(f"{measurement.__name__}: {', '.join(map(str, arguments))}", file=sys.stderr, flush=True)
    _one_thread()
    return measurement(*arguments)


def alone(measurement: Callable[..., list[dict[str, Any]]], *arguments: Any) -> list[dict[str, Any]]:
    """Run it in a process of its own, on one thread; its rows."""
    print(f"{measurement.__name__}: {', '.join(map(str, arguments))}", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        return pool.submit(measurement, *arguments).result()


def _one_thread() -> None:
    import torch

    end_spawned_process_with_parent()
    torch.set_num_threads(1)
    torch.manual_seed(0)


def closeness(name: str, peers: bool) -> list[dict[str, Any]]:
    """MACs over target at every share: ours with a MAC budget, ours with as tight a parameter budget beside it,
    Torch-Pruning's progressive loop. Each tool's target is a share of its own count."""
    from edgepress.benchmarks.experiments.peers.networks import benchmark_networks
    from edgepress.compress.prune.budget.importance import importance
    from edgepress.compress.prune.budget.project import projection
    from edgepress.compress.prune.coupling.channels import find_groups
    from edgepress.models.limits import Limits

    model, example = benchmark_networks()[name]()
    graph = find_groups(model, example)
    scores, dense = importance(model, graph), graph.cost(graph.full())
    rows = []
    for share in SHARES:
        row: dict[str, Any] = {"share": share}
        for key, metrics in (("macs", ("macs",)), ("macs_and_params", ("macs", "params"))):
            budgets: dict[str, Any] = {metric: int(share * dense.get(metric)) for metric in metrics}
            found = projection(graph, scores, Limits(**budgets))
            row[key] = {metric: found.figures.get(metric) / limit for metric, limit in budgets.items()}
            row[key]["notes"] = list(found.notes)
        rows.append(row)
    if peers:
        for row, ratio in zip(rows, _peer_ratios(model, example), strict=True):
            row["torch_pruning"] = ratio
    return [{"network": name, "macs": dense.macs, "params": dense.params, "rows": rows}]


def _peer_ratios(model: Any, example: Any) -> Sequence[Any]:
    """MACs over target of Torch-Pruning, its own count; text where it fails. One run passes all targets in turn."""
    from edgepress.benchmarks.experiments.peers.torch_pruning import passing_shares

    try:
        return [reached / share for share, reached in zip(SHARES, passing_shares(model, example, SHARES), strict=True)]
    except EdgepressError as error:
        return [str(error)] * len(SHARES)
    except Exception as error:  # a peer may fail in any way; that is a result, too
        return [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"] * len(SHARES)


def fastnas_closeness(name: str) -> list[dict[str, Any]]:
    """MACs over target of FastNAS, as in `closeness`; text where it fails."""
    from edgepress.benchmarks.experiments.peers.fastnas import macs_over_target
    from edgepress.benchmarks.experiments.peers.networks import benchmark_networks

    dense, divisor, ratios = macs_over_target(*benchmark_networks()[name](), SHARES)
    return [
        {
            "network": name,
            "macs": dense,
            "channel_divisor": divisor,
            "rows": [{"share": share, "fastnas": ratio} for share, ratio in zip(SHARES, ratios, strict=True)],
        }
    ]


def retained(name: str) -> list[dict[str, Any]]:
    """Importance that both projections keep at the same budgets, without a floor for either."""
    from edgepress.benchmarks.experiments.peers.networks import benchmark_networks
    from edgepress.compress.prune.budget.importance import importance
    from edgepress.compress.prune.budget.project import projection
    from edgepress.compress.prune.coupling.channels import find_groups
    from edgepress.models.errors import InfeasibleBudget
    from edgepress.models.limits import Limits

    model, example = benchmark_networks()[name]()
    graph = find_groups(model, example)
    dense, rows = graph.cost(graph.full()), []
    for normalize in ("mean", "none"):
        scores = importance(model, graph, "l2", normalize=normalize)
        for share in SHARES:
            for metrics in (("macs",), ("params",), ("macs", "params", "peak_activation_bytes")):
                # The peak can't fall as far as the rest: one layer's input and output have to be there.
                budgets: dict[str, Any] = {
                    metric: int((share if metric != "peak_activation_bytes" else max(share, 0.5)) * dense.get(metric))
                    for metric in metrics
                }
                limits = Limits(**budgets)
                try:
                    kept = {
                        method: projection(graph, scores, limits, method, floor=0.0).retained
                        for method in ("knapsack", "threshold")
                    }
                except InfeasibleBudget:  # even the smallest network of this kind has a higher peak: no case
                    continue
                rows.append({"network": name, "normalize": normalize, "budgets": list(metrics), "share": share, **kept})
    return rows


def call(name: str, tool: str) -> list[dict[str, Any]]:
    """CPU seconds and memory of one call to half of the MACs: ours by its steps, the proof apart."""
    from edgepress.benchmarks.experiments.peers.networks import benchmark_networks
    from edgepress.benchmarks.experiments.peers.torch_pruning import Progress, Ranking
    from edgepress.compress.prune.budget.importance import importance
    from edgepress.compress.prune.budget.project import projection
    from edgepress.compress.prune.coupling.channels import (
        find_groups,  # imported before the clock starts, like the other tool
    )
    from edgepress.compress.prune.model import prune_model
    from edgepress.compress.prune.removal.surgery import cut, make_plan
    from edgepress.models.limits import Limits

    model, example = benchmark_networks()[name]()
    model(example)
    if tool == "torch-pruning":
        import torch_pruning  # noqa: F401  (as above)

        before, clock = _peak_bytes(), time.process_time()
        progress = Progress(model, example, Ranking(scope="global", most=1.0))
        progress.until(0.5 * progress.dense)
        return [
            {
                "network": name,
                "tool": tool,
                "seconds": time.process_time() - clock,
                "memory_bytes": _peak_bytes() - before,
                "ratio": progress.macs / (0.5 * progress.dense),
            }
        ]
    before, clock, steps = _peak_bytes(), [time.process_time()], {}

    def passed(step: str) -> None:
        clock.append(time.process_time())
        steps[step] = clock[-1] - clock[-2]

    graph = find_groups(model, example)
    passed("trace_and_groups")
    scores = importance(model, graph)
    passed("importance")
    dense_macs = graph.cost(graph.full()).macs
    selection = projection(graph, scores, Limits(macs=dense_macs // 2)).selection
    passed("projection")
    cut(model, graph, selection, make_plan(model, graph, selection))
    passed("removal")
    memory = _peak_bytes() - before
    clock.append(time.process_time())
    pruned = prune_model(model, example, macs="50%")
    passed("whole_call_with_proof_and_recount")
    return [
        {
            "network": name,
            "tool": tool,
            "seconds": sum(steps[step] for step in list(steps)[:4]),
            "steps": steps,
            "memory_bytes": memory,
            "memory_with_proof_bytes": _peak_bytes() - before,
            "ratio": pruned.after.macs / (0.5 * pruned.before.macs),
        }
    ]


def _peak_bytes() -> int:
    """The most memory that this process has had."""
    factor = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor


def growth(layers: int) -> list[dict[str, Any]]:
    """CPU seconds of groups, importance and projection of a residual network, torch.export apart."""
    import torch

    from edgepress.benchmarks.experiments.peers.networks import deep_residual, randomised
    from edgepress.compress.prune.budget.importance import importance
    from edgepress.compress.prune.budget.project import projection
    from edgepress.compress.prune.coupling.channels import assemble
    from edgepress.compress.prune.coupling.fixed import Fixed
    from edgepress.compress.prune.coupling.propagate import propagate
    from edgepress.models.cost.graph import trace_one_sample
    from edgepress.models.limits import Limits

    for count in (4, layers):  # the first takes what is imported once
        model = randomised(deep_residual(count))
        clock = [time.process_time()]
        traced = trace_one_sample(model, torch.randn(1, 3, 16, 16))
        clock.append(time.process_time())
        graph = assemble(model, traced, propagate(traced, Fixed()), "dcase", "w8a8")
        clock.append(time.process_time())
        scores = importance(model, graph)
        dense = graph.cost(graph.full())
        clock.append(time.process_time())
        found = projection(graph, scores, Limits(macs=dense.macs // 2))
        clock.append(time.process_time())
    trace, groups, score, project = (after - before for before, after in pairwise(clock))
    return [
        {
            "layers": layers,
            "groups": len(graph.groups),
            "trace_seconds": trace,
            "groups_seconds": groups,
            "importance_seconds": score,
            "projection_seconds": project,
            "search_seconds": groups + score + project,
            "ratio": found.figures.macs / (dense.macs // 2),
        }
    ]


if __name__ == "__main__":
    run_command(app)
