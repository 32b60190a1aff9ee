# SPDX-License-Identifier: Apache-2.0
"""Clips on disk: headers checked, samples decoded and resampled by libraries (soundfile, soxr)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.files.reading import open_regular
from edgepress.models.tasks.parallel import map_batches

#: What soundfile raises beside its own errors; a TypeError for a name of headerless audio (.raw), which says no rate.
_UNREADABLE = (RuntimeError, OSError, TypeError)
_SIXTEEN_BITS = {"PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW"}


@dataclass(frozen=True)
class ClipFormat:
    """What all clips of a set have in common.

    Attributes:
        sample_rate_hz: as recorded.
        samples: length of one clip at that rate.
        fine: True where some clip has more than 16 bits, so that int16 would lose something.
    """

    sample_rate_hz: int
    samples: int
    fine: bool

    def samples_at(self, sample_rate_hz: int) -> int:
        """Length of one clip after resampling."""
        return round(self.samples * sample_rate_hz / self.sample_rate_hz)

    @property
    def dtype(self) -> str:
        """The type that keeps the source's resolution: "int16" or "float32"."""
        return "float32" if self.fine else "int16"


def check_clips(paths: Sequence[Path], labels: Sequence[str]) -> tuple[ClipFormat | None, list[str]]:
    """Read every header and find the clips that cannot be used.

    All clips must be mono and of one rate and length; the most frequent one counts (the one of 1 s in a tie).

    Args:
        paths: the files.
        labels: how an error names each of them.

    Returns:
        What the clips have in common, and one sentence per bad clip.
    """

    def read_headers(batch: Sequence[Path]) -> list[tuple[int, int, int, str] | str]:
        return [audio_header(path) for path in batch]

    headers = [
        header for batch in map_batches(read_headers, paths, batch=64, title="Checking clips") for header in batch
    ]
    good = [header for header in headers if not isinstance(header, str)]
    votes = Counter((rate, frames) for rate, frames, channels, _ in good if channels == 1 and frames > 0)
    if votes:
        rate, frames = max(votes, key=lambda pair: (votes[pair], pair[0] == pair[1], pair))
    else:
        rate, frames = 0, 0
    errors = []
    for label, header in zip(labels, headers, strict=True):
        if isinstance(header, str):
            errors.append(f"{label} {header}")
        elif header[2] != 1:
            errors.append(f"{label} has {header[2]} channels; clips must be mono")
        elif header[0] != rate:
            errors.append(f"{label} has a rate of {header[0]} Hz; the other clips have {rate} Hz")
        elif header[1] != frames:
            errors.append(
                f"{label} is {header[1] / rate:g} s long ({header[1]} samples); the other clips are "
                f"{frames / rate:g} s ({frames} samples)"
            )
    fine = any(subtype not in _SIXTEEN_BITS for *_, subtype in good)
    return (ClipFormat(rate, frames, fine) if votes else None), errors


def audio_header(source: Path | IO[bytes]) -> tuple[int, int, int, str] | str:
    """(rate in Hz, samples, channels, type of a sample), or what is wrong with the file."""
    import soundfile

    try:
        if isinstance(source, Path):
            open_regular(source).close()  # a pipe would wait for a writer
        info = soundfile.info(str(source) if isinstance(source, Path) else source)  # type: ignore[arg-type]
    except (*_UNREADABLE, soundfile.LibsndfileError, UsageError):
        return "is no audio file that can be read (WAV or FLAC expected)"
    return int(info.samplerate), int(info.frames), int(info.channels), str(info.subtype)


def decode(path: Path, clip: ClipFormat, sample_rate_hz: int) -> np.ndarray:
    """One clip at the given rate, as `clip.dtype`: int16 (1.0 = 32768, clipped) or float32.

    Raises:
        UsageError: the file changed since its header was checked, is damaged, or holds values that are not finite.
    """
    import soundfile
    import soxr

    try:
        open_regular(path).close()
        # One more than there should be: what a file claims to hold beyond that is not decoded.
        samples, rate = soundfile.read(str(path), frames=clip.samples + 1, dtype="float32", always_2d=True)
    except (*_UNREADABLE, soundfile.LibsndfileError) as error:
        raise UsageError(f"{path} cannot be decoded; replace the file") from error
    if (rate, len(samples), samples.shape[1]) != (clip.sample_rate_hz, clip.samples, 1):
        raise UsageError(
            f"{path} holds {len(samples)} samples at {rate} Hz, expected {clip.samples} at "
            f"{clip.sample_rate_hz} Hz; the file is truncated or changed"
        )
    signal = samples[:, 0]
    if not np.isfinite(signal).all():
        raise UsageError(f"{path} holds samples that are not finite; replace the file")
    if rate != sample_rate_hz:
        signal = soxr.resample(signal, rate, sample_rate_hz, quality="HQ")
        wanted = clip.samples_at(sample_rate_hz)
        signal = np.pad(signal[:wanted], (0, max(0, wanted - len(signal))))
    if clip.fine:
        return signal.astype(np.float32)
    return np.clip(np.rint(signal * 32768.0), -32768, 32767).astype(np.int16)
