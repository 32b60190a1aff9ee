# SPDX-License-Identifier: Apache-2.0
"""The blocks of the report: each takes what was gathered and gives a title, a text, a table or figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgepress.benchmarks.gate.words import short_name
from edgepress.benchmarks.measure.environment import environment
from edgepress.benchmarks.measure.profiles import ProfiledLayer, layer_macs
from edgepress.benchmarks.report import charts
from edgepress.benchmarks.report.gather import Network
from edgepress.benchmarks.report.shapes import Block, cell, choices_block, table, table_block
from edgepress.models.tasks.kinds.table import metric_text, said
from edgepress.models.units import format_quantity

#: The int8 runtime whose accuracy stands in the first table: what a microcontroller computes, else the next best.
_RUNTIMES = ("tflm", "litert-reference", "litert", "onnxruntime")


def int8_record(network: Network) -> dict[str, Any] | None:
    """The record of figures of the int8 file on the runtime closest to a device."""
    found = {runtime: record for file in network.files for runtime, record in file.accuracy.items()}
    return next((found[runtime] for runtime in _RUNTIMES if runtime in found), None)


def percent(record: dict[str, Any] | None) -> str:
    """The first figure of a record as text, the accuracy of classification."""
    return metric_text(*said(record)) if record else "-"


def metric_of(networks: Sequence[Network]) -> str:
    """What the task of these networks is measured by."""
    return next((said(n.metrics["test"])[0] for n in networks if n.metrics.get("test")), "accuracy")


def capital(metric: str) -> str:
    """The name of a metric at the beginning of a sentence."""
    return metric[:1].upper() + metric[1:].replace("_", " ")


def interval_of(record: dict[str, Any]) -> list[float]:
    """Its two ends; none where the record gives no interval."""
    own = (record.get("intervals") or {}).get(said(record)[0])
    ends = record.get("cluster_interval") or record.get("interval") or own or []
    return ends if len(ends) == 2 else []


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
        if network.model_file and (layers := network.model_file.profile["layers"]):
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
        steps = (network.model_file.profile.get("memory") if network.model_file else None) or {}
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
                        " to ".join(metric_text(said(record)[0], end) for end in interval_of(record)) or "-",
                        _others(record),
                    ]
                )
    columns = ["network", "file", "runtime", "correct", metric_of(networks), "95 % interval", "others"]
    return table_block(
        "The files on real runtimes", table(columns, rows, range(3, 7)), "The same test clips through each runtime."
    )


def _others(record: dict[str, Any]) -> str:
    """The figures beside the first one."""
    figures = record.get("metrics") or {name: record[name] for name in ("log_loss",) if name in record}
    first = said(record)[0]
    return ", ".join(
        f"{name.replace('_', ' ')} {metric_text(name, value)}" for name, value in figures.items() if name != first
    )


def parity_block(networks: Sequence[Network]) -> Block | None:
    """What the export measured: every runtime against the quantized network, on data and on random inputs."""
    columns = ["pair", "inputs", "largest difference", "mean difference", "equal", "same label", "95 % interval"]
    choices = []
    for file in (file for network in networks for file in network.files):
        parity = file.manifest.get("parity") or {}
        # An export by the library compares each runtime with the network it was given, on the samples it was given.
        exported = [
            {"a": "torch", "b": name, **found}
            for name, found in (parity.get("runtimes") or {}).items()
            if isinstance(found, dict) and "max_abs" in found
        ]
        rows = [
            [f"{pair['a']} / {pair['b']}", f"{pair['samples']} {kind}", *_differences(pair), *_agreement(pair)]
            for kind, pairs in (
                ("data", parity.get("pairs")),
                ("random", parity.get("random_pairs")),
                ("of the export", exported),
            )
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
    metric = metric_of(networks)
    rows = [
        {"training": network.name, "epoch": number, "accuracy": epoch[f"validation_{metric}"]}
        for network in networks
        for number, epoch in enumerate(network.metrics.get("history") or (), 1)
        if epoch.get(f"validation_{metric}") is not None
    ]
    title = f"Validation {metric.replace('_', ' ')} while training"
    return {"id": "training", "title": title, "chart": charts.training_curves(rows, metric)} if rows else None


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
    exported = next((network.model_file.manifest.get("tools") for network in networks if network.model_file), None)
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
