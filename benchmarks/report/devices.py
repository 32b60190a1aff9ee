# SPDX-License-Identifier: Apache-2.0
"""The blocks of the report that hold every network against every device class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgepress.benchmarks.estimate.estimate import estimate_latency
from edgepress.benchmarks.gate.gate import evaluate_gate
from edgepress.benchmarks.report import charts
from edgepress.benchmarks.report.gather import Network
from edgepress.benchmarks.report.shapes import Block, cell, choices_block, table, table_block
from edgepress.models.devices.device import DeviceClass
from edgepress.models.errors import RuntimeFailure
from edgepress.models.units import format_against, format_quantity

_STATES = {"failed": "over", "warned": "warns", "passed": "fits"}


def verdicts(networks: Sequence[Network], classes: Mapping[str, DeviceClass]) -> list[dict[str, Any]]:
    """The verdict on every int8 file for every device class, with "network" and "device" in it."""
    found = []
    for network in networks:
        if network.model_file:
            records = [record for file in network.files for record in file.accuracy.values()]
            for device in classes.values():
                verdict = evaluate_gate(network.model_file.profile, device=device, results=records, try_fixes=False)
                found.append({**verdict, "network": network.name, "device": device.name})
    return found


def estimates(networks: Sequence[Network], classes: Mapping[str, DeviceClass]) -> list[dict[str, Any]]:
    """Latency and energy of every int8 file on every device class: an `Estimate` as JSON with "network", "device"."""
    found = []
    for network in networks:
        if not network.model_file:
            continue
        for device in classes.values():
            try:
                estimate = asdict(estimate_latency(network.model_file.profile, device))
            except RuntimeFailure as error:
                estimate = {"latency_ms": None, "energy_uj": None, "source": "", "note": str(error)}
            found.append({**estimate, "network": network.name, "device": device.name})
    return found


def devices_block(found: Sequence[dict[str, Any]]) -> Block | None:
    """Device classes against networks: fits, warns or over, with the share of the limit that is nearest."""
    cells = {(verdict["network"], verdict["device"]): verdict for verdict in found}
    networks, devices = (list(dict.fromkeys(verdict[key] for verdict in found)) for key in ("network", "device"))
    rows = [
        [
            device,
            *(_state(cells[name, device]["checks"]) for name in networks),
            "; ".join(_complaints(cells, networks, device)) or "-",
        ]
        for device in devices
    ]
    return table_block(
        "Every device class at a glance",
        table(["device class", *networks, "what is over"], rows, wrap=[len(networks) + 1]),
        "The int8 TFLite file of each network. The percentage is the figure nearest to its limit; estimated latency "
        "only warns. Point at a cell for its figures.",
    )


def _state(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The worst status, and the largest share of a limit among the checks of that status."""
    shares = [(share, check) for check in checks if (share := share_of_limit(check)) is not None]
    state = next((_STATES[status] for status in _STATES if any(c["status"] == status for c in checks)), "")
    if not state:
        return cell("not checked", title="no figure of this class's limits is known for this file")
    nearest = max((share for share, check in shares if _STATES.get(check["status"]) == state), default=None)
    title = "; ".join(f"{check['metric']} {' of '.join(_texts(check))}" for _, check in shares)
    return cell(state + ("" if nearest is None else f" {_percent(nearest)}"), nearest, state, title)


def _percent(share: float) -> str:
    """A share in which "100 %" means exactly that."""
    text = f"{100 * share:.0f} %" if share >= 0.005 else "<1 %"
    return text if text != "100 %" or share == 1 else f"{100 * share:.7g} %"


def _complaints(cells: Mapping[tuple[str, str], Mapping[str, Any]], networks: Sequence[str], device: str) -> list[str]:
    found = [(name, cells[name, device]) for name in networks]
    return [
        text
        for status in ("failed", "warned")
        for name, verdict in found
        for text in complaints_of(verdict, name, status)
    ]


def complaints_of(verdict: Mapping[str, Any], name: str = "", status: str = "") -> list[str]:
    """What is over its limit, in words: "small: arena 70.0 kB over 64.0 kB".

    Args:
        verdict: of `edgepress.benchmarks.gate.gate.evaluate_gate`.
        name: of the network, written before each.
        status: "failed" or "warned" alone; "" takes both, failures first.
    """
    complaints = []
    for wanted, more in (("failed", ""), ("warned", " (warns)")):
        for check in verdict["checks"] if status in ("", wanted) else ():
            if check["status"] == wanted:
                what = f"{name}: {check['metric']}" if name else check["metric"]
                if check["value"] is None:
                    complaints.append(f"{what} not measured")
                else:
                    value, limit = _texts(check)
                    complaints.append(f"{what} {value} over {limit}{more}")
    return complaints


def share_of_limit(check: Mapping[str, Any]) -> float | None:
    """Value over limit where smaller is better, limit over value where larger is; None where one is not known."""
    value, limit = check["value"], check["limit"]
    if check["kind"] in ("min", "max_drop"):
        value, limit = limit, value
    return None if value is None or not limit else value / limit


def _texts(check: Mapping[str, Any]) -> tuple[str, str]:
    return format_against(check["value"], check["limit"], check["unit"])


def limits_block(found: Sequence[dict[str, Any]]) -> Block | None:
    """Every figure as a share of its limit, a chart for each network."""
    choices = []
    for network in dict.fromkeys(verdict["network"] for verdict in found):
        rows = []
        for verdict in found:
            for check in verdict["checks"] if verdict["network"] == network else ():
                share = share_of_limit(check)
                if share is None:
                    continue
                value, limit = _texts(check)
                rows.append(
                    {
                        "network": network,
                        "device": verdict["device"],
                        "metric": check["metric"],
                        "value": value,
                        "limit": limit,
                        "label": f"{verdict['device']}: {check['metric']}",
                        "share": share,
                        "verdict": _STATES[check["status"]],
                    }
                )
        if rows:
            choices.append({"name": network, "chart": charts.share_of_limits(rows)})
    return choices_block(
        "limits",
        "Figures against the limits",
        choices,
        "Each figure as a share of the limit of its device class; the dashed line is the limit.",
    )


def estimates_block(found: Sequence[dict[str, Any]]) -> Block | None:
    """Estimated latency on every device class: a number only where there is data, else the reason."""
    choices = []
    for network in dict.fromkeys(estimate["network"] for estimate in found):
        rows = [
            [
                own["device"],
                cell(format_quantity(own["latency_ms"], "ms"), own["latency_ms"]),
                _interval(own),
                cell(format_quantity(own["energy_uj"], "uJ"), own["energy_uj"]),
                "; ".join(part for part in (own["source"], own["note"]) if part),
            ]
            for own in found
            if own["network"] == network
        ]
        choices.append(
            {
                "name": network,
                "table": table(
                    ["device class", "latency", "interval", "energy", "from, or why no number"], rows, [1, 2, 3], [4]
                ),
            }
        )
    return choices_block(
        "estimates",
        "Estimated latency and energy",
        choices,
        "Of one inference of the int8 file: from published measurements, for Ethos-U by Arm's compiler Vela; energy "
        "where it was published. Nothing here was measured on the device.",
    )


def _interval(estimate: Mapping[str, Any]) -> str:
    bounds = [estimate.get(key) for key in ("low_ms", "high_ms")]
    return "-" if None in bounds else " to ".join(format_quantity(bound, "ms") for bound in bounds)
