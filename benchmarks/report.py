"""The HTML report of a run: one page that works without a network and without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gate import evaluate_gate
from benchmarks.gather import Network, gather
from benchmarks.report_blocks import (
    accuracy_block,
    confusion_block,
    devices_block,
    history_block,
    int8_record,
    layers_block,
    limits_block,
    memory_block,
    overview_block,
    percent,
    recording_devices_block,
    runtimes_block,
    training_block,
    versions_block,
)
from benchmarks.teacher_tables import blocks
from models.atomic import write_text
from models.devices import device_classes
from models.run_directory import DEFAULT_RUN, RunDirectory
from models.units import format_quantity

TEMPLATES = Path(__file__).parent / "templates"


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
    return write_text(page, render(gather(folder), str(folder.path), blocks(folder)))


def render(networks: Sequence[Network], run: str, teachers: Sequence[list[dict[str, Any]]] = ()) -> str:
    """The page as HTML, rows of blocks about its teachers included; every name in it is escaped."""
    import vl_convert
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    verdicts = _verdicts(networks)
    rows: list[list[dict[str, Any]]] = [
        [overview_block(networks)],
        [accuracy_block(networks), recording_devices_block(networks)],
        [devices_block(verdicts)],
        [limits_block(verdicts), layers_block(networks)],
        [confusion_block(networks), memory_block(networks)],
        [runtimes_block(networks)],
        *teachers,
        [training_block(networks), history_block(networks)],
        [versions_block(networks)],
    ]
    rows = [[block for block in row if block] for row in rows]
    figures = {
        f"{block['id']}-chart": [choice["chart"] for choice in block.get("choices") or []] or [block["chart"]]
        for row in rows
        for block in row
        if block.get("chart") or block.get("choices")
    }
    data = next((network.metrics["data"] for network in networks if network.metrics.get("data")), {})
    template = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")
    return template.render(
        title=f"edgepress report: {data.get('task', 'no task')}",
        subtitle=_subtitle(data, run),
        cards=_cards(networks, verdicts),
        rows=[row for row in rows if row],
        figures=figures,
        bundle=vl_convert.javascript_bundle(),
        footer="MACs count under the rule dcase unless another is named: weights and biases times output positions, "
        "after BatchNorm is folded. Intervals are 95 %, over recordings where they are known, else Wilson's.",
    )


def _subtitle(data: dict[str, Any], run: str) -> str:
    clips = ", ".join(f"{count:,} {split}" for split, count in (data.get("clips") or {}).items())
    return f"run {run}; data {data.get('source') or data.get('task', '-')}" + (f" ({clips} clips)" if clips else "")


def _cards(networks: Sequence[Network], verdicts: list[dict[str, Any]]) -> list[dict[str, str]]:
    dense, smallest = networks[0], networks[-1]
    cards = [
        {
            "label": f"networks, from {dense.macs / 1e6:.1f} to {smallest.macs / 1e6:.1f} MMACs",
            "value": str(len(networks)),
        }
    ]
    if dense.metrics.get("test"):
        cards.append({"label": f"accuracy of {dense.name}, fp32", "value": percent(dense.metrics["test"])})
    if smallest is not dense and (record := int8_record(smallest) or smallest.metrics.get("test")):
        cards.append(
            {
                "label": f"accuracy of {smallest.name}" + (", int8" if int8_record(smallest) else ""),
                "value": percent(record),
            }
        )
    if smallest.tflite:
        cards.append(
            {"label": "smallest int8 file", "value": format_quantity(smallest.tflite.profile["file_bytes"], "bytes")}
        )
    fitting = sum(verdict["passed"] for verdict in verdicts)
    if verdicts:
        cards.append({"label": "of the device verdicts passed", "value": f"{fitting} / {len(verdicts)}"})
    return cards


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
