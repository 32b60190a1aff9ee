# SPDX-License-Identifier: Apache-2.0
"""What kinds of task measure on real recordings, on every runtime: benchmarks/results/tasks.json and docs/tasks.md.

    compress init images:CIFAR10 --device cortex-m4 && compress run cifar10.toml --run runs/pictures
    python -m edgepress.benchmarks.experiments.tasks.machines ESC10 machines
    compress run anomaly --data sounds:machines --run runs/machines \\
        --set 'measure.runtimes=["tflm", "litert", "litert-reference"]'
    python -m edgepress.benchmarks.experiments.tasks --pictures runs/pictures --machines runs/machines \\
        --keywords kws_ref_model.tflite --keywords-data kws01.npz --streams tflm_dtln.tflite --esc10 ESC10 \\
        --output benchmarks/results/tasks.json --docs docs/tasks.md

Each part is measured where its options are given; the results file keeps the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgepress.models.command_line import run_command
from edgepress.models.errors import UsageError

#: What MLPerf Tiny asks of the reference network for keyword spotting, of the first label.
KEYWORDS_LEAST = 0.9


def anomalies(run: Path) -> dict[str, Any]:
    """Each network of a run of the recipe `anomaly`: AUC of the checkpoints and of its files on every runtime.

    Raises:
        UsageError: the run measured no anomalies.
    """
    from edgepress.benchmarks.measure.result_log import of_run
    from edgepress.models.run_directory import RunDirectory

    directory = RunDirectory(run)
    checkpoints = {entry["name"]: entry for entry in directory.entries("checkpoint")}
    artifacts = {entry["sha256"]: entry for entry in directory.entries("artifact")}
    records = [r for r in of_run(directory) if r.get("task_kind") == "anomaly" and r.get("sha256") in artifacts]
    if not records:
        raise UsageError(
            f"--machines {run}: nothing of kind anomaly was measured there; run `compress run anomaly` first"
        )
    networks: dict[str, dict[str, Any]] = {}
    for record in records:
        integers = checkpoints[artifacts[record["sha256"]]["checkpoint"]]
        floating = checkpoints[Path(integers["parent"]).name]
        found = networks.setdefault(
            floating["name"],
            {
                "macs": floating["macs"],
                "parameters": floating["params"],
                "file_bytes": artifacts[record["sha256"]]["file_bytes"],
                "float": floating["test_value"],
                "w8a8": integers["test_value"],
                "runtimes": {},
            },
        )
        found["runtimes"][record["runtime"]] = {
            **{name: record["metrics"][name] for name in ("auc", "pauc")},
            "interval": record["intervals"]["auc"],
            "by_machine": {name: one["auc"] for name, one in record["by_machine"].items()},
        }
    first = records[0]
    return {
        "networks": networks,
        "normal": first["normal"],
        "anomalous": first["anomalous"],
        "data": first["data"],
        "largest_difference": max(
            abs(one["auc"] - network["float"]) for network in networks.values() for one in network["runtimes"].values()
        ),
    }


def keywords(model: Path, data: Path) -> dict[str, Any]:
    """Accuracy of a keyword network on every runtime, and the gate's verdict at `KEYWORDS_LEAST` on each."""
    from edgepress.benchmarks.measure.accuracy import measure_accuracy

    measured = measure_accuracy(model, data, ["tflm", "litert", "litert-reference"])
    return {
        "file": model.name,
        "data": measured["data"],
        "limit": KEYWORDS_LEAST,
        "runtimes": {
            one["runtime"]: {
                **{name: one[name] for name in ("correct", "total", "accuracy", "interval")},
                "passed": one["accuracy"] >= KEYWORDS_LEAST,
            }
            for one in measured["results"]
        },
    }


def main(
    pictures: Annotated[
        Path | None, typer.Option(help="Run directory of the recipe that `compress init images:DIR` wrote.")
    ] = None,
    machines: Annotated[Path | None, typer.Option(help="Run directory of `compress run anomaly`.")] = None,
    keywords_model: Annotated[Path | None, typer.Option("--keywords", help="A .tflite that spots keywords.")] = None,
    keywords_data: Annotated[Path | None, typer.Option(help="Its data, as for `benchmarks run`.")] = None,
    streams: Annotated[Path | None, typer.Option(help="TFLite Micro's DTLN, a .tflite with two LSTMs.")] = None,
    esc10: Annotated[Path | None, typer.Option(help="Folder of ESC-10, for the sounds of --streams.")] = None,
    output: Annotated[Path, typer.Option(help="Results file; parts that are not measured are kept.")] = Path(
        "tasks.json"
    ),
    docs: Annotated[Path | None, typer.Option(help="Page; an older one is replaced.")] = None,
) -> None:
    """Measure kinds of task on real recordings, and write the results and their page."""
    from edgepress.benchmarks.experiments.tasks.page import page
    from edgepress.benchmarks.experiments.tasks.pictures import measured_pictures
    from edgepress.benchmarks.experiments.tasks.streams import measure
    from edgepress.benchmarks.measure.environment import environment
    from edgepress.models.atomic import write_json, write_text
    from edgepress.models.files.reading import read_json

    if (keywords_model is None) != (keywords_data is None) or (streams is None) != (esc10 is None):
        raise UsageError("--keywords needs --keywords-data, and --streams needs --esc10")
    result: dict[str, Any] = read_json(output, dict[str, Any]) if output.exists() else {"schema": 1}
    if pictures is not None:
        result["pictures"] = {**measured_pictures(pictures), "environment": environment()}
    if machines is not None:
        result["anomaly"] = {**anomalies(machines), "environment": environment()}
    if keywords_model is not None and keywords_data is not None:
        result["keywords"] = {**keywords(keywords_model, keywords_data), "environment": environment()}
    if streams is not None and esc10 is not None:
        result["streams"] = {**measure(streams, esc10), "environment": environment()}
    write_json(output, result)
    if docs is not None:
        write_text(docs, page(result))
    print(output)


if __name__ == "__main__":
    app: typer.Typer = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_command(app)
