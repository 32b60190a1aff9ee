"""The log-mel front end in C: golden features of training and of an independent Fourier transform, pieces, streams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edgepress.deploy.firmware.front_end.tables import bands, front_end_tables, radices
from edgepress.deploy.firmware.listening import HostEar
from edgepress.deploy.firmware.sources import Firmware, firmware
from edgepress.models.tasks.front_ends.log_mel import MEL22, PRESETS, LogMel, analysis_window, log_mel, mel_filter_bank
from tests.deploy.integer_networks import Builder

SMALL = LogMel(sample_rate_hz=8000, n_fft=256, window=200, hop=100, n_mels=16, fmax_hz=4000)
SCALE, ZERO = 0.016, -20
#: Of the fixed-point form: bands that lie far below the loudest ones may be farther off, since factors have 16 bits.
FIXED_TOLERANCE = 0.03


def identity(config: LogMel, frames: int, scale: float = SCALE, zero: int = ZERO) -> bytes:
    """A network that gives its input back, so that its output is the front end's."""
    builder = Builder()
    builder.inputs.append(builder.tensor((1, config.n_mels, frames, 1), scale, zero))
    y = builder.like((1, config.n_mels, frames, 1), builder.inputs[0])
    window = {"padding": 1, "strideH": 1, "strideW": 1, "filterHeight": 1, "filterWidth": 1}
    builder.operator("MAX_POOL_2D", builder.inputs, [y], "Pool2DOptions", fusedActivationFunction=0, **window)
    return builder.finished([y])


def hearing(config: LogMel, samples: int) -> Firmware:
    made = firmware(identity(config, config.frames(samples)), front_end=config)
    assert made.front_end is not None, made.deaf
    return made


