# SPDX-License-Identifier: Apache-2.0
"""The energy that inference of a file takes on this machine, for so many clips."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.measure.environment import environment
from edgepress.models.cost.energy import SCHEMA, measured_energy
from edgepress.models.errors import UsageError
from edgepress.models.files.reading import file_sha256

_BATCH = 64


def inference_energy(path: str | Path, clips: int, *, seconds: float = 15.0, runtime: str = "litert") -> dict[str, Any]:
    """Run a file on noise for so long, and scale the energy to so many clips.

    What a network does hangs on the shapes of its inputs, not on what they hold, so that noise stands for any data. The
    front end is not part of it.

    Args:
        path: a file that the runtime runs, with one input.
        clips: that the figure is for, such as the evaluation set's.
        seconds: how long it runs, at least one batch; short runs are as uncertain as the power meter is slow.
        runtime: such as "litert".

    Returns:
        JSON-able: kwh for `clips`, clips, measured_kwh, measured_clips, seconds, tool, mode, runtime, sha256,
        environment.

    Raises:
        UsageError: a bad file, several inputs, or sizes that the file leaves open.
        RuntimeFailure: CodeCarbon is missing or gives no number, or the runtime failed.
    """
    from edgepress.deploy.runtimes.sessions import open_session

    with open_session(path, runtime) as session:
        details = session.inputs
        if len(details) != 1 or any(size < 1 for size in details[0].shape[1:]):
            shapes = ", ".join(str(list(one.shape)) for one in details)
            raise UsageError(f"{path} has inputs of shapes {shapes}: energy is measured for one input of a fixed shape")
        stored = np.random.default_rng(0).standard_normal((_BATCH, *details[0].shape[1:])).astype(np.float32)
        noise = details[0].quantize(stored)
        session.run_integer(noise[:1])  # what is done once is not part of it
        done = 0
        with measured_energy() as energy:
            began = time.monotonic()
            while not done or time.monotonic() - began < seconds:
                session.run_integer(noise)
                done += _BATCH
    return {
        "schema": SCHEMA,
        "file": Path(path).name,
        "sha256": file_sha256(path),
        "runtime": runtime,
        "clips": clips,
        "measured_clips": done,
        "measured_kwh": energy.kwh,
        **energy.to_json(),
        "kwh": energy.kwh * clips / done,
        "environment": environment(),
    }
