"""The blocks of the report: each takes what was gathered and gives a title, a text, a table or figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import charts
from benchmarks.environment import environment
from benchmarks.gather import Network
from models.devices import METRICS
from models.limits import METRIC_UNITS, MINIMUM_METRICS
from models.units import format_against, format_quantity

#: The int8 runtime whose accuracy stands in the first table: what a microcontroller computes, else the next best.
_RUNTIMES = ("tflm", "litert-reference", "litert", "onnxruntime")


def int8_record(network: Network) -> dict[str, Any] | None:
    """The accuracy record of the int8 file on the runtime closest to a device."""
    found = {runtime: record for file in network.files for runtime, record in file.accuracy.items()}
    return next((found[runtime] for runtime in _RUNTIMES if runtime in found), None)


def percent(record: dict[str, Any] | None) -> str:
    return format_quantity(record["accuracy"], "fraction") if record else "-"


def _interval(record: dict[str, Any]) -> list[float]:
    return record.get("cluster_interval") or record["interval"]


def overview_block(networks: Sequence[Network]) -> dict[str, Any]:
    rows = []
    for network in networks:
        cost, test, file = network.metrics["cost"], network.metrics.get("test"), network.tflite
        profile = file.profile if file else {}
        arena = (profile.get("arena_bytes") or {}).get("tflm")
        rows.append(
            [
                network.name,
                f"{cost['macs'] / 1e6:.3f} M",
                f"{cost['params']:,}",
                format_quantity(cost["weight_bytes"], "bytes"),
                format_quantity(profile.get("file_bytes"), "bytes"),
                format_quantity(arena, "bytes"),
                percent(test),
                f"{test['log_loss']:.3f}" if test else "-",
                percent(int8_record(network)),
                percent((test or {}).get("seen_devices")),
                percent((test or {}).get("unseen_devices")),
            ]
        )
    columns = [
        "network",
        "MACs",
        "params",
        "weights, int8",
        "TFLite file",
        "TFLM arena",
        "test fp32",
        "log loss",
        "test int8",
        "seen devices",
        "unseen devices",
    ]
    return {
        "title": "All networks",
        "table": {"columns": columns, "rows": rows, "numbers": list(range(1, len(columns))), "wrap": []},
        "text": "Test accuracy; the epoch was chosen on the validation split. A click on a column sorts.",
    }


def accuracy_block(networks: Sequence[Network]) -> dict[str, Any] | None:
    rows = []
    for network in networks:
        found = {"fp32": network.metrics.get("test")}
        found |= {f"int8 on {runtime}": record for file in network.files for runtime, record in file.accuracy.items()}
        for series, record in found.items():
            if record:
                low, high = _interval(record)
                rows.append(
                    {
                        "network": network.name,
                        "series": series,
                        "mmacs": network.macs / 1e6,
                        "accuracy": record["accuracy"],
                        "low": low,
                        "high": high,
                    }
                )
    return (
        {
            "id": "accuracy",
            "title": "Accuracy against MACs",
            "chart": charts.accuracy_against_macs(rows),
            "text": "Test accuracy of each network and runtime; the lines are 95 % intervals.",
        }
        if rows
        else None
    )


def recording_devices_block(networks: Sequence[Network]) -> dict[str, Any] | None:
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
                        "accuracy": figures["accuracy"],
                        "total": figures["total"],
                    }
                )
        return found

    kinds = {"fp32": rows(lambda network: network.metrics.get("test")), "int8": rows(int8_record)}
    choices = [
        {"name": name, "chart": charts.accuracy_by_recording_device(found)} for name, found in kinds.items() if found
    ]
    return (
        {
            "id": "recording",
            "title": "Accuracy per recording device",
            "choices": choices,
            "text": "What the audio was recorded with; the shape tells devices unseen in training from the rest.",
        }
        if choices
        else None
    )


def _metric_text(check: dict[str, Any]) -> tuple[str, str]:
    unit = METRIC_UNITS[METRICS[check["metric"]]]
    return format_against(check["value"], check["limit"], unit)


def devices_block(verdicts: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not verdicts:
        return None
    devices = list(dict.fromkeys(verdict["device"] for verdict in verdicts))
    networks = list(dict.fromkeys(verdict["network"] for verdict in verdicts))
    cells = {(verdict["network"], verdict["device"]): verdict for verdict in verdicts}
    rows = []
    for device in devices:
        over = []
        for network in networks:
            for check in cells[network, device]["checks"]:
                if check["status"] == "failed":
                    value, limit = _metric_text(check)
                    over.append(f"{network}: {check['metric']} {value} over {limit}")
        rows.append(
            [
                device,
                *("fits" if cells[network, device]["passed"] else "over" for network in networks),
                "; ".join(over) or "-",
            ]
        )
    return {
        "title": "Verdict of every device class",
        "text": "The int8 TFLite file of each network against the limits of models/devices.toml.",
        "table": {
            "columns": ["device class", *networks, "what is over"],
            "rows": rows,
            "numbers": [],
            "wrap": [len(networks) + 1],
        },
    }


def limits_block(verdicts: list[dict[str, Any]]) -> dict[str, Any] | None:
    choices = []
    for network in dict.fromkeys(verdict["network"] for verdict in verdicts):
        rows = []
        for verdict in verdicts:
            for check in verdict["checks"] if verdict["network"] == network else ():
                if check["value"] is None or not check["limit"] or METRICS[check["metric"]] in MINIMUM_METRICS:
                    continue
                value, limit = _metric_text(check)
                rows.append(
                    {
                        "network": network,
                        "device": verdict["device"],
                        "metric": check["metric"],
                        "value": value,
                        "limit": limit,
                        "label": f"{verdict['device']}: {check['metric']}",
                        "share": check["value"] / check["limit"],
                        "verdict": "over" if check["value"] > check["limit"] else "fits",
                    }
                )
        if rows:
            choices.append({"name": network, "chart": charts.share_of_limits(rows)})
    return (
        {
            "id": "limits",
            "title": "Sizes against the limits",
            "choices": choices,
            "text": "Each figure as a share of the limit of its device class; the dashed line is the limit.",
        }
        if choices
        else None
    )


def layers_block(networks: Sequence[Network]) -> dict[str, Any] | None:
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
            choices.append({"name": network.name, "chart": charts.layer_macs(rows)})
    return (
        {"id": "layers", "title": "MACs of each layer, before and after pruning", "choices": choices}
        if choices
        else None
    )


def confusion_block(networks: Sequence[Network]) -> dict[str, Any] | None:
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
    return (
        {
            "id": "confusion",
            "title": "Confusion matrix",
            "choices": choices,
            "text": "int8 where it was measured, else fp32; rows are the true classes.",
        }
        if choices
        else None
    )


def memory_block(networks: Sequence[Network]) -> dict[str, Any] | None:
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
    return (
        {
            "id": "memory",
            "title": "Memory over time",
            "choices": choices,
            "text": "Activations alive at each operator of the int8 file; TFLite Micro adds its own structures.",
        }
        if choices
        else None
    )


def runtimes_block(networks: Sequence[Network]) -> dict[str, Any] | None:
    rows = []
    for network in networks:
        for file in network.files:
            for runtime, record in file.accuracy.items():
                low, high = _interval(record)
                rows.append(
                    [
                        network.name,
                        file.path.name,
                        runtime,
                        f"{record['correct']} / {record['total']}",
                        percent(record),
                        f"{100 * low:.1f} to {100 * high:.1f} %",
                        f"{record['log_loss']:.4f}",
                    ]
                )
    return (
        {
            "title": "The files on real runtimes",
            "text": "The same test clips through each runtime.",
            "table": {
                "columns": ["network", "file", "runtime", "correct", "accuracy", "95 % interval", "log loss"],
                "rows": rows,
                "numbers": [3, 4, 5, 6],
                "wrap": [],
            },
        }
        if rows
        else None
    )


def training_block(networks: Sequence[Network]) -> dict[str, Any] | None:
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


def history_block(networks: Sequence[Network]) -> dict[str, Any] | None:
    rows = [
        [
            network.name,
            str(network.metrics.get("stage", "-")),
            str((network.metrics.get("prune") or {}).get("method", "-")),
            f"{network.metrics.get('best_epoch', '-')} / {network.metrics.get('epochs', '-')}",
            f"{network.metrics.get('seconds', 0):,.0f} s",
            str(network.metrics.get("seed", "-")),
            f"{network.metrics['prune']['proof_max_abs_diff']:.1e}" if network.metrics.get("prune") else "-",
        ]
        for network in networks
    ]
    return {
        "title": "How each network was made",
        "table": {
            "columns": ["network", "stage", "method", "chosen epoch", "training", "seed", "proof, max diff"],
            "rows": rows,
            "numbers": [3, 4, 5, 6],
            "wrap": [],
        },
    }


def versions_block(networks: Sequence[Network]) -> dict[str, Any]:
    found = {"trained with": networks[0].metrics.get("versions") or {}, "reported with": environment()}
    exported = next((network.tflite.manifest.get("tools") for network in networks if network.tflite), None)
    if exported:
        found["exported with"] = exported
    rows = [[what, _versions_text(facts)] for what, facts in found.items()]
    commands: dict[str, list[str]] = {}
    for network in networks:
        commands.setdefault(str(network.metrics.get("command", "-")), []).append(network.name)
    rows += [[f"command for {', '.join(names)}", command] for command, names in commands.items()]
    return {
        "title": "What was run with which versions",
        "table": {"columns": ["what", "with"], "rows": rows, "numbers": [], "wrap": [1]},
    }


def _versions_text(facts: dict[str, Any]) -> str:
    """Nested facts on one line: "torch 2.13.0, cores 2, ..."."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return ", ".join(f"{name} {value}" for name, value in flat.items() if value is not None)
