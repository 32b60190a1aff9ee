# SPDX-License-Identifier: Apache-2.0
"""Mel-frequency cepstral coefficients, and the waveform itself: front ends of keyword spotting. NumPy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError

#: Part of every cache key: raise it when the same definition gives other numbers.
MFCC_VERSION = 1


@dataclass(frozen=True)
class Mfcc:
    """Coefficients of short frames: magnitudes of the spectrum, mel bands, logarithm, cosine transform.

    The defaults are those of MLPerf Tiny's keyword spotting (TensorFlow's `tf.signal`): 30 ms every 20 ms, 40 bands
    from 20 Hz to 4 kHz, 10 coefficients: 49 x 10 of one second. Nothing is padded.

    Attributes:
        sample_rate_hz: rate of the waveform that comes in.
        window, hop: length of a frame (periodic Hann) and samples from frame to frame.
        n_fft: length of the Fourier transform.
        n_mels, fmin_hz, fmax_hz: triangles on the mel scale 1127 ln(1 + f / 700), of height 1.
        coefficients: how many are kept, from the first (the level) on.
        log_offset: added to the bands before the natural logarithm.
        shift, scale: the coefficients become (coefficient + shift) / scale.
    """

    sample_rate_hz: int = 16000
    window: int = 480
    hop: int = 320
    n_fft: int = 512
    n_mels: int = 40
    coefficients: int = 10
    fmin_hz: float = 20.0
    fmax_hz: float = 4000.0
    log_offset: float = 1e-6
    shift: float = 0.0
    scale: float = 1.0

    kind = "mfcc"
    version = MFCC_VERSION

    def __post_init__(self) -> None:
        check_whole(
            self,
            sample_rate_hz=(1000, 384_000),
            n_fft=(16, 65_536),
            window=(2, self.n_fft),
            hop=(1, 65_536),
            n_mels=(1, 2048),
            coefficients=(1, self.n_mels),
        )
        check_numbers(self, "fmin_hz", "fmax_hz", "log_offset", "shift", "scale")
        if not 0 <= self.fmin_hz < self.fmax_hz <= self.sample_rate_hz / 2:
            raise UsageError(
                f"front_end.fmin_hz = {self.fmin_hz:g} and fmax_hz = {self.fmax_hz:g} must satisfy 0 <= fmin_hz < "
                f"fmax_hz <= {self.sample_rate_hz / 2:g} (half of sample_rate_hz)"
            )
        if self.log_offset <= 0 or self.scale == 0:
            raise UsageError("front_end.log_offset must be positive and front_end.scale not zero")

    def shape(self, samples: int) -> tuple[int, int, int]:
        """(1, frames, coefficients) of a clip of so many samples."""
        if samples < self.window:
            raise UsageError(
                f"a clip of {samples} samples is shorter than front_end.window = {self.window}: take longer clips"
            )
        return (1, 1 + (samples - self.window) // self.hop, self.coefficients)

    def compute(self, waveforms: np.ndarray) -> np.ndarray:
        """[N, samples], floating in [-1, 1] or int16, to float32 [N, 1, frames, coefficients]."""
        signal = as_float(waveforms)
        frames = np.lib.stride_tricks.sliding_window_view(signal, self.window, axis=1)[:, :: self.hop]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        magnitude = np.abs(np.fft.rfft(frames * hann.astype(np.float32), self.n_fft, axis=-1))
        logs = np.log(magnitude @ _bands(self).T + self.log_offset)
        made = logs @ _cosines(self).T
        return ((made + self.shift) / self.scale).astype(np.float32)[:, None]

    def to_json(self) -> dict[str, Any]:
        """The fields and the kind."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Mfcc:
        """Read the fields, without the kind.

        Raises:
            UsageError: an unknown field, or a value out of range.
        """
        return cls(**known_fields(cls, value))


@dataclass(frozen=True)
class Waveform:
    """The samples as they are, [1, samples] at one rate.

    Attributes:
        sample_rate_hz: clips are resampled to it.
    """

    sample_rate_hz: int = 16000

    kind = "waveform"
    version = 1

    def __post_init__(self) -> None:
        check_whole(self, sample_rate_hz=(1000, 384_000))

    def shape(self, samples: int) -> tuple[int, int]:
        """(1, samples)."""
        return (1, samples)

    def compute(self, waveforms: np.ndarray) -> np.ndarray:
        """[N, samples] to float32 [N, 1, samples]."""
        return as_float(waveforms)[:, None]

    def to_json(self) -> dict[str, Any]:
        """The fields and the kind."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Waveform:
        """Read the fields, without the kind.

        Raises:
            UsageError: an unknown field, or a value out of range.
        """
        return cls(**known_fields(cls, value))


def as_float(waveforms: np.ndarray) -> np.ndarray:
    """[N, samples] as float32 in [-1, 1]; int16 is divided by 32768."""
    signal = waveforms.astype(np.float32)
    return signal / np.float32(32768) if waveforms.dtype == np.int16 else signal


def known_fields(kind: Any, value: dict[str, Any]) -> dict[str, Any]:
    """The value, if a front end has all these fields.

    Raises:
        UsageError: it has not.
    """
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(map(str, value)) - set(known))
    if unknown:
        raise UsageError(f"front_end.{unknown[0]} is unknown for {kind.kind}: known are {', '.join(known)}")
    return value


def check_whole(front_end: Any, **ranges: tuple[int, int]) -> None:
    """That fields are integers within their ranges.

    Raises:
        UsageError: one is not.
    """
    for name, (low, high) in ranges.items():
        value = getattr(front_end, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"front_end.{name} = {value!r} must be an integer from {low} to {high}")


def check_numbers(front_end: Any, *names: str) -> None:
    """That fields are finite numbers; they are kept as floats.

    Raises:
        UsageError: one is not.
    """
    for name in names:
        value = getattr(front_end, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise UsageError(f"front_end.{name} = {value!r} must be a finite number")
        object.__setattr__(front_end, name, float(value))


@lru_cache(maxsize=16)
def _bands(config: Mfcc) -> np.ndarray:
    """[n_mels, n_fft // 2 + 1] triangles on the mel scale; the constant part of a frame belongs to none."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)

    edges = np.linspace(mel(config.fmin_hz), mel(config.fmax_hz), config.n_mels + 2)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = mel(np.linspace(0, config.sample_rate_hz / 2, config.n_fft // 2 + 1))[None, 1:]
    triangles = np.maximum(np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)), 0)
    return np.pad(triangles, ((0, 0), (1, 0)))


@lru_cache(maxsize=16)
def _cosines(config: Mfcc) -> np.ndarray:
    """[coefficients, n_mels]: the cosine transform of type II times sqrt(2 / n_mels), as in `tf.signal`."""
    place = np.pi * (2 * np.arange(config.n_mels) + 1) / (2 * config.n_mels)
    return np.sqrt(2 / config.n_mels) * np.cos(np.arange(config.coefficients)[:, None] * place)
