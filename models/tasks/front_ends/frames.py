# SPDX-License-Identifier: Apache-2.0
"""Log-mel frames one after the other as a vector: what an auto-encoder for machine sounds takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.log_mel import FEATURES_VERSION, LogMel, log_mel
from edgepress.models.tasks.front_ends.mfcc import check_whole, known_fields


@dataclass(frozen=True)
class Frames:
    """Vectors of `frames` log-mel frames, oldest first: [frames * n_mels]. A clip gives many of them.

    The defaults have the sizes of MLPerf Tiny's anomaly detection and DCASE Task 2: 5 frames of 128 bands (of 64 ms,
    every 32 ms, at 16 kHz) are 640 numbers.

    Attributes:
        sample_rate_hz, n_fft, hop, n_mels: of the log-mel frames (`LogMel`; its other fields at their defaults).
        frames: how many make a vector.
        step: frames from one vector to the next.
    """

    sample_rate_hz: int = 16000
    n_fft: int = 1024
    hop: int = 512
    n_mels: int = 128
    frames: int = 5
    step: int = 5

    kind = "frames"
    version = FEATURES_VERSION

    def __post_init__(self) -> None:
        check_whole(self, frames=(1, 1024), step=(1, 65_536))
        self.log_mel  # its checks  # noqa: B018

    @property
    def log_mel(self) -> LogMel:
        """What makes the frames."""
        return LogMel(
            sample_rate_hz=self.sample_rate_hz,
            n_fft=self.n_fft,
            window=self.n_fft,
            hop=self.hop,
            n_mels=self.n_mels,
            fmax_hz=self.sample_rate_hz / 2,
        )

    def windows(self, samples: int) -> int:
        """Vectors that a clip of so many samples gives."""
        count = self.log_mel.frames(samples)
        if count < self.frames:
            raise UsageError(f"a clip of {samples} samples has {count} frames; front_end.frames = {self.frames}")
        return 1 + (count - self.frames) // self.step

    def shape(self, samples: int) -> tuple[int]:
        """(frames * n_mels,)."""
        self.windows(samples)
        return (self.frames * self.n_mels,)

    def compute(self, waveforms: np.ndarray) -> np.ndarray:
        """[N, samples] to float32 [N, windows, frames * n_mels]."""
        spectra = log_mel(waveforms, self.log_mel)[:, 0].transpose(0, 2, 1)  # [N, frames, bands]
        views = np.lib.stride_tricks.sliding_window_view(spectra, self.frames, axis=1)[:, :: self.step]
        return np.ascontiguousarray(views.transpose(0, 1, 3, 2)).reshape(len(spectra), views.shape[1], -1)

    def to_json(self) -> dict[str, Any]:
        """The fields and the kind."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Frames:
        """Read the fields, without the kind.

        Raises:
            UsageError: an unknown field, or a value out of range.
        """
        return cls(**known_fields(cls, value))
