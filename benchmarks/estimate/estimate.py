# SPDX-License-Identifier: Apache-2.0
"""Latency and energy on device classes, estimated from published systems, with an error bar; no data, no number.

The coefficients are those of `edgepress.models.footprint.latency`. For Ethos-U the estimate is that of Arm's compiler
Vela, with its version, system configuration and memory mode.
"""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.benchmarks.measure.profiles import is_float, layer_macs
from edgepress.models.children import bound
from edgepress.models.devices.device import DeviceClass
from edgepress.models.errors import RuntimeFailure
from edgepress.models.footprint.latency import UNCOVERED, applied, interval, systems_table, usable_systems
from edgepress.models.terminal.installation import how_to_install
from edgepress.models.units import format_quantity

_VELA_SECONDS = 120
#: The span of MACs of the models that the coefficients come from, widened by a factor of four.
_SMALLEST_MACS, _LARGEST_MACS = 264_192 / 4, 12_501_632 * 4


@dataclass(frozen=True)
class Estimate:
    """An estimate, or the reason why there is none.

    Attributes:
        latency_ms, low_ms, high_ms: of one inference and its interval; None where there is no data.
        energy_uj: of one inference in microjoules; None where none was published.
        source: the systems or the compiler behind it.
        note: interval, provenance, what weakens it, or why there is no number.
        others: system -> ms for the other published engines of the class.
    """

    latency_ms: float | None
    low_ms: float | None = None
    high_ms: float | None = None
    energy_uj: float | None = None
    source: str = ""
    note: str = ""
    others: tuple[tuple[str, float], ...] = ()


def work_of(profile: Mapping[str, Any]) -> tuple[dict[str, int], int, int]:
    """What the model has to compute.

    Returns:
        MACs by kind ("conv", "depthwise", "dense"); outputs of convolutions; MACs of other kinds.
    """
    macs = {"conv": 0, "depthwise": 0, "dense": 0}
    outputs = other = 0
    for layer in profile.get("layers") or []:
        count, kind = layer_macs(layer, "core"), layer_kind(layer)
        if kind in macs:
            macs[kind] += count
        else:
            other += count
        if kind == "conv":
            shape = layer.get("output_shape") or ()
            outputs += math.prod(int(size) for size in shape if int(size) > 0)
    return macs, outputs, other


def layer_kind(layer: Mapping[str, Any]) -> str:
    """ "conv", "depthwise", "dense" or "other" for a layer of a profile."""
    if layer.get("kind"):
        return str(layer["kind"])
    name = str(layer.get("operator", "")).upper().replace("_", "")
    if "TRANSPOSECONV" in name or "CONVTRANSPOSE" in name:
        return "other"
    if "DEPTHWISE" in name:
        return "depthwise"
    if "CONV" in name:
        return "conv"
    return "dense" if any(word in name for word in ("FULLYCONNECTED", "DENSE", "GEMM", "LINEAR", "MATMUL")) else "other"


