# SPDX-License-Identifier: Apache-2.0
"""The blocks of the report: each takes what was gathered and gives a title, a text, a table or figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgepress.benchmarks.gate.words import short_name
from edgepress.benchmarks.measure.environment import environment
from edgepress.benchmarks.measure.profiles import ProfiledLayer, layer_macs
from edgepress.benchmarks.report import charts
from edgepress.benchmarks.report.gather import File, Network
from edgepress.benchmarks.report.shapes import Block, cell, choices_block, table, table_block
from edgepress.models.units import format_quantity

#: The int8 runtime whose accuracy stands in the first table: what a microcontroller computes, else the next best.
_RUNTIMES = ("tflm", "litert-reference", "litert", "onnxruntime")


def int8_record(network: Network) -> dict[str, Any] | None:
    """The accuracy record of the int8 file on the runtime closest to a device."""
    found = {runtime: record for file in network.files for runtime, record in file.accuracy.items()}
    return next((found[runtime] for runtime in _RUNTIMES if runtime in found), None)


def percent(record: dict[str, Any] | None) -> str:
    accuracy = (record or {}).get("accuracy")
    return "-" if accuracy is None else format_quantity(accuracy, "fraction")


def _interval(record: dict[str, Any]) -> list[float]:
    """Its two ends; none where the record gives no interval."""
    ends = record.get("cluster_interval") or record.get("interval") or []
    return ends if len(ends) == 2 else []


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def overview_block(networks: Sequence[Network]) -> Block | None:
    rows = []
    for network in networks:
        cost, test, file = network.metrics["cost"], network.metrics.get("test"), network.tflite
        profile = file.profile if file else {}
        arena = (profile.get("arena_bytes") or {}).get("tflm")
        integers = int8_record(network)
        unseen = [(record or {}).get("unseen_devices") for record in (test, integers)]
        rows.append(
            [
                network.name,
                cell(f"{cost['macs'] / 1e6:.3f} M", cost["macs"]),
                cell(f"{cost['params']:,}", cost["params"]),
                *(
                    cell(format_quantity(size, "bytes"), size)
                    for size in (cost["weight_bytes"], profile.get("file_bytes"), arena)
                ),
                percent(test),
                percent(integers),
                *(_number((record or {}).get("log_loss"), 3) for record in (test, integers)),
                *map(percent, unseen),
            ]
        )
    columns = [
        "network",
        "MACs",
        "params",
        "weights, int8",
        "TFLite file",
        "TFLM arena",
        "test, fp32",
        "test, int8",
        "log loss, fp32",
        "log loss, int8",
        "unseen, fp32",
        "unseen, int8",
    ]
    return table_block(
        "All networks",
        table(columns, rows, range(1, len(columns))),
        "Test accuracy, and that on recording devices unseen in training; the epoch was chosen on the "
        "validation split. A click on a column sorts.",
    )


#: What accuracy is held against: title, from a network and its int8 file (None: without one).
_COSTS: dict[str, Callable[[Network, File | None], float | None]] = {
    "million MACs": lambda network, file: network.macs / 1e6,
    "thousand params": lambda network, file: network.metrics["cost"]["params"] / 1e3,
    "TFLite file, kB": lambda network, file: file.profile["file_bytes"] / 1e3 if file else None,
    "TFLite Micro arena, kB": lambda network, file: (
        _kilo((file.profile.get("arena_bytes") or {}).get("tflm")) if file else None
    ),
}


def _kilo(value: float | None) -> float | None:
    return None if value is None else value / 1e3


def accuracy_block(networks: Sequence[Network]) -> Block | None:
    """Accuracy against each kind of cost, with the Pareto front of each runtime."""
    choices = []
    for title, cost_of in _COSTS.items():
        rows = []
        for network in networks:
            found = {"fp32": network.metrics.get("test")} if "TFLite" not in title else {}
            found |= {f"int8 on {name}": record for file in network.files for name, record in file.accuracy.items()}
            cost = cost_of(network, network.tflite)
            for series, record in found.items():
                if record and record.get("accuracy") is not None and cost is not None:
                    low, high = _interval(record) or (None, None)
                    rows.append(
                        {
                            "network": network.name,
                            "series": series,
                            "cost": cost,
                            "low": low,
                            "high": high,
                            "accuracy": record["accuracy"],
                        }
                    )
        for series in {row["series"] for row in rows}:
            own = [row for row in rows if row["series"] == series]
            for row, on_front in zip(own, pareto([(row["cost"], row["accuracy"]) for row in own]), strict=True):
                row["front"] = "yes" if on_front else "no"
        if rows:
            choices.append({"name": title, "chart": charts.accuracy_against_cost(rows, title)})
    return choices_block(
        "accuracy",
        "Accuracy against cost",
        choices,
        "The steps are the Pareto front of each runtime: no network costs less and is as accurate. "
        "Hollow points lie behind it; thin lines are 95 % intervals. A click on a runtime singles it "
        "out.",
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points (cost, accuracy) are on the front: no other costs at most as much and is at least as accurate."""
    return [
        not any(other != point and other[0] <= point[0] and other[1] >= point[1] for other in points)
        for point in points
    ]


