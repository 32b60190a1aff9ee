# SPDX-License-Identifier: Apache-2.0
"""Recordings of almost one length, through any front end of sound: what keyword and machine sounds share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.cache import cache_directory
from edgepress.models.tasks.sources.folders import ComputedInputs
from edgepress.models.tasks.sources.listing import raise_together
from edgepress.models.tasks.task import Split

#: Raise it when the same files give other waveforms.
_VERSION = 1
#: Longer files are read as far as this: machine sounds have 10 s.
LONGEST_S = 60


#: Sounds that libsndfile may read or not, depending on how it was built.
NOT_READ = (".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma")


def usual_length(
    folder: Path, names: Sequence[str], opened: Callable[[str], Path | IO[bytes]] | None = None
) -> tuple[int, int, list[str]]:
    """(rate in Hz, samples, notes) of most files; every one must be of that rate, of any length.

    Args:
        folder: where they lie, and how an error names them all.
        names: of the files.
        opened: name -> the file; None: in the folder.

    Raises:
        UsageError: some cannot be read, are empty or have other rates; all are reported together.
    """
    from edgepress.models.tasks.sources.audio import audio_header

    headers, errors = {}, []
    for name in names:
        header = audio_header(opened(name) if opened else folder / name)
        if isinstance(header, str):
            errors.append(f"{name} {header}")
        elif not header[1]:
            errors.append(f"{name} holds no samples: take it out")
        else:
            headers[name] = header
    raise_together(str(folder), errors)
    rates = Counter(header[0] for header in headers.values())
    rate = max(rates, key=lambda one: (rates[one], one))
    raise_together(
        str(folder),
        [
            f"{name} has a rate of {h[0]} Hz, the others {rate} Hz: resample it, such as `ffmpeg -i IN -ar {rate} OUT`"
            for name, h in headers.items()
            if h[0] != rate
        ],
    )
    lengths = Counter(min(header[1], LONGEST_S * rate) for header in headers.values())
    several = sum(header[2] > 1 for header in headers.values())
    notes = [f"{several} of {len(names)} recordings have several channels: the first is heard"] if several else []
    return rate, max(lengths, key=lambda one: (lengths[one], one)), notes


def read_waveform(path: Path | IO[bytes], rate: int, samples: int, wanted_hz: int, start: int = 0) -> np.ndarray:
    """float32 [samples at wanted_hz] of the first channel, cut or filled up with silence.

    Raises:
        UsageError: the file is damaged, changed its rate, or holds values that are not finite.
    """
    import soundfile
    import soxr

    try:
        file, path = (str(path), path) if isinstance(path, Path) else (path, Path(path.name))
        signal, found = soundfile.read(file, frames=samples, start=start, dtype="float32", always_2d=True)  # type: ignore[arg-type]
    except (soundfile.LibsndfileError, RuntimeError, OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be decoded; replace the file") from error
    if found != rate or not np.isfinite(signal).all():
        raise UsageError(f"{path} has a rate of {found} Hz, expected {rate}, or holds samples that are not finite")
    wave = np.pad(signal[:, 0], (0, samples - len(signal)))
    if rate == wanted_hz:
        return wave
    length = round(samples * wanted_hz / rate)
    wave = soxr.resample(wave, rate, wanted_hz, quality="HQ")[:length]
    return np.pad(wave, (0, length - len(wave))).astype(np.float32)


def through_front_end(
    clips: Mapping[str, Split],
    front_end: Any,
    samples: int,
    waveform: Callable[[str], np.ndarray],
    facts: Callable[[str], Any],
    cache: str | Path | None,
    calibration: np.ndarray | None,
) -> tuple[tuple[int, ...], dict[str, Split], Callable[[str], np.ndarray]]:
    """Splits and inputs of whole clips, or of the parts that a front end cuts them into.

    Args:
        clips: splits of whole clips.
        front_end: of sound; one with `windows` makes several samples of a clip.
        samples: of a clip, at the front end's rate.
        waveform: name of a clip -> [samples].
        facts: what the waveforms of a split follow from, JSON-able.
        cache: see `cache_directory`.
        calibration: rows of the train clips.

    Returns:
        Shape of one sample, splits (a part is called NAME#NUMBER, its identifier is the clip), inputs of a split.
    """
    shape = tuple(front_end.shape(samples))
    parts = front_end.windows(samples) if hasattr(front_end, "windows") else 1

    def compute(names: Sequence[str]) -> np.ndarray:
        made = front_end.compute(np.stack([waveform(name) for name in names]))
        return made.reshape(len(names), parts, *shape)

    def keys(split: str) -> list[Any]:
        return [_VERSION, front_end.version, front_end.to_json(), samples, facts(split)]

    inputs = ComputedInputs(cache_directory(cache), "features", clips, keys, (parts, *shape), compute, calibration)

    def flat(split: str) -> np.ndarray:
        found = inputs(split)
        return found.reshape(math.prod(found.shape[:2]), *shape)

    return shape, {name: _in_parts(split, parts) for name, split in clips.items()}, flat


def _in_parts(split: Split, parts: int) -> Split:
    if parts == 1:
        return split

    def repeated(values: Sequence[str] | None) -> tuple[str, ...] | None:
        return None if values is None else tuple(value for value in values for _ in range(parts))

    return Split(
        tuple(f"{name}#{part}" for name in split.names for part in range(parts)),
        np.repeat(split.labels, parts, axis=0),
        repeated(split.devices),
        repeated(split.names),
        repeated(split.groups),
        None if split.attributes is None else np.repeat(split.attributes, parts),
    )
