# SPDX-License-Identifier: Apache-2.0
"""Results as JSON lines: one measurement each, with its model's sha256, data fingerprint and environment."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgepress.models.atomic import append_lines
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import check, parse_json, read_text
from edgepress.models.records import Result
from edgepress.models.run_directory import RunDirectory

SCHEMA = 1
FILE_NAME = "results.jsonl"
_LARGEST = 200_000_000


def append(run: RunDirectory, records: Iterable[dict[str, Any]]) -> Path:
    """Add records to RUN/results/results.jsonl; each becomes one line, written whole or not at all, and synced.

    Raises:
        UsageError: the run directory cannot be written, or a figure is NaN.
    """
    path = run.place("result", FILE_NAME)
    try:
        lines = [json.dumps({"schema": SCHEMA, "time": time.time(), **record}, allow_nan=False) for record in records]
    except ValueError:
        raise UsageError("a result is NaN or infinite and is not stored: check the data and the model") from None
    append_lines(path, lines)
    if not any(entry["name"] == FILE_NAME for entry in run.entries("result")):
        run.add("result", FILE_NAME, path)
    return path


def read(path: str | Path, torn: bool = False) -> list[dict[str, Any]]:
    """Records of a results file: JSON lines, or what `benchmarks run` or `deploy run --on` print as JSON.

    A last line without its end (the command was killed while writing) is passed over; the only line as well where it is
    known to be `torn`, since the file is one of ours.

    Raises:
        UsageError: missing, no JSON, another schema, or a figure that is NaN.
    """
    path = Path(path)
    text = read_text(path, _LARGEST)
    whole = _json(text)
    if isinstance(whole, dict):
        records = (
            [{**{k: v for k, v in whole.items() if k != "results"}, **record} for record in whole["results"]]
            if isinstance(whole.get("results"), list)
            else [whole]
        )
    else:
        records = []
        lines = text.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            record = _json(line)
            if record is None and number == len(lines) and not line.endswith("\n") and (number > 1 or torn):
                continue
            if not isinstance(record, dict):
                raise UsageError(f"{path}, line {number}, is not a JSON object; remove the line or name another file")
            records.append(record)
    for number, record in enumerate(records, 1):
        _check(record, f"{path}, record {number}")
    return [part for record in records for part in _parts(record)]


def _parts(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A record; of a run on a device, which measures both at once, one for accuracy and one for latency."""
    latency, device = record.get("latency_ms"), record.get("device")
    if not isinstance(latency, dict) or not isinstance(device, dict):
        return [record]
    versions = {str(device.get("interpreter")): device.get("version"), "numpy": device.get("numpy")}
    shared = {
        "environment": {**device, "tools": versions},
        **{key: value for key, value in record.items() if key not in ("latency_ms", "device", "labels")},
    }
    timed = {
        "kind": "latency",
        "cpu": f"{device.get('processor') or device.get('machine')}, {device.get('host')}",
        "runs": latency.get("repeats"),
        **{f"{name}_ms": latency.get(name) for name in ("p50", "p90", "p99", "mean")},
    }
    found = [{**shared, **timed}]
    _check(found[0], "the latency of a run on a device")
    return found + ([{**shared, "kind": "accuracy"}] if shared.get("accuracy") is not None else [])


def _json(text: str) -> Any:
    try:
        return parse_json(text, "")
    except UsageError:
        return None


def _check(record: Any, where: str) -> None:
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else None
        raise UsageError(f"{where}: schema = {found!r:.80} is unknown, this version reads {SCHEMA}")
    for name in ("accuracy", "log_loss", "p50_ms"):
        value = record.get(name)
        good = value is None or (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and (name != "accuracy" or 0 <= value <= 1)
        )
        if not good:
            raise UsageError(
                f"{where}: {name} = {value!r:.60} is no usable figure; measure again with `benchmarks run`"
            )
    for part in ("metrics", "intervals"):
        if not isinstance(record.get(part, {}), dict):
            raise UsageError(f"{where}: {part} is no object of figures by name")
    for name, value in record.get("metrics", {}).items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{where}: metrics.{name} = {value!r:.60} is no figure")
    check(record, where, Result)


def of_run(run: RunDirectory) -> list[dict[str, Any]]:
    """All results of a run directory, oldest first; an empty list where there are none."""
    path = run.place("result", FILE_NAME)
    return read(path, torn=True) if path.exists() else []
