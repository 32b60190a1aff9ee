# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrograms: one definition for training, calibration and benchmarks.

NumPy and SciPy only, so that a benchmark needs no torch; `log_mel_torch` is the same thing as a torch module.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.models.errors import UsageError

if TYPE_CHECKING:
    import scipy.sparse

#: Part of every cache key: raise it when the same definition gives other numbers.
FEATURES_VERSION = 1
_BATCH = 16  # clips whose frames are held at once: 16 s at 44 frames of 2048 samples are 6 MB


@dataclass(frozen=True)
class LogMel:
    """The front end: pre-emphasis, STFT power, mel bands, logarithm, normalisation.

    The defaults are those of the CP-ResNet submission to DCASE 2022 (Schmid et al., "CP-JKU submission to DCASE22",
    https://github.com/CPJKU/cpjku_dcase22, models/mel.py of that code).

    Attributes:
        sample_rate_hz: rate of the waveform that comes in.
        n_fft: length of the Fourier transform, in samples; even.
        window: length of the (symmetric) Hann window, in samples, at most `n_fft`; it sits in the middle of the frame.
        hop: samples from frame to frame.
        n_mels: number of mel bands.
        fmin_hz: lower edge of the lowest band.
        fmax_hz: upper edge of the highest band, at most half the sample rate.
        pre_emphasis: the filter y[t] = x[t+1] - pre_emphasis * x[t], which shortens the clip by one sample.
        log_offset: added to the power before the natural logarithm.
        shift: added to the logarithm.
        scale: what the shifted logarithm is divided by.
    """

    sample_rate_hz: int = 32000
    n_fft: int = 2048
    window: int = 2048
    hop: int = 744
    n_mels: int = 256
    fmin_hz: float = 0.0
    fmax_hz: float = 16000.0
    pre_emphasis: float = 0.97
    log_offset: float = 1e-5
    shift: float = 4.5
    scale: float = 5.0

    kind = "log_mel"
    version = FEATURES_VERSION

    def __post_init__(self) -> None:
        ranges = {
            "sample_rate_hz": (1000, 384_000),
            "n_fft": (16, 65_536),
            "window": (2, self.n_fft),
            "hop": (1, 65_536),
            "n_mels": (1, 2048),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UsageError(f"front end: {name} = {value!r} must be an integer from {low} to {high}")
        for name in ("fmin_hz", "fmax_hz", "pre_emphasis", "log_offset", "shift", "scale"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
                raise UsageError(f"front end: {name} = {value!r} must be a finite number")
            object.__setattr__(self, name, float(value))
        if self.n_fft % 2:
            raise UsageError(f"front end: n_fft = {self.n_fft} must be even")
        if not 0 <= self.fmin_hz < self.fmax_hz <= self.sample_rate_hz / 2:
            raise UsageError(
                f"front end: fmin_hz = {self.fmin_hz:g} and fmax_hz = {self.fmax_hz:g} must satisfy "
                f"0 <= fmin_hz < fmax_hz <= {self.sample_rate_hz / 2:g} (half of sample_rate_hz)"
            )
        if self.log_offset <= 0 or self.scale == 0:
            raise UsageError(
                f"front end: log_offset = {self.log_offset:g} must be positive and scale = {self.scale:g} not zero"
            )

    def frames(self, samples: int) -> int:
        """Number of frames of a clip of so many samples (one is lost to the pre-emphasis)."""
        if samples - 1 <= self.n_fft // 2:
            raise UsageError(
                f"a clip of {samples} samples is too short for n_fft = {self.n_fft}: "
                f"at least {self.n_fft // 2 + 2} samples are needed"
            )
        return 1 + (samples - 1) // self.hop

    def shape(self, samples: int) -> tuple[int, int, int]:
        """(1, mel bands, frames) of a clip of so many samples."""
        return (1, self.n_mels, self.frames(samples))

    def compute(self, waveforms: np.ndarray) -> np.ndarray:
        """`log_mel` of these waveforms."""
        return log_mel(waveforms, self)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of the attributes, which `from_json` and `LogMel(**...)` read."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LogMel:
        """Read what `to_json` wrote.

        Raises:
            UsageError: no object, an unknown key, or a value out of range.
        """
        if not isinstance(value, dict):
            raise UsageError(f"front end {value!r} is no log-mel definition: an object such as {cls().to_json()} is")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(map(str, value)) - known)
        if unknown:
            raise UsageError(
                f"front end: unknown keys {', '.join(map(repr, unknown))}; known are {', '.join(sorted(known))}"
            )
        return cls(**value)


#: CP-ResNet, DCASE 2022: 1 x 256 x 44 for one second.
MEL22 = LogMel()
#: CP-Mobile, DCASE 2023: 1 x 256 x 64.
MEL23 = LogMel(n_fft=4096, window=3072, hop=500, fmax_hz=15500.0)
#: PaSST: 1 x 128 x 100.
MELPASST = LogMel(n_fft=1024, window=800, hop=320, n_mels=128, fmax_hz=15500.0)
#: A light one for 16 kHz audio, the default of the synthetic task: 1 x 128 x 32.
MEL16K = LogMel(sample_rate_hz=16000, n_fft=1024, window=1024, hop=500, n_mels=128, fmax_hz=8000.0)
PRESETS = {"mel22": MEL22, "mel23": MEL23, "melpasst": MELPASST, "mel16k": MEL16K}


@lru_cache(maxsize=16)
def analysis_window(config: LogMel) -> np.ndarray:
    """The symmetric Hann window, zero-padded on both sides to [n_fft], float32."""
    padded = np.zeros(config.n_fft, np.float32)
    start = (config.n_fft - config.window) // 2
    padded[start : start + config.window] = np.hanning(config.window)
    padded.flags.writeable = False
    return padded


@lru_cache(maxsize=16)
def mel_filter_bank(config: LogMel) -> np.ndarray:
    """Triangular mel bands as [n_mels, n_fft // 2 + 1], float32, in the manner of Kaldi.

    The triangles are straight on the mel scale mel(f) = 1127 ln(1 + f / 700), have height 1 and are not normalised by
    area; the bin at half the sample rate belongs to none. Bands narrower than a bin may be empty.
    """

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)

    edges = np.linspace(mel(config.fmin_hz), mel(config.fmax_hz), config.n_mels + 2)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = mel(np.arange(config.n_fft // 2) * (config.sample_rate_hz / config.n_fft))[None, :]
    triangles = np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre))
    bank = np.pad(np.maximum(triangles, 0.0), ((0, 0), (0, 1))).astype(np.float32)
    bank.flags.writeable = False
    return bank


