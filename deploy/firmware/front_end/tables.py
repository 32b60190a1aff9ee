# SPDX-License-Identifier: Apache-2.0
"""The numbers of a log-mel front end in C, from the definition that training uses: in float and in fixed point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.log_mel import LogMel, analysis_window, mel_filter_bank

_SHORTEST, _LONGEST = 64, 32768
#: Fractional bits: of samples, of factors in int16, of features.
_SAMPLE_BITS, _FACTOR_BITS, _FEATURE_BITS = 15, 15, 16
#: A twiddle or weight of 1 in int16: all of them are smaller by the same part, which the intercept makes good.
_ONE = 32767
#: That powers keep, all of a frame together: weighted and with the offset they fit into 64.
_POWER_BITS = 48
#: Of the feature of a power twice as large, and of the factor that makes steps of int8.
_SLOPE_BITS, _STEP_BITS = 24, 12


class NoFrontEnd(UsageError):
    """A definition that has no C, with the reason."""


@dataclass(frozen=True)
class Tables:
    """Arrays and scalars of `ep_log_mel`, by the name of its field.

    Attributes:
        shared: uint16 arrays that both forms read.
        floats, integers: arrays of either form: float32; int16 and uint8.
        numbers: integers that both forms read.
        float_numbers, integer_numbers: scalars of either form.
    """

    shared: Mapping[str, np.ndarray]
    floats: Mapping[str, np.ndarray]
    integers: Mapping[str, np.ndarray]
    numbers: Mapping[str, int]
    float_numbers: Mapping[str, float]
    integer_numbers: Mapping[str, int]


def refusal(config: LogMel) -> str | None:
    """Why a definition has no C, or None."""
    if config.n_fft & (config.n_fft - 1) or not _SHORTEST <= config.n_fft <= _LONGEST:
        return f"n_fft = {config.n_fft} is no power of two from {_SHORTEST} to {_LONGEST}"
    if not -1.0 < config.pre_emphasis < 1.0:
        return f"pre_emphasis = {config.pre_emphasis:g} is not between -1 and 1"
    return None


def radices(n_fft: int) -> tuple[int, ...]:
    """Of the passes of a complex transform of n_fft / 2 values: 8 first, then as many of 8 as leave no factor of 2."""
    left = n_fft.bit_length() - 2 - 3
    fours = (-left) % 3
    return (8,) + (4,) * fours + (8,) * ((left - 2 * fours) // 3)


def front_end_tables(config: LogMel, clip_samples: int, scale: float, zero_point: int) -> Tables:
    """Everything that `ep_log_mel` holds.

    Args:
        config: the definition of training.
        clip_samples: length of a clip, which gives the number of frames.
        scale, zero_point: of the network's int8 input: feature = scale * (int8 - zero_point).

    Raises:
        NoFrontEnd: the definition has no C.
    """
    if reason := refusal(config):
        raise NoFrontEnd(reason)
    passes = radices(config.n_fft)
    first, bins, weights = bands(config)
    # The falling half of an odd one is read down to the value before the first.
    odd = (config.n_fft - config.window) % 2
    window = np.pad(0.5 * analysis_window(config).astype(np.float64)[: config.n_fft // 2], (odd, 0))
    factors = np.concatenate([_twiddles(radix, span) for radix, span in _spans(passes)])
    quarter = np.cos(2 * np.pi * np.arange(config.n_fft // 4 + 1) / config.n_fft)
    arrays = {"window": window, "twiddles": factors, "quarter": quarter, "weights": weights.reshape(-1)}
    doublings, doubled = _doubled(config, bins, weights)
    floats = {**arrays, "window": window / 2**_SAMPLE_BITS}
    integers = {**arrays, "window": 2 * window, "weights": doubled.reshape(-1)}
    code = sum((radix == 8) << i for i, radix in enumerate(passes[1:])) | 1 << (len(passes) - 1)
    return Tables(
        {"order": _order(passes), "bins": bins},
        {name: array.astype(np.float32) for name, array in floats.items()},
        {
            **{name: _fixed(array) for name, array in integers.items()},
            "doublings": np.append(doublings, np.zeros(2, np.uint8)),
        },
        {
            "n_fft": config.n_fft,
            "hop": config.hop,
            "n_mels": config.n_mels,
            "frames": config.frames(clip_samples),
            "first_bin": first,
            "odd": odd,
            "passes": code,
            "clip_samples": clip_samples,
            "zero": zero_point,
        },
        {
            "pre_emphasis": config.pre_emphasis,
            "log_offset": config.log_offset,
            "slope": 1 / config.scale,
            "intercept": config.shift / config.scale,
            "to_int8": 1 / scale,
        },
        _integer_numbers(config, len(passes), scale),
    )


def bands(config: LogMel) -> tuple[int, np.ndarray, np.ndarray]:
    """The mel bank as runs of Fourier bins between the centres of neighbouring bands.

    Returns:
        The first bin; the number of bins of each run, uint16 [n_mels + 1]; for each bin its weights [bins, 2] in the
        band that ends in its run and in the one that begins there.
    """
    bank = mel_filter_bank(config)
    mel = 1127.0 * np.log1p(np.arange(config.n_fft // 2) * (config.sample_rate_hz / config.n_fft) / 700.0)
    low, high = (1127.0 * math.log1p(hertz / 700.0) for hertz in (config.fmin_hz, config.fmax_hz))
    edges = np.linspace(low, high, config.n_mels + 2)
    run = np.searchsorted(edges, mel, side="left") - 1  # of each bin; -1 and n_mels + 1 are outside
    inside = np.flatnonzero((run >= 0) & (run <= config.n_mels) & (np.arange(len(mel)) > 0))
    weights = np.zeros((len(inside), 2))
    for row, index in enumerate(inside):
        for side, number in ((0, run[index] - 1), (1, run[index])):
            if 0 <= number < config.n_mels:
                weights[row, side] = bank[number, index]
    counts = np.bincount(run[inside], minlength=config.n_mels + 1).astype(np.uint16)
    return int(inside[0]) if len(inside) else 1, counts, weights


def _doubled(config: LogMel, bins: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often the weights of each band can be doubled, uint8 [n_mels], and the weights after that."""
    run = np.repeat(np.arange(config.n_mels + 1), bins)
    largest = np.zeros(config.n_mels)
    ends, begins = run > 0, run < config.n_mels
    np.maximum.at(largest, run[ends] - 1, weights[ends, 0])
    np.maximum.at(largest, run[begins], weights[begins, 1])
    doublings = np.clip(np.floor(-np.log2(np.maximum(largest, 2.0**-15))), 0, 15).astype(np.uint8)
    doublings[largest == 0] = 0
    factors = 2.0**doublings
    doubled = weights.copy()
    doubled[ends, 0] *= factors[run[ends] - 1]
    doubled[begins, 1] *= factors[run[begins]]
    return doublings, doubled


