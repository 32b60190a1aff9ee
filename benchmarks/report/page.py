# SPDX-License-Identifier: Apache-2.0
"""The HTML report of a run: one page that works without a network and without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepress.benchmarks.report.blocks import (
    accuracy_block,
    confusion_block,
    int8_record,
    layers_block,
    making_block,
    memory_block,
    overview_block,
    parity_block,
    percent,
    recording_devices_block,
    runtimes_block,
    training_block,
    versions_block,
)
from edgepress.benchmarks.report.devices import devices_block, estimates, estimates_block, limits_block, verdicts
from edgepress.benchmarks.report.gather import Network, gather
from edgepress.benchmarks.report.history import history_block, read_history
from edgepress.benchmarks.report.shapes import Block
from edgepress.benchmarks.report.teacher_tables import blocks
from edgepress.models.atomic import write_text
from edgepress.models.devices.classes import device_classes
from edgepress.models.devices.device import DeviceClass
from edgepress.models.run_directory import DEFAULT_RUN, RunDirectory
from edgepress.models.units import format_quantity

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    run: str | Path = DEFAULT_RUN,
    output: str | Path | None = None,
    *,
    history: Sequence[str | Path] = (),
    budgets: str | Path | None = None,
) -> Path:
    """Write the report of a run directory; an older report of the same run is replaced.

    Args:
        run: the run directory.
        output: the page; default RUN/report.html.
        history: further run directories or files of results, whose measurements are shown beside those of the run.
        budgets: a budgets.toml, whose device classes are shown beside the shipped ones.

    Returns:
        The path of the page.

    Raises:
        UsageError: the run holds no trained network, a source is damaged, or the page cannot be written.
    """
    folder = RunDirectory(run)
    page = Path(output) if output else folder.path / "report.html"
    networks = gather(folder)
    measured = read_history([*history, folder.path])
    return write_text(page, render(networks, str(folder.path), measured, device_classes(budgets), blocks(folder)))


def render(
    networks: Sequence[Network],
    run: str,
    measured: Sequence[Mapping[str, Any]] = (),
    classes: Mapping[str, DeviceClass] | None = None,
    teachers: Sequence[Sequence[Block | None]] = (),
) -> str:
    """The page as HTML, rows of blocks about its teachers included; every name in it is escaped."""
    known = device_classes() if classes is None else classes
    found = verdicts(networks, known)
    rows: list[Sequence[Block | None]] = [
        [overview_block(networks)],
        [accuracy_block(networks), recording_devices_block(networks)],
        [devices_block(found)],
        [estimates_block(estimates(networks, known))],
        [limits_block(found), confusion_block(networks)],
        [layers_block(networks)],
        [memory_block(networks), training_block(networks)],
        [runtimes_block(networks)],
        [parity_block(networks)],
        *teachers,
        [history_block(measured)],
        [making_block(networks)],
        [versions_block(networks)],
    ]
    data = next((network.metrics["data"] for network in networks if network.metrics.get("data")), {})
    title = f"edgepress report: {data.get('task', 'no task')}"
    return render_page(rows, title=title, subtitle=_subtitle(data, run), cards=_cards(networks, found))


def render_page(
    rows: Sequence[Sequence[Block | None]], *, title: str, subtitle: str, cards: list[dict[str, str]]
) -> str:
    """Rows of blocks (None is left out) as one HTML page; every text in it is escaped."""
    import vl_convert
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    shown = [[block for block in row if block] for row in rows]
    figures = {
        f"{block['id']}-chart": [choice.get("chart") for choice in block.get("choices") or []] or [block["chart"]]
        for row in shown
        for block in row
        if block.get("chart") or block.get("choices")
    }
    template = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")
    return template.render(
        title=title,
        subtitle=subtitle,
        cards=cards,
        rows=[row for row in shown if row],
        figures=figures,
        bundle=vl_convert.javascript_bundle(),  # pyright: ignore[reportCallIssue]  # its stub has no default
        footer="MACs count under the rule dcase unless another is named: weights and biases times output positions, "
        "after BatchNorm is folded. Intervals are 95 %, over recordings where they are known, else Wilson's.",
    )


def _subtitle(data: dict[str, Any], run: str) -> str:
    clips = ", ".join(f"{count:,} {split}" for split, count in (data.get("clips") or {}).items())
    return f"run {run}; data {data.get('source') or data.get('task', '-')}" + (f" ({clips} clips)" if clips else "")


def _cards(networks: Sequence[Network], found: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
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
    fitting = sum(verdict["passed"] for verdict in found)
    if found:
        cards.append({"label": "of the device verdicts passed", "value": f"{fitting} / {len(found)}"})
    return cards
