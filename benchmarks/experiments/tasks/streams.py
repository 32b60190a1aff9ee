# SPDX-License-Identifier: Apache-2.0
"""A network that remembers on the same streams of every runtime, and what makes them differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgepress.benchmarks.experiments.tasks.lstm import simulated
from edgepress.benchmarks.experiments.tasks.machines import RATE_HZ, read, recordings

RUNTIMES = ("tflm", "litert", "litert-reference")
FRAMES = 60
#: Of DTLN's short-time Fourier transform (Westhausen and Meyer 2020), samples at 16 kHz.
_WINDOW, _HOP = 512, 128


def spectra(signal: np.ndarray, frames: int) -> np.ndarray:
    """float32 [frames, 257] magnitudes of a signal's first windows."""
    windows = np.lib.stride_tricks.sliding_window_view(signal[: _WINDOW + _HOP * (frames - 1)], _WINDOW)[::_HOP]
    return np.abs(np.fft.rfft(windows)).astype(np.float32)


def sequences(folder: Path, scale: float, zero_point: int) -> dict[str, np.ndarray]:
    """Name -> int8 [FRAMES, 257]: noise over the whole range, silence, and the first recording of each class."""
    made = {
        "noise": np.random.default_rng(0).integers(-128, 128, (FRAMES, 257)).astype(np.int8),
        "silence": np.full((FRAMES, 257), zero_point, np.int8),
    }
    for name, files in recordings(folder).items():
        real = spectra(read(files[0])[: RATE_HZ * 2], FRAMES)
        made[name] = np.clip(np.rint(real / scale) + zero_point, -128, 127).astype(np.int8)
    return made


def apart(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Largest and mean difference in steps of the output."""
    difference = np.abs(a.astype(np.int64).reshape(len(a), -1) - b.astype(np.int64).reshape(len(b), -1))
    return {"max_lsb": int(difference.max()), "mean_lsb": round(float(difference.mean()), 4)}


def measure(path: Path, folder: Path) -> dict[str, Any]:
    """Every sequence as one stream on every runtime.

    Args:
        path: DTLN's first part as TFLite Micro has it: int8 [1, 1, 257] magnitudes to a mask.
        folder: ESC-10.

    Returns:
        {"file", "frames", "rows": [{"sequence", "tflm and litert", "litert and litert-reference", "tflm and its
        saturation", "litert and its saturation"}]}, the last two against `lstm.simulated`.
    """
    from edgepress.deploy.runtimes.sessions import open_session

    rows = []
    sessions = {name: open_session(path, name) for name in RUNTIMES}
    details = sessions["tflm"].input
    try:
        for name, q in sequences(folder, float(details.scale or 1), int(details.zero_point or 0)).items():
            made = {}
            for runtime, session in sessions.items():
                session.reset()
                made[runtime] = session.run_integer(q[:, None, :], stream=True)
            rows.append(
                {
                    "sequence": name,
                    "tflm and litert": apart(made["tflm"], made["litert"]),
                    "litert and litert-reference": apart(made["litert"], made["litert-reference"]),
                    "tflm and its saturation": apart(made["tflm"], simulated(path, q, True)),
                    "litert and its saturation": apart(made["litert"], simulated(path, q, False)),
                }
            )
    finally:
        for session in sessions.values():
            session.close()
    return {"file": path.name, "frames": FRAMES, "rows": rows}