def _fixed(values: np.ndarray) -> np.ndarray:
    return np.round(_ONE * values).astype(np.int16)


def _order(passes: tuple[int, ...]) -> np.ndarray:
    """The first input of every butterfly of the first pass: digits of its number, the last pass's being the lowest."""
    found = np.zeros(math.prod(passes[1:]), np.int64)
    index = np.arange(len(found))
    weight = math.prod(passes[1:])
    for radix in passes[1:]:
        weight //= radix
        found += (index % radix) * weight
        index //= radix
    return found.astype(np.uint16)


def _spans(passes: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(radix, math.prod(passes[:i])) for i, radix in enumerate(passes)][1:]


def _twiddles(radix: int, span: int) -> np.ndarray:
    """[span, radix - 1, 2] as one row: exp(-2 pi i j k / (radix * span))."""
    angle = -2 * np.pi * np.outer(np.arange(span), np.arange(1, radix)) / (radix * span)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1).reshape(-1)


def _integer_numbers(config: LogMel, passes: int, scale: float) -> dict[str, int]:
    """Shifts that no sample can make overflow.

    A value of a transform is at most the sum of the inputs' sizes, and all powers together are, after Parseval, half of
    n_fft times the sum of the inputs' squares.
    """
    window, gain = analysis_window(config).astype(np.float64), 1 + abs(config.pre_emphasis)
    largest = gain * max(1.0, float(window.sum()))
    power = max(largest**2, gain**2 * config.n_fft / 2 * float(np.square(window).sum()))
    halvings = passes - 1
    shift = min(14, math.floor(30.99 - _SAMPLE_BITS - math.log2(largest) + halvings))
    unit_bits = _SAMPLE_BITS + shift - halvings - 1  # of a number of the real transform
    power_shift = max(0, math.ceil(math.log2(power) + 2 * unit_bits) - _POWER_BITS)
    sum_bits = 2 * unit_bits - power_shift + _FACTOR_BITS
    slope = math.log(2) / config.scale
    lost = math.log2(_ONE / 2**_FACTOR_BITS) * (
        2 * (passes + 1) + 1
    )  # window, passes, real transform, squared; weights
    return {
        "pre_emphasis": round(config.pre_emphasis * 2**15),
        "value_shift": shift,
        "power_shift": power_shift,
        "log_offset": max(1, round(config.log_offset * 2.0 ** (sum_bits + lost))),
        "slope": round(slope * 2**_SLOPE_BITS),
        "intercept": round((config.shift / config.scale - slope * (sum_bits + lost)) * 2**_FEATURE_BITS),
        "to_int8": round(2**_STEP_BITS / scale),
    }
