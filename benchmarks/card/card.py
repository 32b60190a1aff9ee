# SPDX-License-Identifier: Apache-2.0
"""The result card of a model: what one attaches to a release, as a page that needs no network and as Markdown.

It shows what the profile, the manifest, the checkpoint and measured results say, by the blocks of the report. What was
not measured is said to be so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.benchmarks.card.blocks import (
    accuracy_block,
    accuracy_by_block,
    cost_block,
    identity_block,
    metrics_block,
    moments_block,
    provenance_block,
)
from edgepress.benchmarks.measure.manifests import manifest_beside
from edgepress.benchmarks.report.blocks import (
    confusion_block,
    int8_record,
    layers_block,
    memory_block,
    parity_block,
)
from edgepress.benchmarks.report.devices import devices_block, estimates, estimates_block, limits_block, verdicts
from edgepress.benchmarks.report.gather import File, Network, accuracy_by_runtime
from edgepress.benchmarks.report.shapes import Block
from edgepress.models.devices.device import DeviceClass
from edgepress.models.errors import EdgepressError, UsageError
from edgepress.models.units import format_quantity

#: Random inputs of a parity that is measured here, where no export has.
_SAMPLES = 16
_GROUPS = (("by_class", "class"), ("by_recording_device", "recording device"))
_AT_A_GLANCE = (
    "The percentage is the figure nearest to its limit; estimated latency only warns. Challenges say what a file may "
    "cost, the other classes are machines."
)
_LAYERS = "Every operator with its MACs under the rule core and the bytes that are alive while it runs."
#: Beside files, manifests and results of others, what a card is called.
PAGE, TEXT = ".card.html", ".card.md"


@dataclass(frozen=True)
class Card:
    """What a card shows.

    Attributes:
        title, subtitle: its head.
        figures: the few that matter most: {"value", "label"} each.
        rows: blocks side by side; None is left out.
    """

    title: str
    subtitle: str
    figures: list[dict[str, str]]
    rows: list[list[Block | None]]


def result_card(
    path: str | Path,
    *,
    results: Sequence[Mapping[str, Any]] = (),
    classes: Mapping[str, DeviceClass] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    verify: bool = True,
    trust: bool = False,
) -> Card:
    """The card of a .tflite or .onnx file, or of a checkpoint.

    Args:
        path: the model.
        results: measured results (`edgepress.benchmarks.measure.result_log`); those of other models are passed over.
        classes: the device classes; None takes the shipped ones.
        shapes: input -> sizes, in place of those that the file leaves open.
        verify: compare the runtimes on random inputs where the export has not said how they agree.
        trust: whether a checkpoint may run the code of its own factory.

    Raises:
        UsageError: the model is missing or damaged.
    """
    from edgepress.benchmarks.measure.profiling import profile_of
    from edgepress.models.devices.classes import device_classes

    path = Path(path)
    profile = profile_of(path, True, shapes, trust)
    manifest = manifest_beside(path)
    if manifest.get("sha256") != profile["sha256"]:
        manifest = {}
    own = [dict(record) for record in results if record.get("sha256") == profile["sha256"]]
    parity_note = ""
    if not manifest.get("parity") and verify and path.is_file():
        measured, parity_note = _parity(path)
        manifest = {**manifest, "parity": measured}
    file = File(path, manifest, profile, accuracy_by_runtime(own, profile["sha256"]))
    metrics = _metrics(path, manifest)
    network = Network(path.stem if path.is_file() else path.name, metrics, None, (file,), subject=file)
    networks = (network,)
    known = device_classes() if classes is None else classes
    found = verdicts(networks, known)
    return Card(
        path.name,
        _subtitle(file, metrics),
        _figures(file, network, found),
        [
            [identity_block(file, metrics), cost_block(file)],
            [accuracy_block(file, own)],
            [metrics_block(own)],
            [accuracy_by_block(file, key, what) for key, what in _GROUPS],
            [confusion_block(networks)],
            [_said(devices_block(found), _AT_A_GLANCE), limits_block(found)],
            [estimates_block(estimates(networks, known))],
            [memory_block(networks), moments_block(file)],
            [_said(layers_block(networks), _LAYERS)],
            [parity_block(networks) or _unmeasured_parity(parity_note)],
            [provenance_block(file, metrics, own)],
        ],
    )


def _metrics(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of the checkpoint that a file was made from, where it is still there as it was; else {}."""
    from edgepress.deploy.verify.parity import checkpoint_of
    from edgepress.models.checkpoints.checkpoint import read_metrics
    from edgepress.models.files.reading import check
    from edgepress.models.records import Metrics

    folder = path if path.is_dir() else checkpoint_of(path, dict(manifest), [])
    if folder is None:
        return {}
    try:
        return dict(check(read_metrics(folder), f"{folder}/metrics.json", Metrics))
    except UsageError:
        return {}