def recording_devices_block(networks: Sequence[Network]) -> Block | None:
    def rows(of: Any) -> list[dict[str, Any]]:
        found = []
        for network in networks:
            record = of(network)
            for device, figures in ((record or {}).get("by_recording_device") or {}).items():
                unseen = device in ((network.metrics.get("data") or {}).get("unseen_devices") or ())
                found.append(
                    {
                        "network": network.name,
                        "device": device,
                        "seen": "unseen" if unseen else "seen in training",
                        "accuracy": figures.get("accuracy"),
                        "total": figures["total"],
                    }
                )
        return found

    kinds = {"fp32": rows(lambda network: network.metrics.get("test")), "int8": rows(int8_record)}
    choices = [
        {"name": name, "chart": charts.accuracy_by_recording_device(found)} for name, found in kinds.items() if found
    ]
    return choices_block(
        "recording",
        "Accuracy per recording device",
        choices,
        "What the audio was recorded with; the shape tells devices unseen in training from the rest.",
    )


def layers_block(networks: Sequence[Network]) -> Block | None:
    """MACs before and after pruning, and for each int8 file the table of its layers."""
    choices = []
    for network in networks:
        pruned = network.metrics.get("prune") or {}
        before, after = pruned.get("layers_before"), pruned.get("layers_after")
        if before and after:
            rows = [
                {"network": name, "layer": layer["name"], "mmacs": layer["macs"] / 1e6}
                for name, layers in (("before", before), (network.name, after))
                for layer in layers
                if layer["macs"]
            ]
            choices.append({"name": f"{network.name}, pruned", "chart": charts.layer_macs(rows)})
    for network in networks:
        if network.tflite and (layers := network.tflite.profile["layers"]):
            choices.append(
                {
                    "name": f"{network.name}, int8 file",
                    "table": table(
                        _LAYER_COLUMNS,
                        [_layer_row(number, layer) for number, layer in enumerate(layers)],
                        range(4, len(_LAYER_COLUMNS)),
                    ),
                }
            )
    return choices_block(
        "layers",
        "Per layer",
        choices,
        "MACs of each layer before and after pruning; in the int8 file every operator with its MACs "
        "under the rule core and the bytes that are alive while it runs.",
    )


_LAYER_COLUMNS = ("step", "operator", "layer", "output", "MACs", "share", "params", "weights", "activations", "alive")


def _layer_row(number: int, layer: ProfiledLayer) -> list[Any]:
    macs = layer_macs(layer, "core")
    return [
        cell(str(number), number),
        layer["operator"],
        short_name(layer["name"], 40) or "-",
        "x".join(map(str, layer["output_shape"])),
        cell(f"{macs:,}", macs),
        cell(f"{100 * layer['share']:.1f} %", layer["share"]),
        cell(f"{layer['params']:,}", layer["params"]),
        *(
            cell(format_quantity(layer[key], "bytes"), layer[key] or 0)
            for key in ("weight_bytes", "activation_bytes", "live_bytes")
        ),
    ]


def confusion_block(networks: Sequence[Network]) -> Block | None:
    choices = []
    for network in networks:
        record = int8_record(network) or network.metrics.get("test")
        if record and record.get("confusion"):
            classes = record["classes"]
            rows = [
                {"label": classes[i], "predicted": classes[j], "clips": count, "share": count / max(1, sum(line))}
                for i, line in enumerate(record["confusion"])
                for j, count in enumerate(line)
            ]
            choices.append({"name": network.name, "chart": charts.confusion(rows, classes)})
    return choices_block(
        "confusion", "Confusion matrix", choices, "int8 where it was measured, else fp32; rows are the true classes."
    )


def memory_block(networks: Sequence[Network]) -> Block | None:
    choices = []
    for network in networks:
        steps = (network.tflite.profile.get("memory") if network.tflite else None) or {}
        rows = [
            {
                "step": index,
                "operator": step.get("operator", ""),
                "live_bytes": step["live_bytes"],
                "live_kb": step["live_bytes"] / 1000,
            }
            for index, step in enumerate(steps.get("steps", ()) if isinstance(steps, dict) else steps)
        ]
        if rows:
            choices.append({"name": network.name, "chart": charts.memory_over_time(rows)})
    return choices_block(
        "memory",
        "Memory over time",
        choices,
        "Activations alive at each operator of the int8 file; TFLite Micro adds its own structures.",
    )


