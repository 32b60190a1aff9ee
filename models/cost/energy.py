# SPDX-License-Identifier: Apache-2.0
"""The energy that work takes on this machine, as CodeCarbon measures or estimates it, kept in a run."""

from __future__ import annotations

import logging
import math
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.models.atomic import write_json
from edgepress.models.errors import RuntimeFailure
from edgepress.models.files.reading import read_json

#: In a run directory: what was measured, in kWh.
ENERGY = "energy.json"
SCHEMA = 1


@dataclass
class Energy:
    """What a block of work took.

    Attributes:
        kwh: of the whole machine, CPU, memory and GPU; 0 until the block has ended.
        seconds: how long it took.
        tool: "codecarbon" with its version.
        mode: what CodeCarbon took the power from, such as "machine".
    """

    kwh: float = 0.0
    seconds: float = 0.0
    tool: str = ""
    mode: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"kwh": self.kwh, "seconds": round(self.seconds, 3), "tool": self.tool, "mode": self.mode}


@contextmanager
def measured_energy() -> Iterator[Energy]:
    """Measure the energy of what happens inside of the block; nothing is sent anywhere, and no file is written.

    Raises:
        RuntimeFailure: CodeCarbon is not installed, does not start, or gives no number.
    """
    try:
        from codecarbon import OfflineEmissionsTracker  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise RuntimeFailure(
            f"energy is measured with CodeCarbon, which is not there ({error}): pip install codecarbon"
        ) from None
    found = Energy()
    # It tells what it does before its own level is set.
    logging.getLogger("codecarbon").disabled = True
    # The country decides on emissions alone, which are not reported.
    try:
        tracker = OfflineEmissionsTracker(
            country_iso_code="DEU", save_to_file=False, log_level="critical", allow_multiple_runs=True
        )
        tracker.start()
    except Exception as error:  # of its own and of what it asks for sensors
        raise RuntimeFailure(f"CodeCarbon does not start on this machine: {error}") from error
    began = time.monotonic()
    try:
        yield found
    finally:
        found.seconds = time.monotonic() - began
        tracker.stop()
        data = tracker.final_emissions_data
        found.kwh, found.mode = float(data.energy_consumed), str(data.tracking_mode)
        found.tool = f"codecarbon {data.codecarbon_version}"
    if not math.isfinite(found.kwh) or found.kwh <= 0:
        raise RuntimeFailure(
            f"CodeCarbon measured {found.kwh} kWh in {found.seconds:.1f} s: it finds no power meter here"
        )


def read_energy(run: Path) -> dict[str, Any]:
    """What a run keeps: {"training": [records], "inference": {network: record}}; empty where nothing was measured."""
    path = run / ENERGY
    return read_json(path, dict[str, Any]) if path.is_file() else {"schema": SCHEMA, "training": [], "inference": {}}


@contextmanager
def kept_energy(run: Path) -> Iterator[None]:
    """Add what the block takes to a run's training, also where it is interrupted: a run that goes on has several."""
    energy = None
    try:
        with measured_energy() as energy:
            yield
    finally:
        if energy is not None and energy.kwh > 0:
            found = read_energy(run)
            command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
            found["training"] = [*found.get("training", []), {**energy.to_json(), "command": command}]
            write_json(run / ENERGY, found)


def add_inference(run: Path, network: str, record: dict[str, Any]) -> None:
    """Keep what inference of a network took; an older record is replaced."""
    found = read_energy(run)
    found["inference"] = {**found.get("inference", {}), network: record}
    write_json(run / ENERGY, found)