@lru_cache(maxsize=16)
def _sparse_bank(config: LogMel) -> scipy.sparse.csr_array:
    """The same bank, sparse: a Fourier bin lies in at most two bands, so that this saves 99 % of the products."""
    import scipy.sparse

    return scipy.sparse.csr_array(mel_filter_bank(config))


def log_mel(waveforms: np.ndarray, config: LogMel) -> np.ndarray:
    """Normalised log-mel spectrograms.

    Args:
        waveforms: [N, samples] at `config.sample_rate_hz`; floating in [-1, 1], or int16 (divided by 32768).
        config: the front end.

    Returns:
        float32 [N, 1, n_mels, frames]: (ln(mel power + log_offset) + shift) / scale.

    Raises:
        UsageError: not two-dimensional, neither floating nor int16, or too short for one frame.
    """
    waveforms = np.asarray(waveforms)
    if waveforms.ndim != 2:
        raise UsageError(f"waveforms must be [clips, samples], not of shape {waveforms.shape}")
    if waveforms.dtype != np.int16 and not np.issubdtype(waveforms.dtype, np.floating):
        raise UsageError(f"waveforms must be floating or int16, not {waveforms.dtype}")
    frames = config.frames(waveforms.shape[1])
    result = np.empty((len(waveforms), 1, config.n_mels, frames), np.float32)
    for start in range(0, len(waveforms), _BATCH):
        batch = waveforms[start : start + _BATCH]
        result[start : start + len(batch), 0] = _log_mel_batch(batch, config, frames)
    return result


def _log_mel_batch(waveforms: np.ndarray, config: LogMel, frames: int) -> np.ndarray:
    import scipy.fft

    signal = waveforms.astype(np.float32)
    if waveforms.dtype == np.int16:
        signal /= 32768.0
    signal = signal[:, 1:] - np.float32(config.pre_emphasis) * signal[:, :-1]
    signal = np.pad(signal, ((0, 0), (config.n_fft // 2,) * 2), mode="reflect")
    cut = np.lib.stride_tricks.sliding_window_view(signal, config.n_fft, axis=1)[:, :: config.hop][:, :frames]
    spectrum: Any = scipy.fft.rfft(cut * analysis_window(config), axis=-1)
    power = (np.real(spectrum) ** 2 + np.imag(spectrum) ** 2).reshape(-1, config.n_fft // 2 + 1)
    mel = _sparse_bank(config) @ power.T
    mel = mel.reshape(config.n_mels, len(waveforms), frames).transpose(1, 0, 2)
    return (np.log(mel + np.float32(config.log_offset)) + np.float32(config.shift)) / np.float32(config.scale)