def _parity(path: Path) -> tuple[dict[str, Any] | None, str]:
    """(figures as in a manifest, or None, why there are none)."""
    from edgepress.deploy.verify.parity import verdict_text, verify

    try:
        report = verify(path, random_samples=_SAMPLES)
    except EdgepressError as error:
        return None, str(error)
    # Without data the pairs are those of noise.
    kind = "pairs" if report["inputs"]["source"] != "random" else "random_pairs"
    pairs = {"pairs": [], "random_pairs": report["random_pairs"], kind: report["pairs"]}
    return pairs, verdict_text(report)


def _said(block: Block | None, text: str) -> Block | None:
    """A block of the report, whose text speaks of many networks, with one of its own."""
    return None if block is None else {**block, "text": text}


def _unmeasured_parity(note: str) -> Block:
    return {"title": "Parity", "text": f"Not measured: {note or 'nothing was compared'}."}


def _subtitle(file: File, metrics: Mapping[str, Any]) -> str:
    data = next((record.get("data") or {} for record in file.accuracy.values()), metrics.get("data") or {})
    parts = [f"{file.profile['format']} file" if file.path.is_file() else "checkpoint"]
    parts += [f"scheme {file.manifest['scheme']}"] if file.manifest.get("scheme") else []
    parts += [f"data {name}"] if (name := data.get("name") or data.get("task")) else []
    return f"Result card by edgepress; {', '.join(parts)}; SHA-256 {file.profile['sha256'][:16]}..."


def _figures(file: File, network: Network, found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    from edgepress.models.tasks.kinds.table import metric_text, said

    profile = file.profile
    macs, arena = profile["macs"].get("dcase"), profile["arena_bytes"].get("tflm")
    figures = []
    if record := int8_record(network):
        metric, value = said(record)
        label = f"{metric} on {record['runtime']}, {record.get('total', '?')} samples"
        figures.append({"value": metric_text(metric, value), "label": label})
    figures += [{"value": format_quantity(macs, "macs"), "label": "MACs (dcase)"}] if macs is not None else []
    figures.append({"value": format_quantity(profile["file_bytes"], "bytes"), "label": "file"})
    figures.append({"value": f"{profile['params']:,}", "label": "parameters"})
    figures += [{"value": format_quantity(arena, "bytes"), "label": "TFLite Micro arena"}] if arena is not None else []
    if found:
        passed = sum(verdict["passed"] for verdict in found)
        figures.append({"value": f"{passed} / {len(found)}", "label": "device classes passed"})
    return figures


def card_paths(model: Path, output: Path | None) -> tuple[Path, Path]:
    """(page, text) of a model: beside it, or by the name of one of them."""
    if output is None:
        return model.with_name(model.name + PAGE), model.with_name(model.name + TEXT)
    base = output.with_suffix("") if output.suffix in (".html", ".md") else output
    return base.with_name(base.name + ".html"), base.with_name(base.name + ".md")


def as_html(card: Card) -> str:
    """The page; every text in it is escaped."""
    from edgepress.benchmarks.report.page import render_page

    return render_page(card.rows, title=card.title, subtitle=card.subtitle, cards=card.figures)
