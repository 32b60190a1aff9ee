# SPDX-License-Identifier: Apache-2.0
"""The HTML report of a run: its blocks, for the device classes that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.benchmarks.report.blocks import (
    confusion_block,
    int8_record,
    layers_block,
    making_block,
    memory_block,
    metric_of,
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
from edgepress.benchmarks.report.networks.fronts import accuracy_block
from edgepress.benchmarks.report.networks.overview import overview_block
from edgepress.benchmarks.report.networks.recommendation import Recommendation, recommendation_block, recommendations
from edgepress.benchmarks.report.page import render_page
from edgepress.benchmarks.report.shapes import Block
from edgepress.benchmarks.report.teacher_tables import blocks
from edgepress.models.atomic import write_text
from edgepress.models.devices.classes import device_classes, pick
from edgepress.models.devices.device import DeviceClass
from edgepress.models.run_directory import DEFAULT_RUN, RunDirectory
from edgepress.models.units import format_quantity


def write_report(
    run: str | Path = DEFAULT_RUN,
    output: str | Path | None = None,
    *,
    history: Sequence[str | Path] = (),
    budgets: str | Path | None = None,
    device: Sequence[str] = (),
) -> Path:
    """Write the report of a run directory; an older report of the same run is replaced.

    Args:
        run: the run directory.
        output: the page; default RUN/report.html.
        history: further run directories or files of results, whose measurements are shown beside those of the run.
        budgets: a budgets.toml; its own device classes are shown beside those of the run.
        device: names of the device classes to show, "all" for every one; none takes those that the run names.

    Returns:
        The path of the page.

    Raises:
        UsageError: the run holds no trained network, a source is damaged, or the page cannot be written.
    """
    return report(run, output, history=history, budgets=budgets, device=device)[0]


def report(
    run: str | Path = DEFAULT_RUN,
    output: str | Path | None = None,
    *,
    history: Sequence[str | Path] = (),
    budgets: str | Path | None = None,
    device: Sequence[str] = (),
) -> tuple[Path, list[Recommendation]]:
    """`write_report`, and what it recommends for each device class."""
    folder = RunDirectory(run)
    page = Path(output) if output else folder.path / "report.html"
    networks = gather(folder)
    classes, named = classes_to_show(folder, networks, device, budgets)
    measured = read_history([*history, folder.path])
    found = findings(networks, str(folder.path), classes, named)
    return write_text(page, render(found, measured, blocks(folder))), found.recommended


def classes_to_show(
    run: RunDirectory, networks: Sequence[Network], device: Sequence[str] = (), budgets: str | Path | None = None
) -> tuple[dict[str, DeviceClass], bool]:
    """The device classes of a report by name, and whether anybody named them.

    Those that were asked for; else those that the run was made for: that its files were held against, that its
    networks were pruned for, or that its recipe names, with a budgets.toml's own. A run that names none gets all.

    Raises:
        UsageError: an unknown class was asked for; bad budgets.
    """
    from edgepress.compress.pipeline.run import judged_classes
    from edgepress.models.checkpoints.checkpoint import read_spec
    from edgepress.models.devices.classes import read_budgets

    known = device_classes(budgets)
    if "all" in device:
        return known, True
    if device:
        return {name: pick(name, known) for name in device}, True
    names: dict[Any, None] = {}
    for entry in run.entries("checkpoint"):
        recipe = read_spec(entry["path"]).notes.get("recipe")
        if isinstance(recipe, dict):
            names |= dict.fromkeys([recipe.get("device"), *((recipe.get("measure") or {}).get("devices") or ())])
    for network in networks:
        names |= dict.fromkeys([((network.metrics.get("prune") or {}).get("limits") or {}).get("device")])
    names |= dict.fromkeys(judged_classes(run))
    if budgets is not None:
        names |= dict.fromkeys(read_budgets(budgets).own)
    found = {name: known[name] for name in names if name in known}
    return (found, True) if found else (known, False)


@dataclass(frozen=True)
class Findings:
    """What a page shows of the networks of a run.

    Attributes:
        networks: the largest first.
        run: where they are.
        verdicts, estimates: of every file on every class (`edgepress.benchmarks.report.devices`).
        recommended: what each class gets.
        named: whether anybody named these classes.
    """

    networks: Sequence[Network]
    run: str
    verdicts: list[dict[str, Any]]
    estimates: list[dict[str, Any]]
    recommended: list[Recommendation]
    named: bool


def findings(
    networks: Sequence[Network], run: str, classes: Mapping[str, DeviceClass] | None = None, named: bool = False
) -> Findings:
    """Hold the networks against device classes; None takes the shipped ones."""
    known = device_classes() if classes is None else classes
    found, estimated = verdicts(networks, known), estimates(networks, known)
    return Findings(networks, run, found, estimated, recommendations(networks, known, found, estimated), named)


def render(
    found: Findings, measured: Sequence[Mapping[str, Any]] = (), teachers: Sequence[Sequence[Block | None]] = ()
) -> str:
    """The page as HTML, rows of blocks about its teachers included; every name in it is escaped."""
    networks = found.networks
    rows: list[Sequence[Block | None]] = [
        [recommendation_block(found.recommended, found.named)],
        [overview_block(networks)],
        [accuracy_block(networks), recording_devices_block(networks)],
        [devices_block(found.verdicts)],
        [estimates_block(found.estimates)],
        [limits_block(found.verdicts), confusion_block(networks)],
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
    return render_page(rows, title=title, subtitle=_subtitle(data, found.run), cards=_cards(networks, found.verdicts))


def _subtitle(data: dict[str, Any], run: str) -> str:
    clips = ", ".join(f"{count:,} {split}" for split, count in (data.get("clips") or {}).items())
    return f"run {run}; data {data.get('source') or data.get('task', '-')}" + (f" ({clips} clips)" if clips else "")


def _macs(network: Network) -> str:
    return format_quantity(network.macs, "macs")


def _cards(networks: Sequence[Network], found: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    dense, smallest = networks[0], networks[-1]
    cards = [
        {
            "label": f"networks, from {_macs(dense)} to {_macs(smallest)} MACs",
            "value": str(len(networks)),
        }
    ]
    if dense.metrics.get("test"):
        cards.append({"label": f"{metric_of(networks)} of {dense.name}, fp32", "value": percent(dense.metrics["test"])})
    if smallest is not dense and (record := int8_record(smallest) or smallest.metrics.get("test")):
        cards.append(
            {
                "label": f"{metric_of(networks)} of {smallest.name}" + (", int8" if int8_record(smallest) else ""),
                "value": percent(record),
            }
        )
    if smallest.model_file:
        cards.append(
            {
                "label": "smallest int8 file",
                "value": format_quantity(smallest.model_file.profile["file_bytes"], "bytes"),
            }
        )
    fitting = sum(verdict["passed"] for verdict in found)
    if found:
        cards.append({"label": "of the device verdicts passed", "value": f"{fitting} / {len(found)}"})
    return cards
