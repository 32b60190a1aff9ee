"""The log-mel front end: golden arrays of the published code, torch against NumPy, definitions worked by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.models.errors import UsageError
from edgepress.models.tasks.front_ends.log_mel import (
    MEL16K,
    MEL22,
    MEL23,
    MELPASST,
    PRESETS,
    LogMel,
    analysis_window,
    log_mel,
    mel_filter_bank,
)
from edgepress.models.tasks.front_ends.log_mel_torch import log_mel_torch

SMALL = LogMel(sample_rate_hz=8000, n_fft=256, window=200, hop=100, n_mels=16, fmax_hz=4000)


@pytest.mark.parametrize(("name", "config"), [("mel22", MEL22), ("mel23", MEL23), ("melpasst", MELPASST)])
def test_golden_features_of_the_published_code(shared, name, config):
    waveforms = np.load(shared / "data/golden/logmel.npz")["waveform_32k"][:2]
    golden = np.load(shared / "data/golden/golden.npz")[name]
    ours = log_mel(waveforms, config)[:, 0]
    assert ours.shape == golden.shape == (2, *config.shape(32000)[1:])
    assert np.abs(ours - golden).max() < 1e-5


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_torch_equals_numpy(name):
    config = PRESETS[name]
    waveforms = np.random.default_rng(0).uniform(-0.3, 0.3, (3, config.sample_rate_hz)).astype(np.float32)
    waveforms[1, 5000:] = 0  # silence, where the logarithm magnifies every difference
    ours, theirs = log_mel(waveforms, config), log_mel_torch(config)(_tensor(waveforms))
    assert theirs.shape == ours.shape == (3, *config.shape(config.sample_rate_hz))
    assert np.abs(theirs.numpy() - ours).max() < 1e-4


def test_torch_stays_in_float32_under_autocast_and_has_an_empty_state():
    import torch

    module, waveforms = log_mel_torch(SMALL), torch.randn(2, 4000)
    with torch.autocast("cpu", torch.bfloat16):
        under = module(waveforms)
    assert under.dtype == torch.float32
    assert torch.equal(under, module(waveforms))
    assert not module.state_dict()


def test_integers_are_divided_by_32768():
    integers = np.random.default_rng(1).integers(-20000, 20000, (2, 4000)).astype(np.int16)
    real = log_mel((integers / 32768).astype(np.float32), SMALL)
    assert np.array_equal(log_mel(integers, SMALL), real)
    assert np.abs(log_mel_torch(SMALL)(_tensor(integers)).numpy() - real).max() < 1e-4


def test_silence_is_the_logarithm_of_the_offset():
    expected = (np.log(1e-5) + 4.5) / 5
    assert np.allclose(log_mel(np.zeros((1, 4000), np.float32), SMALL), expected, atol=1e-6)


def test_a_tone_lands_in_its_band():
    config = LogMel(sample_rate_hz=16000, n_fft=1024, window=1024, hop=500, n_mels=40, fmax_hz=8000)
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)[None].astype(np.float32)
    # mel(1000 Hz) = 1127 ln(1 + 1000/700) = 1000.0; the 40 centres are mel(8000) / 41 = 69.27 apart: the 14th.
    assert int(np.argmax(log_mel(tone, config)[0, 0].mean(1))) == 13


def test_filter_bank_by_hand():
    # Two bands from 0 to 4000 Hz: edges on the mel scale at 0, 715.37, 1430.73, 2146.10; in hertz 0, 620.5, 1791, 4000.
    bank = mel_filter_bank(LogMel(sample_rate_hz=8000, n_fft=16, window=16, hop=8, n_mels=2, fmax_hz=4000))
    assert bank.shape == (2, 9)
    mel = 1127 * np.log(1 + np.array([500.0, 1000.0]) / 700)
    width = 1127 * np.log(1 + 4000 / 700) / 3
    assert bank[0, 1] == pytest.approx(mel[0] / width, abs=1e-6)  # 500 Hz on the rising side
    assert bank[0, 2] == pytest.approx((2 * width - mel[1]) / width, abs=1e-6)
    assert bank[1, 2] == pytest.approx((mel[1] - width) / width, abs=1e-6)
    assert bank[:, 0].tolist() == [0, 0]
    assert bank[:, 8].tolist() == [0, 0]


def test_window_sits_in_the_middle():
    window = analysis_window(SMALL)
    assert window.shape == (256,)
    assert not window[:28].any()
    assert not window[-28:].any()
    assert np.allclose(window, window[::-1])


def test_frames_and_shapes():
    assert [config.shape(32000) for config in (MEL22, MEL23, MELPASST)] == [(1, 256, 44), (1, 256, 64), (1, 128, 100)]
    assert MEL16K.shape(16000) == (1, 128, 32)
    with pytest.raises(UsageError, match="at least 130 samples"):
        SMALL.frames(129)
    assert log_mel(np.zeros((0, 4000), np.float32), SMALL).shape == (0, 1, 16, 40)


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(400, 3000), hop=st.integers(7, 300), window=st.integers(2, 256), n_mels=st.integers(1, 60))
def test_any_definition_gives_the_announced_shape_and_equals_torch(samples, hop, window, n_mels):
    config = LogMel(sample_rate_hz=8000, n_fft=256, window=window, hop=hop, n_mels=n_mels, fmax_hz=3900)
    waveforms = np.random.default_rng(samples).uniform(-1, 1, (2, samples)).astype(np.float32)
    ours = log_mel(waveforms, config)
    assert ours.shape == (2, *config.shape(samples))
    assert np.abs(ours - log_mel_torch(config)(_tensor(waveforms)).numpy()).max() < 1e-4


def test_definition_survives_json():
    for config in (MEL22, MEL23, SMALL):
        assert LogMel.from_json(config.to_json()) == config
        assert LogMel(**config.to_json()) == config
    with pytest.raises(UsageError, match="'n_bands'"):
        LogMel.from_json({"n_bands": 4})
    with pytest.raises(UsageError, match="no log-mel definition"):
        LogMel.from_json([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 0}, "hop = 0 must be an integer from 1"),
        ({"n_fft": 4097}, "n_fft = 4097 must be even"),
        ({"window": 4096}, "window = 4096 must be an integer from 2 to 2048"),
        ({"n_mels": 2.5}, "n_mels = 2.5"),
        ({"fmax_hz": 17000}, "half of sample_rate_hz"),
        ({"fmin_hz": 16000}, "fmin_hz < fmax_hz"),
        ({"log_offset": 0}, "log_offset = 0 must be positive"),
        ({"shift": float("nan")}, "finite"),
        ({"scale": 0}, "not zero"),
        ({"sample_rate_hz": True}, "sample_rate_hz = True"),
    ],
)
def test_bad_definitions_are_named(change, message):
    with pytest.raises(UsageError, match=message):
        LogMel(**change)


@pytest.mark.parametrize("waveforms", [np.zeros(4000, np.float32), np.zeros((1, 4000), np.int32)])
def test_bad_waveforms_are_refused(waveforms):
    with pytest.raises(UsageError, match="waveforms must be"):
        log_mel(waveforms, SMALL)


def test_features_need_no_torch():
    code = (
        "import sys, numpy as np; from edgepress.models.tasks import load_task, log_mel, LogMel, evaluate;"
        "log_mel(np.zeros((1, 32000), np.float32), LogMel()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _tensor(array: np.ndarray):
    import torch

    return torch.from_numpy(array)
