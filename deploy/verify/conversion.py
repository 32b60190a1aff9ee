# SPDX-License-Identifier: Apache-2.0
"""What turns an ONNX file into a runtime's own format has: a process of its own, and a proof of equal outputs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.models.errors import ParityError, RuntimeFailure

#: How many random inputs prove it.
SAMPLES = 16
_SECONDS = 300
#: Of the largest output: float convolutions may add in another order.
_TOLERANCE = 1e-5


def convert_apart(module: str, tool: str, path: Path, target: Path, told: Sequence[str] = ()) -> None:
    """Run `python -m MODULE PATH TARGET TOLD...` in a process of its own: native code reads a file of whoever made it.

    Args:
        module: whose main converts.
        tool: what converts, as people call it.
        path, target: from which file, to which.
        told: more arguments.

    Raises:
        RuntimeFailure: it fails, writes nothing, or does not end.
    """
    from edgepress.models.children import bound
    from edgepress.models.command_line import child_environment

    try:
        done = subprocess.run(
            bound([sys.executable, "-P", "-m", module, str(path), str(target), *told]),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            env=child_environment(),
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"{tool} did not convert {path} in {_SECONDS} s") from None
    if done.returncode or not target.is_file():
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]
        raise RuntimeFailure(f"{tool} cannot convert {path}: {reason}")


def outputs_of(made: Any) -> list[np.ndarray]:
    """Every output of a session's run, in float64."""
    return [np.asarray(one, np.float64) for one in (made if isinstance(made, (list, tuple)) else [made])]


def largest_difference(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Of any two values at the same place."""
    return max(float(np.max(np.abs(a - b), initial=0.0)) for a, b in zip(some, others, strict=True))


def proven_equal(given: Sequence[np.ndarray], made: Sequence[np.ndarray], path: Path, target: Path) -> float:
    """The largest difference of an output.

    Raises:
        ParityError: it is more than float32 rounds.
    """
    largest = largest_difference(given, made)
    if not largest <= _TOLERANCE * max(1.0, *(float(np.max(np.abs(a), initial=0.0)) for a in given)):
        raise ParityError(f"{target.name} departs from {path} by up to {largest:.3g}: it is not written")
    return largest
