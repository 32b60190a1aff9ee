# SPDX-License-Identifier: Apache-2.0
"""Latency measured on this host: warm-up, repeats, percentiles. For other devices see `estimate.estimate`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.benchmarks.measure.environment import environment
from edgepress.models.errors import RuntimeFailure, UsageError

if TYPE_CHECKING:
    from edgepress.models.devices.device import DeviceClass

SCHEMA = 1
#: Long enough for a stable median, short enough for a pull request; both must be reached.
LEAST_RUNS = 50
LEAST_SECONDS = 1.0
_MOST_SECONDS = 60.0
_WARM_UP_RUNS = 5


def measure_latency(
    path: str | Path,
    runtime: str,
    *,
    threads: int = 1,
    runs: int = LEAST_RUNS,
    seconds: float = LEAST_SECONDS,
    trust: bool = False,
) -> dict[str, Any]:
    """Time single inferences on this host.

    The clock runs around one call with one prepared sample of zeros: no feature extraction, no quantization. TFLite
    Micro lives in a child process, so its figure includes a round trip through a pipe (`round_trip` is True).

    Args:
        path: a model file or checkpoint.
        runtime: the runtime to time.
        threads: of the runtime.
        runs: at least this many.
        seconds: for at least this long; at most a minute.
        trust: allow a checkpoint outside the zoo.

    Returns:
        A record: kind "latency", file, sha256, runtime, threads, runs, warm_up_runs, p50_ms, p90_ms, p99_ms, min_ms,
        mean_ms, round_trip, cpu, environment.

    Raises:
        UsageError: bad file or argument. RuntimeFailure: the runtime failed.
    """
    from edgepress.benchmarks.measure.accuracy import model_sha256
    from edgepress.deploy.runtimes.sessions import open_session

    if runs < 1 or seconds < 0:
        raise UsageError(f"runs = {runs} must be at least 1 and seconds = {seconds} not negative")
    path = Path(path)
    with open_session(path, runtime, threads=threads, trust=trust) as session:
        sample = tuple(
            np.zeros([1 if size < 0 else size for size in details.shape or (1,)], details.dtype)
            for details in session.inputs
        )
        session.run_integer(*sample)
        alone = session.isolated
    if alone and runtime != "tflm":
        # The guarded run above has shown that the file does not crash its runtime: now time it without the pipe.
        session = open_session(path, runtime, threads=threads, trust=trust, isolate=False)
    else:
        session = open_session(path, runtime, threads=threads, trust=trust)
    with session:
        for _ in range(_WARM_UP_RUNS):
            session.run_integer(*sample)
        taken: list[int] = []
        end = time.perf_counter() + seconds
        limit = time.perf_counter() + _MOST_SECONDS
        while (len(taken) < runs or time.perf_counter() < end) and time.perf_counter() < limit:
            start = time.perf_counter_ns()
            session.run_integer(*sample)
            taken.append(time.perf_counter_ns() - start)
    if not taken:
        raise RuntimeFailure(f"{runtime}: not one inference of {path} ended within {_MOST_SECONDS:.0f} s")
    ms = np.asarray(taken) / 1e6
    p50, p90, p99 = (float(value) for value in np.percentile(ms, [50, 90, 99]))
    surroundings = environment()
    return {
        "schema": SCHEMA,
        "kind": "latency",
        "file": str(path),
        "sha256": model_sha256(path),
        "runtime": runtime,
        "threads": threads,
        "runs": len(taken),
        "warm_up_runs": _WARM_UP_RUNS,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "min_ms": float(ms.min()),
        "mean_ms": float(ms.mean()),
        "round_trip": runtime == "tflm",
        "cpu": surroundings["cpu"],
        "environment": surroundings,
    }


def latency_overview(
    path: str | Path,
    runtimes: Sequence[str] = (),
    devices: Sequence[str | DeviceClass] = (),
    *,
    threads: int = 1,
    runs: int = LEAST_RUNS,
    measure: bool = True,
    trust: bool = False,
) -> dict[str, Any]:
    """Measured here and estimated for device classes.

    Args:
        path: a model.
        runtimes: to time here; none takes every installed one.
        devices: classes to estimate for; none takes all.
        threads, runs, trust: see `measure_latency`.
        measure: whether to measure at all.

    Returns:
        schema, file, sha256, measured (records), failures (runtime, error), estimated (class -> `Estimate` as JSON).
    """
    from dataclasses import asdict

    from edgepress.benchmarks.estimate.estimate import estimate_latency
    from edgepress.benchmarks.measure.accuracy import model_sha256, wanted_runtimes
    from edgepress.benchmarks.measure.profiling import profile_of
    from edgepress.models.devices.classes import device_classes, pick

    known = device_classes()
    classes = [pick(given, known) if isinstance(given, str) else given for given in devices] or list(known.values())
    profile = profile_of(path, arena=False)
    measured, failures = [], []
    for runtime in wanted_runtimes(Path(path), runtimes) if measure else ():
        try:
            measured.append(measure_latency(path, runtime, threads=threads, runs=runs, trust=trust))
        except RuntimeFailure as error:
            text = str(error) if runtime in str(error) else f"{runtime}: {error}"
            failures.append({"runtime": runtime, "error": text})
    return {
        "schema": SCHEMA,
        "file": str(path),
        "sha256": model_sha256(path),
        "measured": measured,
        "failures": failures,
        "estimated": {device.name: asdict(estimate_latency(profile, device)) for device in classes},
    }
