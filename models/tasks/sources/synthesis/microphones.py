# SPDX-License-Identifier: Apache-2.0
"""Nine recording devices of the synthetic task: frequency response, room, compression, noise floor.

Named as in TAU Urban Acoustic Scenes 2022 Mobile: a is the reference recorder, b and c are phones, s1 to s6 are
simulated from a by a response and dynamic range compression. s4 to s6 are for the test split only. They are the same
for every seed, so that figures of different seeds compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import firwin2, oaconvolve

from edgepress.models.tasks.sources.synthesis.sounds import SAMPLE_RATE_HZ

#: Hertz at which the responses below are given.
_BANDS_HZ = (0, 80, 200, 500, 1000, 2000, 3500, 5000, 6500, 8000)
_TAPS = 255


@dataclass(frozen=True)
class Microphone:
    """A recording device.

    Attributes:
        response_db: gain at `_BANDS_HZ`, in dB.
        ratio: dynamic range compression above the clip's RMS (1 is none).
        noise_floor_dbfs: level of its own white noise.
        echo: level of a reflection after `echo_ms`.
        echo_ms: delay of that reflection.
    """

    response_db: tuple[float, ...]
    ratio: float = 1.0
    noise_floor_dbfs: float = -80.0
    echo: float = 0.0
    echo_ms: float = 3.0


MICROPHONES: dict[str, Microphone] = {
    "a": Microphone((-3, 0, 0, 0, 0, 0, 0, 0, 0, -1)),
    "b": Microphone((-24, -10, -4, 0, 2, 1, 3, 4, 1, -5), noise_floor_dbfs=-62, echo=0.15, echo_ms=0.6),
    "c": Microphone((-24, -9, -2, 1, 0, -2, 2, 5, -2, -9), noise_floor_dbfs=-58, echo=0.2, echo_ms=0.4),
    "s1": Microphone((-20, -8, 1, 4, 2, -1, -4, -6, -9, -14), ratio=3, noise_floor_dbfs=-66),
    "s2": Microphone((-12, -3, 3, 5, 0, -4, 1, 4, -6, -12), ratio=2, noise_floor_dbfs=-64, echo=0.25, echo_ms=1.1),
    "s3": Microphone((-34, -18, -9, -3, 3, 6, 4, 0, -3, -8), ratio=4, noise_floor_dbfs=-66),
    "s4": Microphone(
        (-36, -22, -10, -1, 5, 3, -6, -12, -18, -26), ratio=3, noise_floor_dbfs=-60, echo=0.3, echo_ms=0.8
    ),
    "s5": Microphone((-10, 2, 6, 3, -3, -7, -4, -9, -13, -20), ratio=2, noise_floor_dbfs=-58, echo=0.2, echo_ms=1.7),
    "s6": Microphone((-30, -16, -12, -8, -2, 4, 9, 6, 8, 2), ratio=4, noise_floor_dbfs=-56, echo=0.3, echo_ms=0.5),
}
UNSEEN = ("s4", "s5", "s6")


@lru_cache(maxsize=16)
def impulse_response(device: str) -> np.ndarray:
    """float64 impulse response of a device, its response and its reflection."""
    microphone = MICROPHONES[device]
    gains = 10 ** (np.array(microphone.response_db) / 20)
    response = np.asarray(firwin2(_TAPS, _BANDS_HZ, gains, fs=SAMPLE_RATE_HZ))
    delay = round(microphone.echo_ms * SAMPLE_RATE_HZ / 1000)
    result = np.zeros(_TAPS + delay)
    result[:_TAPS] += response
    result[delay:] += microphone.echo * response
    return result


def record(signal: np.ndarray, device: str, rng: np.random.Generator) -> np.ndarray:
    """What the device makes of a signal at 16 kHz: float64 of the same length, within [-1, 1].

    Compression is static, with a 10 ms envelope: the level above the clip's own RMS shrinks by the ratio.
    """
    microphone = MICROPHONES[device]
    begin = _TAPS // 2  # the delay of the linear-phase response
    heard = oaconvolve(signal, impulse_response(device))[begin : begin + len(signal)]
    if microphone.ratio > 1:
        envelope = np.sqrt(np.maximum(uniform_filter1d(heard**2, SAMPLE_RATE_HZ // 100, mode="nearest"), 0) + 1e-12)
        threshold = np.sqrt(np.mean(heard**2) + 1e-12)
        heard = heard * np.minimum(1.0, (envelope / threshold) ** (1 / microphone.ratio - 1))
    heard = heard + 10 ** (microphone.noise_floor_dbfs / 20) * rng.standard_normal(len(heard))
    return np.clip(heard, -0.999, 0.999)