def exact(clips: np.ndarray, config: LogMel) -> np.ndarray:
    """The definition, with numpy's transform in float64: [N, n_mels, frames]."""
    x = clips.astype(np.float64) / (32768 if clips.dtype == np.int16 else 1)
    y = np.pad(x[:, 1:] - config.pre_emphasis * x[:, :-1], ((0, 0), (config.n_fft // 2,) * 2), mode="reflect")
    starts = config.hop * np.arange(config.frames(clips.shape[1]))
    cut = np.stack([y[:, s : s + config.n_fft] for s in starts], axis=1) * analysis_window(config)
    power = np.abs(np.fft.rfft(cut)) ** 2
    bank = mel_filter_bank(config).astype(np.float64)
    return ((np.log(power @ bank.T + config.log_offset) + config.shift) / config.scale).transpose(0, 2, 1)


def quantized(features: np.ndarray) -> np.ndarray:
    return np.clip(np.round(features / np.float32(SCALE)) + ZERO, -128, 127).astype(np.int8)


def by_clip(features: np.ndarray, count: int) -> np.ndarray:
    """[frames of all clips, n_mels] as [N, n_mels, frames]."""
    return features.reshape(count, -1, features.shape[1]).transpose(0, 2, 1)


def sounds(samples: int, seed: int = 0) -> np.ndarray:
    """Noise, a chirp over noise, clicks, silence after speech-like bursts: float32 [4, samples]."""
    rng, t = np.random.default_rng(seed), np.arange(samples)
    made = np.stack(
        [
            rng.uniform(-0.3, 0.3, samples),
            0.2 * np.sin(t * (0.01 + 1e-5 * t)) + 0.003 * rng.normal(size=samples),
            0.01 * rng.normal(size=samples) + 0.8 * (t % 997 == 0),
            rng.normal(size=samples) * 0.2 * (t < samples // 2),
        ]
    )
    return made.astype(np.float32)


@pytest.mark.parametrize(("name", "kind"), [("mel22", "float32"), *((name, "int16") for name in sorted(PRESETS))])
def test_features_of_training(name, kind):
    config = PRESETS[name]
    rate = config.sample_rate_hz
    clips = sounds(rate)
    if kind == "int16":
        clips = np.round(clips * 32767).astype(np.int16)
    with HostEar(hearing(config, rate)) as ear:
        heard = ear.hear(clips.reshape(-1))
    wanted = log_mel(clips, config)[:, 0]
    got = by_clip(heard.features, len(clips))
    assert np.abs(got - wanted).max() < 1e-4
    assert np.abs(got - exact(clips, config)).max() < 1e-4
    # What the network is given are these features, rounded.
    np.testing.assert_array_equal(heard.decisions.reshape(got.shape), quantized(got))
    assert np.mean(heard.decisions.reshape(got.shape) != quantized(wanted)) < 1e-3


@pytest.mark.parametrize("name", ["mel22", "mel23", "melpasst"])
def test_fixed_point_is_near(name):
    config = PRESETS[name]
    clips = np.round(sounds(config.sample_rate_hz) * 32767).astype(np.int16)
    with HostEar(hearing(config, config.sample_rate_hz), fixed_point=True) as ear:
        heard = ear.hear(clips.reshape(-1))
    got = by_clip(heard.features, len(clips))
    difference = np.abs(got - log_mel(clips, config)[:, 0])
    assert difference.max() < FIXED_TOLERANCE
    assert difference.mean() < 1e-3
    apart = heard.decisions.reshape(got.shape).astype(int) - quantized(got)
    assert np.abs(apart).max() <= 1  # ties
    assert np.mean(apart != 0) < 1e-3


@pytest.mark.parametrize("fixed_point", [False, True])
def test_the_limits_of_samples_overflow_nothing(fixed_point):
    rng, samples = np.random.default_rng(3), 4000
    loudest = np.stack(
        [
            np.full(samples, -32768),
            np.where(np.arange(samples) % 2, 32767, -32768),
            np.where(np.sin(np.arange(samples) * 2 * np.pi * 20 / 256) >= 0, 32767, -32768),
            rng.choice([-32768, 32767], samples),
            np.zeros(samples),
        ]
    ).astype(np.int16)
    with HostEar(hearing(SMALL, samples), fixed_point=fixed_point, sanitize=True) as ear:
        got = by_clip(ear.hear(loudest.reshape(-1)).features, len(loudest))
    wanted = exact(loudest, SMALL)
    # Where a band is within 70 dB of the frame's loudest one: below it, 16-bit factors and float32 are noisy.
    loud = wanted > wanted.max(axis=1, keepdims=True) - np.log(1e7) / SMALL.scale
    assert np.abs(got - wanted)[loud].max() < (0.05 if fixed_point else 1e-4)
    np.testing.assert_allclose(got[-1], (np.log(1e-5) + 4.5) / 5, atol=1e-4)


@pytest.mark.slow
# Without shrinking, since every example is compiled.
@settings(max_examples=8, phases=[Phase.generate])
@given(
    samples=st.integers(700, 4000),
    hop=st.integers(3, 700),
    window=st.integers(100, 256),
    n_mels=st.integers(1, 60),
    log2=st.integers(0, 3),
    at_once=st.integers(1, 5000),
    low=st.sampled_from([0.0, 500.0]),
    fixed_point=st.booleans(),
)
def test_any_definition_in_any_pieces(samples, hop, window, n_mels, log2, at_once, low, fixed_point):
    n_fft = 256 << log2 >> 1
    config = LogMel(
        sample_rate_hz=8000, n_fft=n_fft, window=min(window, n_fft), hop=hop, n_mels=n_mels, fmin_hz=low, fmax_hz=3900
    )
    made = hearing(config, samples)
    assert made.front_end is not None
    # A length that gives as many frames: the network does not say which.
    clips = sounds(made.front_end.clip_samples, samples)
    with HostEar(made, fixed_point=fixed_point, sanitize=True) as ear:
        heard = ear.hear(clips.reshape(-1), at_once=at_once)
    got = by_clip(heard.features, len(clips))
    assert np.abs(got - exact(clips, config)).max() < (0.1 if fixed_point else 2e-4)


@pytest.mark.parametrize("every", [1, 7, 40, 100])
def test_a_stream_decides_about_the_last_frames(every):
    samples, seconds = 4000, 4
    made = hearing(SMALL, samples)
    stream = np.concatenate([sounds(samples, seed)[0] for seed in range(seconds)])
    frames = SMALL.frames(samples)
    with HostEar(made, sanitize=True) as ear:
        heard = ear.hear(stream, every_frames=every, at_once=90)
        again = ear.hear(stream, every_frames=every, at_once=1)
    wanted = log_mel(stream[None], SMALL)[0, 0]
    complete = heard.features.shape[0]  # the others reach over the end
    assert complete == (len(stream) - 1 - SMALL.n_fft // 2) // SMALL.hop + 1
    assert np.abs(heard.features.T - wanted[:, :complete]).max() < 1e-4
    ends = np.arange(frames, complete + 1, every)
    assert len(heard.decisions) == len(ends)
    for decision, end in zip(heard.decisions, ends, strict=True):
        columns = quantized(heard.features[end - frames : end].T)
        np.testing.assert_array_equal(decision.reshape(columns.shape), columns)
    np.testing.assert_array_equal(again.decisions, heard.decisions)


def test_tables_by_hand():
    # 64 values of a complex transform: 8 * 8; 128: 8 * 4 * 4; 1,024: 8 * 4 * 4 * 8.
    assert [radices(n) for n in (64, 128, 256, 2048)] == [(8, 4), (8, 8), (8, 4, 4), (8, 4, 4, 8)]
    tables = front_end_tables(replace(SMALL, n_fft=64, window=64), 8000, SCALE, ZERO)
    assert tables.shared["order"].tolist() == [0, 1, 2, 3]  # of 32 values the last pass takes four neighbours
    assert tables.numbers["passes"] == 0b10  # one pass of radix 4
    assert tables.float_numbers["slope"] == pytest.approx(0.2)
    # 2 bands up to 4 kHz, bins of 500 Hz; centres at 620.5 and 1791 Hz: bin 1 | bins 2 and 3 | bins 4 to 7.
    first, counts, weights = bands(LogMel(8000, 16, 16, 8, 2, fmax_hz=4000))
    assert (first, counts.tolist()) == (1, [1, 2, 4])
    np.testing.assert_allclose(weights[1:3].sum(axis=1), 1, atol=1e-6)  # what one band loses, the next one gains
    assert weights[0, 0] == 0
    assert weights[-1, 1] == 0


@pytest.mark.parametrize("config", [*PRESETS.values(), SMALL, replace(SMALL, n_mels=200, fmin_hz=300.0)])
def test_runs_of_bins_are_the_bank(config):
    bank, (first, counts, weights) = mel_filter_bank(config), bands(config)
    again, run = np.zeros_like(bank), np.repeat(np.arange(config.n_mels + 1), counts)
    for row, (number, pair) in enumerate(zip(run, weights, strict=True)):
        for band, weight in ((number - 1, pair[0]), (number, pair[1])):
            if 0 <= band < config.n_mels:
                again[band, first + row] += weight
    np.testing.assert_array_equal(again, bank)


def test_what_has_no_front_end_says_why():
    assert (
        "n_fft = 400 is no power of two"
        in firmware(identity(replace(SMALL, n_fft=400), 40), front_end=replace(SMALL, n_fft=400)).deaf
    )
    assert (
        "[16 bands, frames] and the network takes [1, 20, 4, 1]"
        in firmware(identity(replace(SMALL, n_mels=20), 4), front_end=SMALL).deaf
    )
    assert firmware(identity(MEL22, 44), front_end=MEL22).front_end.clip_samples == 32000  # type: ignore[union-attr]
    assert firmware(identity(SMALL, 40)).deaf == ""
