"""The HTML report of a run: one page that works without a network and without a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import charts
from benchmarks.environment import environment
from benchmarks.gate import evaluate_gate
from benchmarks.gather import Network, gather
from models.atomic import write_text
from models.devices import METRICS, device_classes
from models.limits import METRIC_UNITS, MINIMUM_METRICS
from models.run_directory import DEFAULT_RUN, RunDirectory
from models.units import format_against, format_quantity

TEMPLATES = Path(__file__).parent / "templates"
#: The int8 runtime whose accuracy stands in the first table: what a microcontroller computes, else the next best.
_RUNTIMES = ("tflm", "litert-reference", "litert", "onnxruntime")


def write_report(run: str | Path = DEFAULT_RUN, output: str | Path | None = None) -> Path:
    """Write the report of a run directory; an older report of the same run is replaced.

    Args:
        run: the run directory.
        output: the page; default RUN/report.html.

    Returns:
        The path of the page.

    Raises:
        UsageError: the run holds no trained network, or the page cannot be written.
    """
    folder = RunDirectory(run)
    page = Path(output) if output else folder.path / "report.html"
    return write_text(page, render(gather(folder), str(folder.path)))


def render(networks: Sequence[Network], run: str) -> str:
    """The page as HTML; every name in it is escaped."""
    import vl_convert
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    verdicts = _verdicts(networks)
    rows: list[list[dict[str, Any]]] = [
        [_overview(networks)], [_accuracy(networks), _recording_devices(networks)], [_devices(verdicts)],
        [_limits(verdicts), _layers(networks)], [_confusion(networks), _memory(networks)], [_runtimes(networks)],
        [_training(networks), _history(networks)], [_versions(networks)]]
    rows = [[block for block in row if block] for row in rows]
    figures = {f"{block['id']}-chart": [choice["chart"] for choice in block.get("choices") or []] or [block["chart"]]
               for row in rows for block in row if block.get("chart") or block.get("choices")}
    data = next((network.metrics["data"] for network in networks if network.metrics.get("data")), {})
    template = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(default=True),
                           trim_blocks=True, lstrip_blocks=True).get_template("report.html.j2")
    return template.render(
        title=f"edgepress report: {data.get('task', 'no task')}", subtitle=_subtitle(data, run), cards=_cards(networks, verdicts),
        rows=[row for row in rows if row], figures=figures, bundle=vl_convert.javascript_bundle(),
        footer="MACs count under the rule dcase unless another is named: weights and biases times output positions, "
               "after BatchNorm is folded. Intervals are 95 %, over recordings where they are known, else Wilson's.")


def _subtitle(data: dict[str, Any], run: str) -> str:
    clips = ", ".join(f"{count:,} {split}" for split, count in (data.get("clips") or {}).items())
    return f"run {run}; data {data.get('source') or data.get('task', '-')}" + (f" ({clips} clips)" if clips else "")


def _int8(network: Network) -> dict[str, Any] | None:
    """The accuracy record of the int8 file on the runtime closest to a device."""
    found = {runtime: record for file in network.files for runtime, record in file.accuracy.items()}
    return next((found[runtime] for runtime in _RUNTIMES if runtime in found), None)


def _percent(record: dict[str, Any] | None) -> str:
    return format_quantity(record["accuracy"], "fraction") if record else "-"


def _interval(record: dict[str, Any]) -> list[float]:
    return record.get("cluster_interval") or record["interval"]


def _cards(networks: Sequence[Network], verdicts: list[dict[str, Any]]) -> list[dict[str, str]]:
    dense, smallest = networks[0], networks[-1]
    cards = [{"label": f"networks, from {dense.macs / 1e6:.1f} to {smallest.macs / 1e6:.1f} MMACs", "value": str(len(networks))}]
    if dense.metrics.get("test"):
        cards.append({"label": f"accuracy of {dense.name}, fp32", "value": _percent(dense.metrics["test"])})
    if smallest is not dense and (record := _int8(smallest) or smallest.metrics.get("test")):
        cards.append({"label": f"accuracy of {smallest.name}" + (", int8" if _int8(smallest) else ""), "value": _percent(record)})
    if smallest.tflite:
        cards.append({"label": "smallest int8 file", "value": format_quantity(smallest.tflite.profile["file_bytes"], "bytes")})
    fitting = sum(verdict["passed"] for verdict in verdicts)
    if verdicts:
        cards.append({"label": "of the device verdicts passed", "value": f"{fitting} / {len(verdicts)}"})
    return cards


def _overview(networks: Sequence[Network]) -> dict[str, Any]:
    rows = []
    for network in networks:
        cost, test, file = network.metrics["cost"], network.metrics.get("test"), network.tflite
        profile = file.profile if file else {}
        arena = (profile.get("arena_bytes") or {}).get("tflm")
        rows.append([network.name, f"{cost['macs'] / 1e6:.3f} M", f"{cost['params']:,}",
                     format_quantity(cost["weight_bytes"], "bytes"), format_quantity(profile.get("file_bytes"), "bytes"),
                     format_quantity(arena, "bytes"), _percent(test), f"{test['log_loss']:.3f}" if test else "-",
                     _percent(_int8(network)), _percent((test or {}).get("seen_devices")), _percent((test or {}).get("unseen_devices"))])
    columns = ["network", "MACs", "params", "weights, int8", "TFLite file", "TFLM arena", "test fp32", "log loss", "test int8",
               "seen devices", "unseen devices"]
    return {"title": "All networks", "table": {"columns": columns, "rows": rows, "numbers": list(range(1, len(columns))), "wrap": []},
            "text": "Test accuracy; the epoch was chosen on the validation split. A click on a column sorts."}


def _accuracy(networks: Sequence[Network]) -> dict[str, Any] | None:
    rows = []
    for network in networks:
        found = {"fp32": network.metrics.get("test")}
        found |= {f"int8 on {runtime}": record for file in network.files for runtime, record in file.accuracy.items()}
        for series, record in found.items():
            if record:
                low, high = _interval(record)
                rows.append({"network": network.name, "series": series, "mmacs": network.macs / 1e6,
                             "accuracy": record["accuracy"], "low": low, "high": high})
    return {"id": "accuracy", "title": "Accuracy against MACs", "chart": charts.accuracy_against_macs(rows),
            "text": "Test accuracy of each network and runtime; the lines are 95 % intervals."} if rows else None


def _recording_devices(networks: Sequence[Network]) -> dict[str, Any] | None:
    def rows(of: Any) -> list[dict[str, Any]]:
        found = []
        for network in networks:
            record = of(network)
            for device, figures in ((record or {}).get("by_recording_device") or {}).items():
                unseen = device in ((network.metrics.get("data") or {}).get("unseen_devices") or ())
                found.append({"network": network.name, "device": device, "seen": "unseen" if unseen else "seen in training",
                              "accuracy": figures["accuracy"], "total": figures["total"]})
        return found

    kinds = {"fp32": rows(lambda network: network.metrics.get("test")), "int8": rows(_int8)}
    choices = [{"name": name, "chart": charts.accuracy_by_recording_device(found)} for name, found in kinds.items() if found]
    return {"id": "recording", "title": "Accuracy per recording device", "choices": choices,
            "text": "What the audio was recorded with; triangles and circles tell devices unseen in training from the rest."
            } if choices else None


def _verdicts(networks: Sequence[Network]) -> list[dict[str, Any]]:
    """Every int8 file against every device class."""
    verdicts = []
    for network in networks:
        if network.tflite:
            records = [record for file in network.files for record in file.accuracy.values()]
            for name in device_classes():
                verdict = evaluate_gate(network.tflite.profile, device=name, results=records)
                verdicts.append({**verdict, "network": network.name, "device": name})
    return verdicts


def _metric_text(check: dict[str, Any]) -> tuple[str, str]:
    unit = METRIC_UNITS[METRICS[check["metric"]]]
    return format_against(check["value"], check["limit"], unit)


def _devices(verdicts: list[dict[str, Any]]) -> dict[str, Any] | None:
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
        rows.append([device, *("fits" if cells[network, device]["passed"] else "over" for network in networks),
                     "; ".join(over) or "-"])
    return {"title": "Verdict of every device class", "text": "The int8 TFLite file of each network against the limits of models/devices.toml.",
            "table": {"columns": ["device class", *networks, "what is over"], "rows": rows, "numbers": [], "wrap": [len(networks) + 1]}}


def _limits(verdicts: list[dict[str, Any]]) -> dict[str, Any] | None:
    choices = []
    for network in dict.fromkeys(verdict["network"] for verdict in verdicts):
        rows = []
        for verdict in verdicts:
            for check in verdict["checks"] if verdict["network"] == network else ():
                if check["value"] is None or not check["limit"] or METRICS[check["metric"]] in MINIMUM_METRICS:
                    continue
                value, limit = _metric_text(check)
                rows.append({"network": network, "device": verdict["device"], "metric": check["metric"], "value": value,
                             "limit": limit, "label": f"{verdict['device']}: {check['metric']}",
                             "share": check["value"] / check["limit"],
                             "verdict": "over" if check["value"] > check["limit"] else "fits"})
        if rows:
            choices.append({"name": network, "chart": charts.share_of_limits(rows)})
    return {"id": "limits", "title": "Sizes against the limits", "choices": choices,
            "text": "Each figure as a share of the limit of its device class; the dashed line is the limit."} if choices else None


def _layers(networks: Sequence[Network]) -> dict[str, Any] | None:
    choices = []
    for network in networks:
        pruned = network.metrics.get("prune") or {}
        before, after = pruned.get("layers_before"), pruned.get("layers_after")
        if before and after:
            rows = [{"network": name, "layer": layer["name"], "mmacs": layer["macs"] / 1e6}
                    for name, layers in (("before", before), (network.name, after)) for layer in layers if layer["macs"]]
            choices.append({"name": network.name, "chart": charts.layer_macs(rows)})
    return {"id": "layers", "title": "MACs of each layer, before and after pruning", "choices": choices} if choices else None


def _confusion(networks: Sequence[Network]) -> dict[str, Any] | None:
    choices = []
    for network in networks:
        record = _int8(network) or network.metrics.get("test")
        if record and record.get("confusion"):
            classes = record["classes"]
            rows = [{"label": classes[i], "predicted": classes[j], "clips": count, "share": count / max(1, sum(line))}
                    for i, line in enumerate(record["confusion"]) for j, count in enumerate(line)]
            choices.append({"name": network.name, "chart": charts.confusion(rows, classes)})
    return {"id": "confusion", "title": "Confusion matrix", "choices": choices,
            "text": "int8 where it was measured, else fp32; rows are the true classes."} if choices else None


def _memory(networks: Sequence[Network]) -> dict[str, Any] | None:
    choices = []
    for network in networks:
        steps = (network.tflite.profile.get("memory") if network.tflite else None) or {}
        rows = [{"step": index, "operator": step.get("operator", ""), "live_bytes": step["live_bytes"],
                 "live_kb": step["live_bytes"] / 1000}
                for index, step in enumerate(steps.get("steps", ()) if isinstance(steps, dict) else steps)]
        if rows:
            choices.append({"name": network.name, "chart": charts.memory_over_time(rows)})
    return {"id": "memory", "title": "Memory over time", "choices": choices,
            "text": "Activations alive at each operator of the int8 file; the arena of TFLite Micro also holds its own structures."
            } if choices else None


def _runtimes(networks: Sequence[Network]) -> dict[str, Any] | None:
    rows = []
    for network in networks:
        for file in network.files:
            for runtime, record in file.accuracy.items():
                low, high = _interval(record)
                rows.append([network.name, file.path.name, runtime, f"{record['correct']} / {record['total']}",
                             _percent(record), f"{100 * low:.1f} to {100 * high:.1f} %", f"{record['log_loss']:.4f}"])
    return {"title": "The files on real runtimes", "text": "The same test clips through each runtime.", "table": {
        "columns": ["network", "file", "runtime", "correct", "accuracy", "95 % interval", "log loss"], "rows": rows,
        "numbers": [3, 4, 5, 6], "wrap": []}} if rows else None


def _training(networks: Sequence[Network]) -> dict[str, Any] | None:
    rows = [{"training": network.name, "epoch": number, "accuracy": epoch["validation_accuracy"]}
            for network in networks for number, epoch in enumerate(network.metrics.get("history") or (), 1)
            if epoch.get("validation_accuracy") is not None]
    return {"id": "training", "title": "Validation accuracy while training", "chart": charts.training_curves(rows)} if rows else None


def _history(networks: Sequence[Network]) -> dict[str, Any] | None:
    rows = [[network.name, str(network.metrics.get("stage", "-")), str((network.metrics.get("prune") or {}).get("method", "-")),
             f"{network.metrics.get('best_epoch', '-')} / {network.metrics.get('epochs', '-')}",
             f"{network.metrics.get('seconds', 0):,.0f} s", str(network.metrics.get("seed", "-")),
             f"{network.metrics['prune']['proof_max_abs_diff']:.1e}" if network.metrics.get("prune") else "-"] for network in networks]
    return {"title": "How each network was made", "table": {
        "columns": ["network", "stage", "method", "chosen epoch", "training", "seed", "proof, max diff"], "rows": rows,
        "numbers": [3, 4, 5, 6], "wrap": []}}


def _versions(networks: Sequence[Network]) -> dict[str, Any]:
    found = {"trained with": networks[0].metrics.get("versions") or {}, "reported with": environment()}
    exported = next((network.tflite.manifest.get("tools") for network in networks if network.tflite), None)
    if exported:
        found["exported with"] = exported
    rows = [[what, ", ".join(f"{name} {value if not isinstance(value, dict) else json.dumps(value)}" for name, value in facts.items())]
            for what, facts in found.items()]
    rows += [[f"command for {network.name}", str(network.metrics.get("command", "-"))] for network in networks]
    return {"title": "What was run with which versions", "table": {"columns": ["what", "with"], "rows": rows, "numbers": [], "wrap": [1]}}
