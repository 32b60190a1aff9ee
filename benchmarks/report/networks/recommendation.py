# SPDX-License-Identifier: Apache-2.0
"""Which network to ship to each device class, and why: the first answer of the report.

The choice is that of `compress fit` (`edgepress.models.devices.choice`): of the networks whose file fits the class and
was measured on its runtime the most accurate one on the validation split, of equal ones the cheapest. The test split is
shown, and chooses only where nothing was validated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgepress.benchmarks.report.blocks import interval_of
from edgepress.benchmarks.report.devices import complaints_of
from edgepress.benchmarks.report.gather import Network
from edgepress.benchmarks.report.networks.overview import arena_bytes, cost_cell, file_bytes, macs_text, score_cell
from edgepress.benchmarks.report.shapes import Block, cell, table, table_block
from edgepress.models.devices.choice import Candidate, ranked
from edgepress.models.devices.device import DeviceClass, is_better_higher
from edgepress.models.tasks.kinds.table import metric_text, said
from edgepress.models.units import format_quantity

COLUMNS = ("device class", "ship", "MACs", "TFLite file", "TFLM arena", "latency", "test, int8", "why")


@dataclass(frozen=True)
class Recommendation:
    """What one device class gets.

    Attributes:
        device, runtime: the class and what stands for it.
        network: the network to ship, None where there is none.
        dense: the network that it was pruned from; None where it is dense itself.
        measured: the record of its file on the runtime of the class.
        latency_ms: estimated for the class; None where nothing was published.
        dense_latency_ms: of the dense network.
        why: why this one, or why none.
    """

    device: str
    runtime: str
    network: Network | None
    why: str
    dense: Network | None = None
    measured: Mapping[str, Any] | None = None
    latency_ms: float | None = None
    dense_latency_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """One entry of `benchmarks report --format json`."""
        metric, value = said(self.measured) if self.measured else (None, None)
        file = self.network.model_file if self.network else None
        return {
            "device": self.device,
            "runtime": self.runtime,
            "network": self.network.name if self.network else None,
            "dense": self.dense.name if self.dense else None,
            "file": str(file.path) if file else None,
            "sha256": file.profile.get("sha256") if file else None,
            "macs": self.network.macs if self.network else None,
            "file_bytes": file_bytes(self.network) if self.network else None,
            "arena_bytes": arena_bytes(self.network) if self.network else None,
            "latency_ms": self.latency_ms,
            "metric": metric,
            "test": value,
            "test_interval": (interval_of(dict(self.measured)) or None) if self.measured else None,
            "why": self.why,
        }


def recommendations(
    networks: Sequence[Network],
    classes: Mapping[str, DeviceClass],
    found: Sequence[Mapping[str, Any]],
    estimated: Sequence[Mapping[str, Any]],
) -> list[Recommendation]:
    """What each class gets.

    Args:
        networks: of the run.
        classes: name -> device class.
        found: verdicts, with "network" and "device" (`edgepress.benchmarks.report.devices.verdicts`).
        estimated: latencies, likewise.
    """
    verdicts = {(verdict["network"], verdict["device"]): verdict for verdict in found}
    latencies = {(one["network"], one["device"]): one.get("latency_ms") for one in estimated}
    by_name = {network.name: network for network in networks}
    made = []
    for device in classes.values():
        split = "validation" if any(_validated(network) for network in networks) else "test"
        candidates = [_candidate(network, device, verdicts, split) for network in networks]
        order = ranked(candidates)
        if not order:
            made.append(Recommendation(device.name, device.runtime, None, _why_none(networks, device, verdicts)))
            continue
        network = by_name[order[0].name]
        dense = by_name.get(network.dense or "")
        why = _why(order, candidates, split, by_name, device.runtime)
        warned = [text for text in complaints_of(verdicts[network.name, device.name]) if "(warns)" in text]
        made.append(
            Recommendation(
                device.name,
                device.runtime,
                network,
                "; ".join([why, *warned]),
                dense,
                _on_runtime(network, device.runtime),
                latencies.get((network.name, device.name)),
                latencies.get((dense.name, device.name)) if dense else None,
            )
        )
    return made


def _on_runtime(network: Network, runtime: str) -> dict[str, Any] | None:
    """The record of the file that stands for the network, on this runtime."""
    record = network.model_file.accuracy.get(runtime) if network.model_file else None
    return record if record and said(record)[1] is not None else None


def _validated(network: Network) -> dict[str, Any] | None:
    """Its record on the validation split, in integers where that was measured."""
    return (network.integers or {}).get("validation") or network.metrics.get("validation")


def _candidate(
    network: Network, device: DeviceClass, verdicts: Mapping[tuple[str, str], Mapping[str, Any]], split: str
) -> Candidate:
    measured = _on_runtime(network, device.runtime)
    record = _validated(network) if split == "validation" else measured
    metric, score = said(record) if record else ("accuracy", None)
    verdict = verdicts.get((network.name, device.name))
    return Candidate(
        network.name,
        score,
        network.macs,
        file_bytes(network) or 0,
        fits=verdict is not None and bool(verdict["passed"]),
        measured=measured is not None,
        higher=is_better_higher(f"metric.{metric}") is not False,
    )


def _why(
    order: Sequence[Candidate],
    candidates: Sequence[Candidate],
    split: str,
    by_name: Mapping[str, Network],
    runtime: str,
) -> str:
    first, rest = order[0], order[1:]
    record = _validated(by_name[first.name]) if split == "validation" else _on_runtime(by_name[first.name], runtime)
    metric = said(record)[0] if record else "accuracy"
    score = f"{metric.replace('_', ' ')} {metric_text(metric, first.score)} on {split}"
    unmeasured = [one.name for one in candidates if one.fits and not one.eligible]
    equal = [one for one in rest if one.score == first.score]
    if not rest:
        why = f"the only one that fits and was measured, {score}"
    elif equal:
        why = f"as good as {_listed([one.name for one in equal])} ({score}) and cheaper"
        why += f", best of {len(order)} that fit" if len(order) > len(equal) + 1 else ""
    else:
        why = f"the best of {len(order)} that fit: {score}, next {rest[0].name} {metric_text(metric, rest[0].score)}"
    # What a reader would like to know before a larger network is shipped for a difference that was not shown.
    cheaper = [one for one in rest if one.macs < first.macs and _within(by_name, first, one, runtime)]
    if cheaper:
        least = min(cheaper, key=lambda one: one.macs)
        why += (
            f". On the test split {least.name} is not told apart from it (95 % intervals overlap) and has "
            f"{100 * (1 - least.macs / first.macs):.0f} % fewer MACs"
        )
    if unmeasured:
        why += f". Not considered, since not measured on {runtime}: {_listed(unmeasured)}"
    return why


def _within(by_name: Mapping[str, Network], first: Candidate, other: Candidate, runtime: str) -> bool:
    ends = [interval_of(_on_runtime(by_name[one.name], runtime) or {}) for one in (first, other)]
    return bool(ends[0] and ends[1]) and ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1]


def _why_none(
    networks: Sequence[Network], device: DeviceClass, verdicts: Mapping[tuple[str, str], Mapping[str, Any]]
) -> str:
    judged = [network for network in networks if (network.name, device.name) in verdicts]
    if not judged:
        return "no int8 file was exported: `deploy export` makes one"
    fitting = [network for network in judged if verdicts[network.name, device.name]["passed"]]
    if fitting:
        names = _listed([network.name for network in fitting])
        how = f"`benchmarks run FILE --data DATA --runtime {device.runtime}`"
        return f"{names} would fit, but nothing was measured on {device.runtime}: {how}"
    # The largest come first: the smallest network is the nearest to fitting.
    smallest = judged[-1]
    return "none fits; " + "; ".join(complaints_of(verdicts[smallest.name, device.name], smallest.name))


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def recommendation_block(found: Sequence[Recommendation], named: bool = True) -> Block | None:
    """The answer as a table.

    Args:
        found: one for each class.
        named: whether the run, or the caller, named these classes; otherwise they are all there are.
    """
    return table_block(
        "Which one do I ship?",
        table(COLUMNS, [_row(one) for one in found], range(2, 7), wrap=[7]),
        "For each device class the most accurate network on validation whose int8 file fits and was measured on the "
        "runtime of the class; of equal ones the cheapest. Below each figure is its difference from the dense network."
        + ("" if named else " The run names no device class; these are all that are known."),
    )


def _row(one: Recommendation) -> list[Any]:
    if one.network is None:
        return [one.device, cell("none", kind="over"), "-", "-", "-", "-", "-", one.why]
    size, arena = file_bytes(one.network), arena_bytes(one.network)
    before = one.dense
    return [
        one.device,
        cell(one.network.name, kind="fits", below="" if before else "not pruned"),
        cost_cell(one.network.macs, before.macs if before else None, macs_text(one.network.macs)),
        cost_cell(size, file_bytes(before) if before else None, format_quantity(size, "bytes")),
        cost_cell(arena, arena_bytes(before) if before else None, format_quantity(arena, "bytes")),
        cost_cell(one.latency_ms, one.dense_latency_ms, format_quantity(one.latency_ms, "ms")),
        score_cell(one.measured, _on_runtime(before, one.runtime) if before else None),
        one.why,
    ]


def recommendation_rows(found: Sequence[Recommendation]) -> list[list[str]]:
    """The answer for a terminal, as `COLUMNS` says; the differences stand in brackets."""
    return [[_text(part) for part in _row(one)] for one in found]


def _text(part: Any) -> str:
    if not isinstance(part, dict):
        return str(part)
    return part["text"] + (f" ({part['below']})" if part["below"] else "")