def estimate_latency(profile: Mapping[str, Any], device: DeviceClass) -> Estimate:
    """Latency, and energy where it was published, of an int8 model on a device class.

    Raises:
        RuntimeFailure: Vela failed on the file.
    """
    if device.vela:
        return _vela_estimate(profile, device)
    if not device.latency_systems:
        return Estimate(None, note="no published measurements stand for this class, so there is no number")
    if is_float(profile):
        return Estimate(
            None, note="the published measurements are of int8 models and this one is float: export it in int8"
        )
    unknown = [found["operator"] for found in profile.get("uncountable") or () if "core" in found["rules"]]
    if unknown:
        return Estimate(None, note=f"MACs of {', '.join(unknown)} cannot be counted, so there is no number")
    macs, outputs, other = work_of(profile)
    total = sum(macs.values()) + other
    if not total:
        return Estimate(None, note="the profile has no layers with MACs to estimate from")
    if other > UNCOVERED * total:
        return Estimate(
            None,
            note=f"{other / total:.0%} of the MACs are of kinds that were never measured (neither "
            "convolution nor dense), so there is no number",
        )
    table = systems_table()
    cost = table["latency_us"]["output_cost"]
    names, refused = usable_systems(device)
    usable = [(name, applied(table["latency_us"]["systems"][name], macs, outputs, cost) / 1e6) for name in names]
    if not usable:
        return Estimate(None, note="; ".join(refused) + ": no number is given")
    name, latency_ms = usable[0]
    system = table["latency_us"]["systems"][name]
    factor, claim_note = interval(table["latency_us"], system, table["claim"])
    energy = table["energy_uj"]["systems"].get(name)
    notes = [claim_note]
    if not _SMALLEST_MACS <= total <= _LARGEST_MACS:
        notes.append(f"{format_quantity(total, 'macs')} MACs are far outside of what was measured (0.26 to 12.5 M)")
    if len(usable) > 1:
        notes.append(
            "other engines: " + ", ".join(f"{other_name} {format_quantity(ms, 'ms')}" for other_name, ms in usable[1:])
        )
    return Estimate(
        latency_ms,
        latency_ms / factor,
        latency_ms * factor,
        None if energy is None else applied(energy, macs, outputs, table["energy_uj"]["output_cost"]) / 1e3,
        f"published results of {name}",
        "; ".join(notes),
        tuple(usable[1:]),
    )


def _vela_estimate(profile: Mapping[str, Any], device: DeviceClass) -> Estimate:
    path = Path(str(profile.get("file", "")))
    if path.suffix != ".tflite" or not path.is_file():
        return Estimate(None, note="Vela estimates .tflite files only: export one")
    from importlib import metadata

    try:
        version = metadata.version("ethos-u-vela")
    except metadata.PackageNotFoundError:
        return Estimate(None, note=f"Vela is not installed ({how_to_install('ethosu')}), so there is no number")
    settings = device.vela or {}
    figures = run_vela(path, **settings)
    words = f"Vela {version}, {settings['accelerator']}, {settings['system_config']}, {settings['memory_mode']}"
    seconds = figures.get("inference_time")
    if seconds is None or not math.isfinite(seconds) or seconds <= 0:
        return Estimate(None, source=words, note="Vela places no operator of this file on the NPU: there is no number")
    return Estimate(
        seconds * 1e3,
        source=words,
        note="compiler estimate of the NPU alone, not measured; it depends on the system configuration "
        "more than on MACs",
    )


def run_vela(path: Path, accelerator: str, system_config: str, memory_mode: str) -> dict[str, float]:
    """The figures of Vela's summary: inference_time [s], cycles_npu, nn_macs, sram_memory_used [KiB], ...

    Raises:
        RuntimeFailure: Vela failed, or did not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="edgepress-vela-") as folder:
        command = [
            sys.executable,
            "-c",
            "import sys; from ethosu.vela.vela import main; sys.exit(main(sys.argv[1:]))",
            str(path.resolve()),
            "--accelerator-config",
            accelerator,
            "--system-config",
            system_config,
            "--memory-mode",
            memory_mode,
            "--output-dir",
            folder,
        ]
        try:
            done = subprocess.run(
                bound(command),
                capture_output=True,
                text=True,
                timeout=_VELA_SECONDS,
                check=False,
                cwd=folder,
                errors="replace",
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired:
            raise RuntimeFailure(f"vela: no estimate of {path} within {_VELA_SECONDS} s") from None
        summaries = list(Path(folder).glob("*_summary_*.csv"))
        if done.returncode or not summaries:
            last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            reason = last[-1][:200] if last else f"exit {done.returncode}"
            raise RuntimeFailure(f"vela: cannot compile {path}: {reason}")
        with summaries[0].open(newline="") as file:
            row = next(csv.DictReader(file))
    found = {}
    for key, value in row.items():
        try:
            found[key] = float(value)
        except (TypeError, ValueError):
            continue
    return found
