# SPDX-License-Identifier: Apache-2.0
"""The table of all networks, each figure with its difference from the dense network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgepress.benchmarks.report.blocks import capital, int8_record, metric_of, percent
from edgepress.benchmarks.report.gather import Network, gather
from edgepress.benchmarks.report.shapes import Block, cell, table, table_block
from edgepress.benchmarks.report.teacher_tables import Table
from edgepress.models.run_directory import RunDirectory
from edgepress.models.tasks.kinds.table import find_metric, said
from edgepress.models.units import format_quantity

_COLUMNS = (
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
)
_OF_SOME_TASKS = ("log loss, fp32", "log loss, int8", "unseen, fp32", "unseen, int8")


def overview_block(networks: Sequence[Network]) -> Block | None:
    """All networks; those that were pruned with what that changed, and the dense ones marked."""
    by_name = {network.name: network for network in networks}
    dense = {network.dense for network in networks if network.dense in by_name}
    rows = []
    for network in networks:
        before = by_name.get(network.dense or "")
        name = cell(network.name, below="the dense network") if network.name in dense else cell(network.name)
        rows.append([name, *(column(network, before) for column in _FIGURES)])
    marked = [number for number, network in enumerate(networks) if network.name in dense]
    # What this kind of task or data has nothing of; what was not measured keeps its column.
    shown = [
        index
        for index, title in enumerate(_COLUMNS)
        if title not in _OF_SOME_TASKS or any(row[index]["text"] != "-" for row in rows)
    ]
    devices = ", and on recording devices unseen in training" if "unseen, fp32" in (_COLUMNS[i] for i in shown) else ""
    return table_block(
        "All networks",
        table(
            [_COLUMNS[index] for index in shown],
            [[row[index] for index in shown] for row in rows],
            range(1, len(shown)),
            marked=marked,
        ),
        f"{capital(metric_of(networks))} on the test split{devices}; the epoch was chosen on the validation split. "
        "Below each figure is its difference from that of the dense network, which is marked. A column's head sorts.",
    )


def model_table(directory: RunDirectory) -> Table:
    """The networks of a run, the largest first: MACs, parameters, sizes, accuracy in float and in integers."""
    found = overview_block(gather(directory, arena=False))
    assert found is not None, "a run that is gathered has a network"
    rows = [[cell["text"] if isinstance(cell, dict) else cell for cell in row] for row in found["table"]["rows"]]
    return Table(found["title"], tuple(found["table"]["columns"]), rows)


def cost_cell(value: float | None, before: float | None, text: str, unit: str = "") -> dict[str, Any]:
    """A cost as a cell, with its change relative to another network's.

    Args:
        value, before: of this network and of the dense one; None where it is not known, or there is no dense one.
        text: how it is written.
        unit: of the title.
    """
    if value is None or not before:
        return cell(text, value)
    return cell(
        text, value, below=f"{100 * (value / before - 1):+.1f} %", title=f"{value:,} of {before:,} {unit}".strip()
    )


def score_cell(record: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The first figure of a record as a cell, with its difference in points, or in what it is measured in."""
    if not record:
        return cell("-")
    name, value = said(record)
    return cell(percent(dict(record)), value, below=_difference(name, value, said(before)[1] if before else None))


def _difference(name: str, value: float | None, before: float | None) -> str:
    if value is None or before is None:
        return ""
    metric = find_metric(name)
    if metric is not None and metric.unit == "fraction":
        return f"{100 * (value - before):+.2f} points"
    return f"{value - before:+.3f}"


def _cost(of: Callable[[Network], float | None], write: Callable[[float], str]) -> Any:
    def column(network: Network, before: Network | None) -> dict[str, Any]:
        value = of(network)
        return cost_cell(value, of(before) if before else None, "-" if value is None else write(value))

    return column


def _score(of: Callable[[Network], Mapping[str, Any] | None]) -> Any:
    def column(network: Network, before: Network | None) -> dict[str, Any]:
        return score_cell(of(network), of(before) if before else None)

    return column


def _log_loss(of: Callable[[Network], Mapping[str, Any] | None]) -> Any:
    def column(network: Network, before: Network | None) -> dict[str, Any]:
        value, then = ((of(one) or {}).get("log_loss") if one else None for one in (network, before))
        below = "" if value is None or then is None else f"{value - then:+.3f}"
        return cell("-" if value is None else f"{value:.3f}", value, below=below)

    return column


def _test(network: Network) -> Mapping[str, Any] | None:
    return network.metrics.get("test")


def _unseen(of: Callable[[Network], Mapping[str, Any] | None]) -> Callable[[Network], Mapping[str, Any] | None]:
    return lambda network: (of(network) or {}).get("unseen_devices")


def file_bytes(network: Network) -> int | None:
    """Bytes of the int8 file; None where there is none."""
    return network.model_file.profile["file_bytes"] if network.model_file else None


def arena_bytes(network: Network) -> int | None:
    """TFLite Micro's arena of the int8 file; None where it was not measured."""
    return (network.model_file.profile.get("arena_bytes") or {}).get("tflm") if network.model_file else None


def macs_text(value: float) -> str:
    """Three digits of a million where there are any: networks that are held to one budget differ in the last."""
    return f"{value / 1e6:.3f} M" if value >= 1e5 else format_quantity(value, "macs")


def _bytes(value: float) -> str:
    return format_quantity(value, "bytes")


#: A column of the table: from a network and its dense one, None without.
_FIGURES: tuple[Callable[[Network, Network | None], dict[str, Any]], ...] = (
    _cost(lambda network: network.macs, macs_text),
    _cost(lambda network: network.metrics["cost"]["params"], lambda value: f"{value:,}"),
    _cost(lambda network: network.metrics["cost"]["weight_bytes"], _bytes),
    _cost(file_bytes, _bytes),
    _cost(arena_bytes, _bytes),
    _score(_test),
    _score(int8_record),
    _log_loss(_test),
    _log_loss(int8_record),
    _score(_unseen(_test)),
    _score(_unseen(int8_record)),
)