def runtimes_block(networks: Sequence[Network]) -> Block | None:
    rows = []
    for network in networks:
        for file in network.files:
            for runtime, record in file.accuracy.items():
                rows.append(
                    [
                        network.name,
                        file.path.name,
                        runtime,
                        f"{record.get('correct', '-')} / {record.get('total', '-')}",
                        percent(record),
                        " to ".join(f"{100 * end:.1f}" for end in _interval(record)) or "-",
                        _number(record.get("log_loss"), 4),
                    ]
                )
    columns = ["network", "file", "runtime", "correct", "accuracy", "95 % interval, %", "log loss"]
    return table_block(
        "The files on real runtimes", table(columns, rows, range(3, 7)), "The same test clips through each runtime."
    )


def parity_block(networks: Sequence[Network]) -> Block | None:
    """What the export measured: every runtime against the quantized network, on data and on random inputs."""
    columns = ["pair", "inputs", "largest difference", "mean difference", "equal", "same label", "95 % interval"]
    choices = []
    for file in (file for network in networks for file in network.files):
        parity = file.manifest.get("parity") or {}
        rows = [
            [f"{pair['a']} / {pair['b']}", f"{pair['samples']} {kind}", *_differences(pair), *_agreement(pair)]
            for kind, pairs in (("data", parity.get("pairs")), ("random", parity.get("random_pairs")))
            for pair in pairs or ()
        ]
        if rows:
            choices.append({"name": file.path.name, "table": table(columns, rows, range(2, 7))})
    return choices_block(
        "parity",
        "Parity",
        choices,
        "The export ran the same inputs through the network and every runtime. Differences are in "
        "steps of the output (LSB), for float files relative to the largest output.",
    )


def _differences(pair: dict[str, Any]) -> list[Any]:
    if pair.get("max_lsb") is None:
        relative = pair.get("relative")
        return ["-" if relative is None else cell(f"{relative:.1e}", relative), "-", "-"]
    return [
        cell(f"{pair['max_lsb']:g} LSB", pair["max_lsb"]),
        cell(f"{pair['mean_lsb']:.3f} LSB", pair["mean_lsb"]),
        f"{100 * pair['equal']:.1f} %",
    ]


def _agreement(pair: dict[str, Any]) -> list[str]:
    if pair.get("label_agreement") is None:
        return ["-", "-"]
    low, high = pair.get("label_interval") or (None, None)
    return [
        format_quantity(pair["label_agreement"], "fraction"),
        "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %",
    ]


def training_block(networks: Sequence[Network]) -> Block | None:
    rows = [
        {"training": network.name, "epoch": number, "accuracy": epoch["validation_accuracy"]}
        for network in networks
        for number, epoch in enumerate(network.metrics.get("history") or (), 1)
        if epoch.get("validation_accuracy") is not None
    ]
    return (
        {"id": "training", "title": "Validation accuracy while training", "chart": charts.training_curves(rows)}
        if rows
        else None
    )


def making_block(networks: Sequence[Network]) -> Block | None:
    rows = []
    for network in networks:
        metrics, pruned = network.metrics, network.metrics.get("prune") or {}
        rows.append(
            [
                network.name,
                str(metrics.get("stage", "-")),
                str(pruned.get("method", "-")),
                f"{metrics.get('best_epoch', '-')} / {metrics.get('epochs', '-')}",
                f"{metrics.get('seconds', 0):,.0f} s",
                str(metrics.get("seed", "-")),
                f"{pruned['proof_max_abs_diff']:.1e}" if "proof_max_abs_diff" in pruned else "-",
            ]
        )
    columns = ["network", "stage", "method", "chosen epoch", "training", "seed", "proof, max diff"]
    return table_block("How each network was made", table(columns, rows, range(3, 7)))


def versions_block(networks: Sequence[Network]) -> Block | None:
    found = {"trained with": networks[0].metrics.get("versions") or {}, "reported with": environment()}
    exported = next((network.tflite.manifest.get("tools") for network in networks if network.tflite), None)
    if exported:
        found["exported with"] = exported
    rows = [[what, _versions_text(facts)] for what, facts in found.items()]
    commands: dict[str, list[str]] = {}
    for network in networks:
        commands.setdefault(str(network.metrics.get("command", "-")), []).append(network.name)
    rows += [[f"command for {', '.join(names)}", command] for command, names in commands.items()]
    return table_block("What was run with which versions", table(["what", "with"], rows, wrap=[1]))


def _versions_text(facts: dict[str, Any]) -> str:
    """Nested facts on one line: "torch 2.13.0, cores 2, ..."."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return ", ".join(f"{name} {value}" for name, value in flat.items() if value is not None)
